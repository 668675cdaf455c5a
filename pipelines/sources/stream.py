"""The bytes of a text file as they are read: plain, packed or in another encoding, chunk by chunk, never the whole file.

plain file, UTF-8 or an encoding in which line ends and quotes are what they are in ASCII:  any byte range
.gz, .zst, UTF-16 and the like:  one range, the whole file, unpacked and turned into UTF-8 on the way
"""

import codecs
import contextlib
import dataclasses
import itertools
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from pipelines import stores
from pipelines.errors import InputError

__all__ = [
    "CHUNK",
    "END",
    "chunk_encoding",
    "chunks",
    "damage",
    "decoded",
    "is_one_stream",
    "is_utf8",
    "mark",
    "opened",
]

END = 1 << 62  # the stop of a part that goes to the end of a stream of unknown length
CHUNK = 4 << 20  # stays in the cache of a core; 1 and 16 MiB were slower by some percent
_PACKED = {".gz": "gzip", ".zst": "zstd"}
_MULTIBYTE = {
    "gb18030",
    "gbk",
    "gb2312",
    "big5",
    "big5hkscs",
    "cp949",
    "cp950",
    "cp932",
    "euc_jp",
    "euc_kr",
    "shift_jis",
}
_SINGLE = re.compile(r"ascii|cp\d+|iso8859-\d+|koi8-\w|mac-\w+|kz1048|ptcp154|tis-620")
_ASCII = bytes(range(128))
_WIDE = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FOREIGN = (
    (b"\x1f\x8b", "a gzip file; its name must end in .gz"),
    (b"\x28\xb5\x2f\xfd", "a zstd file; its name must end in .zst"),
    (b"PK\x03\x04", "a zip or Excel file; unpack it or save it as text first"),
    (b"PAR1", "a Parquet file; it is not text"),
    (b"SQLite format 3\0", 'a SQLite database; set kind = "sqlite"'),
)
_FREE_BYTES, _MAX_EXPANSION = (
    64 << 20,
    200,
)  # a bomb of 97 KB unpacks to 100 MB (1,028:1); text packs to 3-20:1


_KEPT_STREAMS = 4  # of a file, in a process: one for each of its threads


def opened(path: str) -> pa.NativeFile:
    """A file to be read at any place; not mapped: a mapped file that is cut ends the process."""
    return stores.opened(path) if stores.is_url(path) else pa.OSFile(path)


