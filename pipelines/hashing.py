"""One 64-bit hash per row, the same on every machine and in every version: it decides buckets and splits.

Integers, dates and times hash by value, floats by their bits, text by a polynomial over its UTF-8 bytes; every
column is finished by splitmix64 (Steele, Lea & Flood 2014) and folded into the next. Not for hostile keys: whoever
chooses the keys could fill one bucket.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["row_hash", "unit_interval"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_NULL = np.uint64(0x6E756C6C)
_SAMPLE = 2048  # texts; a million of 6 values: 23 ms, each by itself 74
_BASE = 0x100000001B3  # odd, so that every byte counts at every position


def row_hash(table: pa.Table, columns: tuple[str, ...], *, seed: int = 0) -> np.ndarray:
    """Hash of the named columns of every row. Shapes: (rows,), uint64."""
    total = np.full(table.num_rows, np.uint64(seed), np.uint64)
    for name in columns:
        total = _mix(total ^ _column_hash(table[name]))
    return total


def unit_interval(hashes: np.ndarray) -> np.ndarray:
    """Hashes as numbers in [0, 1), float64."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _column_hash(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # no chunk at all
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if _is_text(array.type) and _repeats(array):
        array = array.dictionary_encode()
    if pa.types.is_dictionary(array.type):
        hashes = _column_hash(pa.chunked_array([array.dictionary]))
        places = pc.fill_null(array.indices, 0).to_numpy(zero_copy_only=False)
        hashes = hashes[places] if len(hashes) else np.full(len(array), _NULL)
    elif _is_text(array.type):
        hashes = _text_hash(array.cast(pa.large_binary()))
    else:
        hashes = _mix(_bits(array))
    if array.null_count:
        hashes = np.where(array.is_null().to_numpy(zero_copy_only=False), _NULL, hashes)
    return hashes


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind)


def _repeats(array: pa.Array) -> bool:
    """Whether it is quicker to hash each text once: a sample shows the same one eight times on average."""
    sample = array[:_SAMPLE]
    return len(array) > _SAMPLE and 8 * pc.count_distinct(sample).as_py() <= _SAMPLE


def _bits(array: pa.Array) -> np.ndarray:
    if pa.types.is_floating(array.type):
        values = (
            pc.fill_null(array.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False) + 0.0
        )  # -0.0 becomes 0.0
        return values.view(np.uint64)
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    elif pa.types.is_date32(array.type):
        array = array.view(pa.int32())
    elif pa.types.is_temporal(array.type):
        array = array.view(pa.int64())
    return pc.fill_null(array.cast(pa.int64()), 0).to_numpy(zero_copy_only=False).view(np.uint64)


def _text_hash(array: pa.LargeBinaryArray) -> np.ndarray:
    rows = len(array)
    if rows == 0:
        return np.zeros(0, np.uint64)
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + rows + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    lengths = np.diff(offsets)
    total = np.zeros(rows, np.uint64)
    if last > first:
        data = np.frombuffer(array.buffers()[2], np.uint8)[first:last].astype(np.uint64)
        position = np.arange(last - first) - np.repeat(offsets[:-1] - first, lengths)
        data = (data + np.uint64(1)) * _powers(int(lengths.max()))[position]
        filled = lengths > 0
        total[filled] = np.add.reduceat(data, (offsets[:-1] - first)[filled])
    return _mix(total ^ lengths.astype(np.uint64))


def _powers(count: int) -> np.ndarray:
    powers = np.full(count, np.uint64(_BASE), np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def _mix(values: np.ndarray) -> np.ndarray:
    mixed = values + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
