"""Object stores by URL, s3://bucket/key: one place for endpoint and credentials, deadlines, and failures in one sentence.

The same settings serve pyarrow, which reads the objects of sources, and deltalake, which keeps a log (`options`). They
travel with the source to the workers; whoever reads says `with using(source.storage)`, and what is read by path inside
finds them. An object is what it was as long as its etag is.
"""

import contextlib
import contextvars
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa

from pipelines.errors import InputError, NoInput, PartFailed, SpecError
from pipelines.names import did_you_mean

__all__ = ["Object", "Storage", "found", "is_answer", "is_url", "opened", "state", "told", "using"]

SCHEME = "s3://"
_OTHERS = (
    "gs",
    "gcs",
    "az",
    "azure",
    "abfs",
    "abfss",
    "adl",
    "http",
    "https",
    "ftp",
    "hdfs",
    "file",
    "s3a",
    "s3n",
)
_VARIABLES = {
    "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "key": ("AWS_ACCESS_KEY_ID",),
    "secret": ("AWS_SECRET_ACCESS_KEY",),
    "token": ("AWS_SESSION_TOKEN",),
}
_AT_ONCE = 16  # requests for the state of objects: each is a round trip


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How object stores are reached: [storage] of a pipeline file; what is not said there is asked of the environment.

    Raises: SpecError for half a pair of credentials, or an endpoint that is no URL.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    endpoint: str | None = None  # "https://host:port"; None: Amazon's, by region
    region: str | None = None
    key: str | None = dataclasses.field(default=None, repr=False)
    secret: str | None = dataclasses.field(default=None, repr=False)
    token: str | None = dataclasses.field(default=None, repr=False)
    anonymous: bool = False  # a public bucket: no credentials are looked for
    connect_s: float = 5.0
    request_s: float = 30.0  # without a byte
    attempts: int = 3

    def __post_init__(self) -> None:
        problems = []
        if (self.key is None) != (self.secret is None):
            problems.append("key and secret belong together; give both or none")
        if self.anonymous and self.key is not None:
            problems.append("anonymous contradicts key and secret; leave out one of them")
        if self.endpoint is not None and not re.fullmatch(r"https?://[^/@?#]+/?", self.endpoint):
            problems.append(
                'endpoint is no address; expected "https://host:port" without user, password or path'
            )
        problems += [
            f"{name} = {getattr(self, name)!r}: expected {least} to {most}"
            for name, least, most in (("connect_s", 0.1, 600), ("request_s", 1, 3600), ("attempts", 1, 20))
            if not least <= getattr(self, name) <= most
        ]
        if problems:
            raise SpecError(*problems)

    def complete(self) -> "Storage":
        """With what the environment of this process says of the rest; credentials are taken as a whole."""
        given = {
            name: next((os.environ[one] for one in variables if os.environ.get(one)), None)
            for name, variables in _VARIABLES.items()
        }
        if self.key is not None or self.anonymous:
            given |= {"key": self.key, "secret": self.secret, "token": self.token}
        said: dict[str, Any] = {name: getattr(self, name) or value for name, value in given.items()}
        if said["region"] is None and said["endpoint"] is not None:
            said["region"] = "us-east-1"  # what stores that have none expect
        return dataclasses.replace(self, **said)

    def options(self) -> dict[str, str]:
        """The same for deltalake."""
        said = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_SESSION_TOKEN": self.token,
            "AWS_ALLOW_HTTP": "true" if (self.endpoint or "").startswith("http://") else None,
            "AWS_SKIP_SIGNATURE": "true" if self.anonymous else None,
            "connect_timeout": f"{self.connect_s:g}s",
            "timeout": f"{self.request_s:g}s",
        }
        return {name: value for name, value in said.items() if value is not None}


class Object(NamedTuple):
    """An object and its state."""

    url: str
    size: int
    mtime_ns: int
    etag: str


_current: contextvars.ContextVar[Storage | None] = contextvars.ContextVar("storage", default=None)


