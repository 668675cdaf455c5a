"""Objects of stores by URL, s3://bucket/key: found, read at any place, and failures in one sentence.

How a store is reached says `access`: settings travel with the source to the workers; whoever reads says
`with using(source.storage)`, and what is read by path inside finds them. An object is what it was as long as its etag is.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.access import SCHEME, Storage, filesystem, is_url, storage_of, using
from pipelines.errors import InputError, NoInput, PartFailed

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Object", "Storage", "found", "is_answer", "is_url", "opened", "state", "told", "using"]

_AT_ONCE = 16  # requests for the state of objects: each is a round trip


class Object(NamedTuple):
    """An object and its state."""

    url: str
    size: int
    mtime_ns: int
    etag: str


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
        store = filesystem(storage_of(url))
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
        return _state(filesystem(storage_of(url)), url.removeprefix(SCHEME))


def opened(url: str) -> "pa.NativeFile":
    """An object, to be read at any place."""
    with told(url):
        return filesystem(storage_of(url)).open_input_file(url.removeprefix(SCHEME))


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
        endpoint = storage_of(url).endpoint or "Amazon S3"
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
    return f"there is no bucket {bucket!r} at {storage_of(SCHEME + bucket).endpoint or 'Amazon S3'}; correct path, or endpoint in [storage]"


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
