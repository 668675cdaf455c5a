"""An object that is put only if there is none of its name: the compare-and-swap of a log that lies in an object store.

deltalake does the same for the entries that it writes. This is for those that it cannot write, and for the probe
which finds out whether a store keeps the condition at all. A request is one signed PUT with `If-None-Match: *`.

Source: AWS Signature Version 4, "Create a signed AWS API request"; S3 "PutObject".
"""

import datetime as dt
import hashlib
import hmac
import http.client
import uuid
from typing import Any
from urllib.parse import quote, urlsplit

from pipelines.access import SCHEME, Storage, filesystem, storage_of
from pipelines.errors import PipelineError

__all__ = ["check_conditional", "put_if_absent"]

_PROVED: set[str] = set()


def put_if_absent(url: str, content: bytes) -> None:
    """Put an object, if there is none.

    Raises: FileExistsError if there is one, or another writer puts one just now. OSError for any other answer, or none:
    then the object may be there. PipelineError without a key to sign with.
    """
    storage = storage_of(url)
    status, answer = _put(storage, url, content)
    if status in {409, 412}:  # 409: two at the same time, this one was not taken
        raise FileExistsError(17, "there is an object of this name", url)
    if status != 200:
        raise OSError(
            5, f"{storage.endpoint or 'Amazon S3'} answers {status} to a conditional put: {answer}", url
        )


def check_conditional(root: str) -> None:
    """Nothing, if the store at `root` refuses to put an object that is there when it is told to; asked once per process.

    Raises: PipelineError.
    """
    storage = storage_of(root)
    if root in _PROVED or (storage.key is None and storage.endpoint is None):  # Amazon's own does
        return
    probe = f"{root}/_dlflow/probe-{uuid.uuid4().hex}"
    first, answer = _put(storage, probe, b"1")
    second, _ = _put(storage, probe, b"2") if first == 200 else (0, "")
    store = filesystem(storage)
    if first == 200:
        store.delete_file(probe.removeprefix(SCHEME))
    if (first, second) != (200, 412):
        said = f"answers {first} ({answer})" if first != 200 else "put an object a second time"
        raise PipelineError(
            f"{root}: {storage.endpoint or 'Amazon S3'} {said} when asked to put one only if there is none (If-None-Match), "
            "expected a refusal of the second: without it two writers overwrite each other's commits; use a store that knows it, "
            "or a folder as the warehouse"
        )
    _PROVED.add(root)


def _put(storage: Storage, url: str, content: bytes) -> tuple[int, str]:
    """The status, and what the store says of a failure."""
    bucket, _, key = url.removeprefix(SCHEME).partition("/")
    if storage.endpoint is None:
        place = urlsplit(f"https://{bucket}.s3.{storage.region or 'us-east-1'}.amazonaws.com")
        path = f"/{quote(key, safe='/-_.~')}"
    else:
        place = urlsplit(storage.endpoint)
        path = f"/{bucket}/{quote(key, safe='/-_.~')}"
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    link = kind(place.netloc, timeout=storage.connect_s)
    try:
        link.connect()
        link.sock.settimeout(storage.request_s)
        link.request("PUT", path, content, _signed(storage, place.netloc, path, content))
        answer = link.getresponse()
        return answer.status, " ".join(answer.read().decode("utf-8", "replace").split())[:300]
    except http.client.HTTPException as error:
        raise OSError(5, f"the connection was cut ({error!r})", url) from error
    finally:
        link.close()


def _signed(storage: Storage, host: str, path: str, content: bytes) -> dict[str, str]:
    """The headers of the request."""
    if storage.key is None or storage.secret is None:
        raise PipelineError(
            f"{host}{path}: columns or partitioning of a table in an object store change by a signed request, expected key and "
            "secret in [storage] or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; give them"
        )
    now = dt.datetime.now(dt.UTC)
    time, day = f"{now:%Y%m%dT%H%M%SZ}", f"{now:%Y%m%d}"
    digest = hashlib.sha256(content).hexdigest()
    headers = {"host": host, "if-none-match": "*", "x-amz-content-sha256": digest, "x-amz-date": time}
    if storage.token is not None:
        headers["x-amz-security-token"] = storage.token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    asked = f"PUT\n{path}\n\n{lines}\n{names}\n{digest}"
    scope = f"{day}/{storage.region or 'us-east-1'}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
    key: Any = f"AWS4{storage.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    said = f"Credential={storage.key}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**headers, "authorization": f"AWS4-HMAC-SHA256 {said}"}
