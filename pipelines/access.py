"""How object stores are reached: endpoint, credentials and deadlines, said in one place for sources and warehouses.

The same settings serve pyarrow, which reads and writes objects, and deltalake, which keeps a log (`options`). For a URL
they are looked for in this order: what the warehouse that lies there was mounted with, what `using` says, the environment.
They travel to the workers with the source, or with the task (`carried`).
"""

import contextlib
import contextvars
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pipelines.errors import SpecError
from pipelines.names import did_you_mean

__all__ = ["SCHEME", "Storage", "carried", "filesystem", "is_url", "mount", "storage_of", "store_of", "using"]

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


_current: contextvars.ContextVar[Storage | None] = contextvars.ContextVar("storage", default=None)
_mounted: dict[str, Storage] = {}


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


def mount(url: str, storage: Storage) -> None:
    """What is below a URL is reached by these settings, in this process: the last word of it counts."""
    _mounted[url.rstrip("/")] = storage


def storage_of(url: str | None = None) -> Storage:
    """The settings by which a URL is reached."""
    place = url or ""
    while place.count("/") > 1:
        if place in _mounted:
            return _mounted[place]
        place = place.rpartition("/")[0]
    return _current.get() or Storage().complete()


@contextlib.contextmanager
def using(storage: Storage | None) -> Iterator[None]:
    """Objects that are read inside are reached by these settings; those of the environment where there are none."""
    token = _current.set(storage)
    try:
        yield
    finally:
        _current.reset(token)


def carried(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function, which on a worker reaches the same warehouses by the same settings."""
    return functools.partial(_carrying, dict(_mounted), fn) if _mounted else fn


def _carrying(mounted: Mapping[str, Storage], fn: Callable[[Any], Any], item: Any) -> Any:
    _mounted.update(mounted)
    return fn(item)


def store_of(path: str) -> Any:
    """The store that a URL is in, for pyarrow, ready to be sent to other processes; None for a path of this machine."""
    return filesystem(storage_of(path)) if is_url(path) else None


@functools.cache
def filesystem(storage: Storage) -> Any:
    """The store, for pyarrow. One per process: it holds connections, which all threads may use."""
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