@contextlib.contextmanager
def damage(path: str, kind: str, size: int) -> Iterator[None]:
    """Tells what a library finds wrong inside a file.

    Raises: InputError for what is no error of the disk.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and (error.errno is not None or stores.is_answer(error)):
            raise
        raise InputError(
            f"{path}: damaged or no {kind} ({size:,} bytes): {_first_line(error)}; restore it from a copy, or check path and kind"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def is_utf8(encoding: str) -> bool:
    """Whether the bytes of a file are UTF-8 as they stand."""
    return codecs.lookup(encoding).name in {"utf-8", "utf-8-sig"}


def is_one_stream(path: str, encoding: str, quote: str) -> bool:
    """Whether a file can only be read from its beginning to its end."""
    if Path(path).suffix.lower() in _PACKED:
        return True
    name = codecs.lookup(encoding).name
    if is_utf8(encoding):
        return False
    if name in _MULTIBYTE:
        return quote >= "0"  # second bytes begin there: an ASCII character above may be half of another
    return not (
        _SINGLE.fullmatch(name) and _ASCII.decode(name, "replace").encode("ascii", "replace") == _ASCII
    )


def chunk_encoding(encoding: str, quote: str) -> str:
    """The encoding that the chunks of a text still have: its own where records can be found in it, else UTF-8."""
    return "utf-8" if is_utf8(encoding) or is_one_stream("", encoding, quote) else encoding


def chunks(
    path: str, start: int, stop: int, encoding: str, quote: str, *, size: int | None = None
) -> Iterator[bytes]:
    """Bytes `[start, stop)` of the text, of one stream of what it unpacks to. No chunk is empty.

    Raises: InputError for a packed file that is cut, damaged or a bomb, and for text of another encoding.
    """
    size = size or CHUNK
    if not is_one_stream(path, encoding, quote):
        yield from _plain(path, start, stop, size)
        return
    key = None if stores.is_url(path) else (path, *_identity(path), encoding, quote)
    opened_at = _taken(key, start) or _Stream(0, b"", _from_beginning(path, encoding, quote, size))
    position = opened_at.position
    for chunk in itertools.chain([opened_at.rest] if opened_at.rest else [], opened_at.chunks):
        behind = position + len(chunk)
        if behind > start:
            yield chunk[max(start - position, 0) : stop - position]
        if behind >= stop:
            _keep(key, _Stream(stop, chunk[stop - position :], opened_at.chunks))
            return
        position = behind
    _forget(path)


@dataclasses.dataclass(frozen=True)
class _Stream:
    """An unpacked text that was read up to a place, and goes on from there."""

    position: int
    rest: bytes  # of the chunk that was read last
    chunks: Iterator[bytes]


_Key = tuple[object, ...]
_streams: dict[_Key, list[_Stream]] = {}
_streams_lock = threading.Lock()


def _from_beginning(path: str, encoding: str, quote: str, size: int) -> Iterator[bytes]:
    codec = _PACKED.get(Path(path).suffix.lower())
    stream = _plain(path, 0, END, size) if codec is None else _unpacked(path, codec, size)
    return _transcoded(path, stream, encoding) if is_one_stream("", encoding, quote) else stream


def _identity(path: str) -> tuple[int, int, int]:
    found = Path(path).stat()
    return found.st_size, found.st_ctime_ns, found.st_ino


def _taken(key: _Key | None, start: int) -> _Stream | None:
    """The stream of this very file that was left nearest before a place: who takes it is alone with it.

    So a worker that reads some parts of a packed file in their order unpacks it once, and not for each from the beginning.
    """
    with _streams_lock:
        there = [] if key is None else _streams.get(key, [])
        before = [one for one in there if one.position <= start]
        if not before:
            return None
        found = max(before, key=lambda one: one.position)
        there.remove(found)
        return found


def _keep(key: _Key | None, stream: _Stream) -> None:
    """Leave a stream for the next part; of the files before this one nobody will ask any more."""
    if key is None:
        return
    with _streams_lock:
        for other in [one for one in _streams if one != key]:
            del _streams[other]  # the generators close their files
        there = _streams.setdefault(key, [])
        there.append(stream)
        there.sort(key=lambda one: one.position)
        del there[:-_KEPT_STREAMS]


def _forget(path: str) -> None:
    with _streams_lock:
        for key in [one for one in _streams if one[0] == path]:
            del _streams[key]


def mark(path: str, head: bytes, encoding: str) -> int:
    """Bytes of the byte order mark at the beginning of a text.

    Raises: InputError if the beginning is that of another encoding or kind of file.
    """
    for start, what in _FOREIGN:
        if head.startswith(start):
            raise InputError(f"{path}: starts like {what}")
    if head.startswith(codecs.BOM_UTF8):
        return len(codecs.BOM_UTF8)
    if is_utf8(encoding):
        for start, name in _WIDE:
            if head.startswith(start):
                raise InputError(f'{path}: starts with a {name.upper()} mark; set encoding = "{name}"')
    return 0


def decoded(data: bytes, ends: list[int], encoding: str) -> tuple[list[bytes], dict[int, str]]:
    """The records of a block as UTF-8, and what is wrong with those that cannot be decoded (they are left empty).

    Shapes: `ends` (n,), where each record ends in `data`.
    """
    records, wrong, start = [], {}, 0
    for row, end in enumerate(ends):
        try:
            records.append(data[start:end].decode(encoding).encode())
        except UnicodeDecodeError as error:
            byte, at = data[start + error.start], error.start
            hint = "; set encoding (gb18030, cp1252, ...?)" if is_utf8(encoding) else ""
            wrong[row] = f"byte 0x{byte:02X} at {at} of the row is not {encoding}{hint}"
            records.append(b"")
        start = end
    return records, wrong


def _plain(path: str, start: int, stop: int, size: int) -> Iterator[bytes]:
    with opened(path) if stores.is_url(path) else Path(path).open("rb", buffering=0) as file:
        file.seek(start)
        while start < stop and (chunk := file.read(min(size, stop - start))):
            start += len(chunk)
            yield chunk


def _unpacked(path: str, codec: str, size: int) -> Iterator[bytes]:
    total = 0
    with opened(path) as packed, pa.CompressedInputStream(packed, codec) as stream:
        while True:
            try:
                chunk = stream.read(size)
            except OSError as error:
                if error.errno is not None:  # of the disk, not of the data
                    raise
                raise InputError(
                    f"{path}: {codec} data cannot be unpacked after {total:,} bytes: {error}; is it cut?"
                ) from error
            if not chunk:
                return
            total += len(chunk)
            if total > max(_FREE_BYTES, _MAX_EXPANSION * packed.tell()):
                raise InputError(
                    f"{path}: {packed.tell():,} bytes unpack to more than {total:,}, over {_MAX_EXPANSION} to 1; "
                    "if that is meant, unpack it before"
                )
            yield chunk


def _transcoded(path: str, stream: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    seen, final = 0, False
    while not final:
        chunk = next(stream, b"")
        final = not chunk
        try:
            text = decoder.decode(chunk, final).encode()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: not {encoding} near byte {seen + error.start:,}: {error.reason}; correct encoding"
            ) from error
        seen += len(chunk)
        if text:
            yield text