def is_url(path: str) -> bool:
    """Whether a path is one of an object store.

    Raises: SpecError for a URL of another kind.

    >>> is_url("s3://bucket/a.csv"), is_url("data/a.csv")
    (True, False)
    """
    scheme, mark, _ = path.partition("://")
    if not mark or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return False
    if scheme != "s3":
        hint = did_you_mean(scheme, ["s3"]) if scheme not in _OTHERS else ""
        raise SpecError(
            f"path begins with {scheme}://, which is not read; expected a local path or s3://bucket/key{hint}"
        )
    return True


@contextlib.contextmanager
def using(storage: Storage | None) -> Iterator[None]:
    """Objects that are read inside are reached by these settings; those of the environment where there are none."""
    token = _current.set(storage)
    try:
        yield
    finally:
        _current.reset(token)


def found(url: str, ends: tuple[str, ...]) -> list[Object]:
    """The objects of a URL, in order: one object, those below a folder whose names end so, or those of a glob.

    Raises: NoInput if there is none; InputError if there is no such bucket or it may not be read; PartFailed if the store cannot be reached.
    """
    from pyarrow import fs  # noqa: PLC0415

    with told(url):
        key = url.removeprefix(SCHEME)
        bucket = key.partition("/")[0]
        if not bucket or re.search(r"[*?\[]", bucket):
            raise InputError(f"{url}: there is no bucket in it; expected s3://bucket/key")
        store = _filesystem(_storage())
        folder = False
        if re.search(r"[*?\[]", key):
            base = re.split(r"[*?\[]", key, maxsplit=1)[0].rpartition("/")[0]
            pattern = re.compile(_regular(key))
            infos = store.get_file_info(fs.FileSelector(base, recursive=True))
            names = [
                one.path for one in infos if one.type == fs.FileType.File and pattern.fullmatch(one.path)
            ]
        else:
            info = store.get_file_info(key.rstrip("/"))
            names = [info.path] if info.type == fs.FileType.File else []
            folder = info.type == fs.FileType.Directory
            if folder:
                infos = store.get_file_info(fs.FileSelector(info.path))
                names = [one.path for one in infos if one.type == fs.FileType.File]
                names = [
                    one
                    for one in names
                    if one.lower().endswith(ends) and one.rpartition("/")[2][0] not in "._"
                ]
        if not names:
            _check_bucket(store, url, bucket)
            wanted = f"an object that ends in {', '.join(ends[::3])}" if folder else "an object of this name"
            raise NoInput(f"{url}: no input; expected {wanted}; {_there(store, key, bucket)}")
        states: Callable[[str], Object] = functools.partial(_state, store)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(states, sorted(names)))


def state(url: str) -> Object:
    """The state of an object.

    Raises: FileNotFoundError if it is gone; else as `found`.
    """
    with told(url):
        return _state(_filesystem(_storage()), url.removeprefix(SCHEME))


def opened(url: str) -> pa.NativeFile:
    """An object, to be read at any place."""
    with told(url):
        return _filesystem(_storage()).open_input_file(url.removeprefix(SCHEME))


