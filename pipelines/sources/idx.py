"""IDX, the files of MNIST: images as a tensor column, labels from a second file beside them; plain or packed by gzip.

    magic 00 00 type dimensions | lengths, 4 bytes each, big-endian | numbers, big-endian, row-major

    image   one sample, (28, 28)     label   the number of the same row in the file of the labels

Magic, type, lengths and size must agree before anything is allocated. The line of a row is its ordinal.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from math import prod

import numpy as np
import pyarrow as pa

from pipelines import tensor
from pipelines.errors import InputError
from pipelines.schema import Field
from pipelines.sources import stream
from pipelines.sources.conversion import converted, readable, told
from pipelines.sources.inputs import InputFile, Part, whole
from pipelines.sources.rows import together, typed_rows
from pipelines.sources.source import Source
from pipelines.stage import Rows

__all__ = ["cut", "form_of", "read"]

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_DIMENSIONS = 8  # at most; the format would allow 255
_PACKED_PART = 1 << 26  # bytes: each part of a packed file unpacks what is before it again


@dataclasses.dataclass(frozen=True)
class _Form:
    """What the head of a file says."""

    dtype: np.dtype
    rows: int
    shape: tuple[int, ...]
    start: int  # of the numbers

    @property
    def size(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * prod(self.shape)


def cut(source: Source, file: InputFile, number: int) -> list[Part]:
    """Parts of one file: ranges of rows.

    Raises: InputError if magic, type, lengths and size do not agree, the samples are not as declared, or there are
    more or less labels than images.
    """
    form = form_of(file.path)
    _check_size(file.path, form)
    field = next((one for one in source.columns.values() if one.type == "tensor"), None)
    if field is not None and (form.shape != field.shape):
        raise InputError(
            f"{file.path}: samples have shape {list(form.shape)}, {field.title} is declared; correct shape"
        )
    for path in file.beside:
        labels = form_of(path)
        _check_size(path, labels)
        if labels.shape or labels.rows != form.rows:
            raise InputError(
                f"{path}: {labels.rows:,} labels{f' of shape {list(labels.shape)}' if labels.shape else ''} for {form.rows:,} images "
                f"of {file.path}; expected one number for each"
            )
        for column, name in source.names.items():
            declared, found = source.columns[column], pa.from_numpy_dtype(labels.dtype.newbyteorder("="))
            if name == "label" and not readable(declared, pa.field(name, found)):
                raise InputError(
                    f"{path}: labels are {found}, {column!r} is declared {declared.title}; correct columns"
                )
    packed = _is_packed(file.path)
    size = max(source.part_bytes, _PACKED_PART) if packed else source.part_bytes
    pieces = max(1, min(-(-form.rows * form.size // size), form.rows))
    ends = [form.rows * piece // pieces for piece in range(pieces + 1)]
    part = whole(file, number)
    return [
        dataclasses.replace(part, start=a, stop=b, line=a + 1, weight=(b - a) * form.size)
        for a, b in itertools.pairwise(ends)
    ]


def read(source: Source, part: Part) -> Rows:
    """The rows of a part."""
    offered = dict(zip(("image", "label"), (part.path, *part.beside), strict=False))
    values: dict[str, pa.Array] = {}
    wrong: dict[str, pa.StringArray] = {}
    for column, name in source.names.items():
        field = source.columns[column]
        found = _numbers(offered[name], part.start, part.stop)
        values[column], unfit = _as_declared(found, field)
        if unfit:
            wrong[column] = told(unfit, len(found))

    def raw(rows: np.ndarray) -> list[str]:
        return [f"row {part.start + row + 1}" for row in rows.tolist()]

    lines = np.arange(part.start + 1, part.stop + 1)
    return together(source.schema, [typed_rows(source, part, lines, values, wrong, {}, raw)])


def _as_declared(found: np.ndarray, field: Field) -> tuple[pa.Array, dict[int, str]]:
    if field.type != "tensor":
        values, unfit = converted(pa.array(found), field)
        return values, dict(unfit)
    made, fine = tensor.of_numbers(found, field.dtype or "")
    unfit = dict.fromkeys(np.flatnonzero(~fine).tolist(), f"a number that is no {field.dtype}")
    return tensor.column(made, fine), unfit


def _numbers(path: str, start: int, stop: int) -> np.ndarray:
    """Rows `[start, stop)`, in the byte order of the machine."""
    form = form_of(path)
    begin, end = form.start + start * form.size, form.start + stop * form.size
    data = np.empty(end - begin, np.uint8)
    at = 0
    for chunk in _bytes(path, begin, end):
        data[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
        at += len(chunk)
    if at < len(data):
        raise InputError(f"{path}: cut: {begin + at:,} bytes, {end:,} expected; restore it from a copy")
    values = data.view(form.dtype).reshape(stop - start, *form.shape)
    return values.astype(form.dtype.newbyteorder("="), copy=False)


def form_of(path: str) -> _Form:
    """What the head of a file says.

    Raises: InputError if it is no IDX.
    """
    head = b"".join(_bytes(path, 0, 4 + 4 * _DIMENSIONS))
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= _DIMENSIONS:
        raise InputError(
            f"{path}: no IDX file: it begins with {head[:4].hex(' ')}, expected 00 00, a type of 08 to 0e and 1 to {_DIMENSIONS} dimensions"
        )
    start = 4 + 4 * head[3]
    if len(head) < start:
        raise InputError(
            f"{path}: cut: {len(head)} bytes, a head of {start} expected; restore it from a copy"
        )
    rows, *shape = (int(length) for length in np.frombuffer(head[4:start], ">u4"))
    return _Form(np.dtype(_TYPES[head[2]]), rows, tuple(shape), start)


def _check_size(path: str, form: _Form) -> None:
    """A packed file is as long as it says where it is read: here only its head is known."""
    expected = form.start + form.rows * form.size
    if form.size > tensor.MOST_BYTES:
        raise InputError(
            f"{path}: a sample of shape {list(form.shape)} has {form.size:,} bytes, at most {tensor.MOST_BYTES:,} are read"
        )
    if _is_packed(path):
        found = sum(map(len, _bytes(path, 0, expected + 1)))
    else:
        with stream.opened(path) as file:
            found = file.size()
    if found != expected:
        raise InputError(
            f"{path}: {'more' if found > expected else f'{found:,} bytes'}, {expected:,} bytes expected for {form.rows:,} samples of shape "
            f"{list(form.shape)}; restore it from a copy"
        )


def _is_packed(path: str) -> bool:
    return stream.is_one_stream(path, "utf-8", "")


def _bytes(path: str, start: int, stop: int) -> Iterator[bytes]:
    """Bytes `[start, stop)` of what the file holds, unpacked."""
    left = stop - start
    for chunk in stream.chunks(path, start, stop, "utf-8", ""):
        yield chunk[:left]
        left -= len(chunk)
        if left <= 0:
            return