@contextlib.contextmanager
def told(url: str) -> Iterator[None]:
    """What the store says, in one sentence.

    Raises: InputError if the settings or the URL are wrong; PartFailed if the store does not answer.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        said = str(error)
        if not is_answer(error):
            raise
        bucket = url.removeprefix(SCHEME).partition("/")[0]
        endpoint = _storage().endpoint or "Amazon S3"
        if "NO_SUCH_BUCKET" in said:
            raise InputError(f"{url}: {_no_bucket(bucket)}") from error
        if re.search(
            r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|INVALID_CLIENT_TOKEN|TOKEN|HTTP status 40[13]", said
        ):
            raise InputError(
                f"{url}: {endpoint} refuses these credentials or their rights ({_code(said)}); correct key and secret in [storage] or "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or set anonymous = true for a public bucket"
            ) from error
        if "NETWORK_CONNECTION" in said or "curlCode" in said:
            why = re.search(r"curlCode: \d+, ([^;]+)", said)
            raise PartFailed(
                f"{url}: {endpoint} cannot be reached: {why[1] if why else 'no answer'}; check endpoint in [storage], and that the store runs"
            ) from error
        raise PartFailed(f"{url}: {endpoint} failed: {_code(said)}; run again to continue") from error


def _check_bucket(store: Any, url: str, bucket: str) -> None:
    if store.get_file_info(bucket).type.name == "NotFound":
        raise InputError(f"{url}: {_no_bucket(bucket)}")


def _no_bucket(bucket: str) -> str:
    return f"there is no bucket {bucket!r} at {_storage().endpoint or 'Amazon S3'}; correct path, or endpoint in [storage]"


def _there(store: Any, key: str, bucket: str) -> str:
    """What is below the nearest prefix that has anything."""
    from pyarrow import fs  # noqa: PLC0415

    folder = re.split(r"[*?\[]", key, maxsplit=1)[0].rstrip("/")
    infos: list[Any] = []
    while not infos:
        infos = store.get_file_info(fs.FileSelector(folder, allow_not_found=True))
        if folder == bucket:
            break
        folder = folder if infos else folder.rpartition("/")[0]
    names = sorted(one.base_name + "/" * (one.type == fs.FileType.Directory) for one in infos)
    more = f" and {len(names) - 8:,} more" if len(names) > 8 else ""
    return f"{SCHEME}{folder} has {', '.join(names[:8]) or 'nothing'}{more}"


def is_answer(error: OSError) -> bool:
    """Whether it is what a store, or the way to it, answered, and not a disk or a library.

    >>> is_answer(OSError("When reading: AWS Error SLOW_DOWN")), is_answer(OSError(28, "No space left on device"))
    (True, False)
    """
    return "AWS Error" in str(error)


def _storage() -> Storage:
    return _current.get() or Storage().complete()


@functools.cache
def _filesystem(storage: Storage) -> Any:
    """One per process: it holds connections, which all threads may use."""
    from pyarrow import fs  # noqa: PLC0415

    scheme, _, host = (storage.endpoint or "https://").rstrip("/").partition("://")
    return fs.S3FileSystem(
        access_key=storage.key,
        secret_key=storage.secret,
        session_token=storage.token,
        anonymous=storage.anonymous,
        region=storage.region,
        scheme=scheme,
        endpoint_override=host or None,
        connect_timeout=storage.connect_s,
        request_timeout=storage.request_s,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=storage.attempts),
    )


def _state(store: Any, key: str) -> Object:
    with store.open_input_file(key) as file:
        said = file.metadata()
        size = file.size()
    [info] = store.get_file_info([key])
    etag = said.get("ETag", said.get(b"ETag", b""))
    etag = etag.decode() if isinstance(etag, bytes) else etag
    return Object(f"{SCHEME}{key}", size, info.mtime_ns or 0, etag.strip('"'))


def _code(said: str) -> str:
    message = re.search(r"AWS Error (\w+)", said)
    status = re.search(r"HTTP status \d+", said)
    return (
        ", ".join(one[0].removeprefix("AWS Error ") for one in (message, status) if one)
        or said.partition("\n")[0]
    )


def _regular(glob: str) -> str:
    """A glob as a regular expression: * stays below one '/', ** does not.

    >>> bool(re.fullmatch(_regular("b/**/x*.csv"), "b/1/2/xy.csv")), bool(re.fullmatch(_regular("b/*.csv"), "b/1/a.csv"))
    (True, False)
    """
    made = ""
    for piece in re.findall(r"\*\*/?|\*|\?|\[!?\]?[^\]]*\]|.", glob, re.DOTALL):
        match piece:
            case "**/":
                made += "(?:.*/)?"
            case "**":
                made += ".*"
            case "*":
                made += "[^/]*"
            case "?":
                made += "[^/]"
            case _ if len(piece) > 1:
                made += (
                    "[" + ("^" if piece[1] == "!" else "") + piece[1:].removeprefix("!").replace("\\", "\\\\")
                )
            case _:
                made += re.escape(piece)
    return made
