"""Timestamps written as a number since 1970-01-01 UTC: the formats epoch_s, epoch_ms, epoch_us and epoch_ns.

epoch_s     1700000000, 1700000000.25, -1      at most six decimals, more only if they are zeros
epoch_ms    1700000000250, 1700000000250.5     at most three
epoch_us    1700000000250000
epoch_ns    1700000000250000000                a whole number of microseconds: nothing is rounded
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["FORMATS", "of_numbers", "of_text", "valid"]

FORMATS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1, "epoch_ns": 1}  # microseconds of one
_FIRST, _LAST = (
    int(np.datetime64(day, "us").astype(np.int64)) for day in ("0001-01-01", "9999-12-31T23:59:59.999999")
)
_NS = 1_000
_DECIMALS = {"epoch_s": 6, "epoch_ms": 3, "epoch_us": 0, "epoch_ns": 0}
_UTC = pa.timestamp("us", "UTC")


def valid(micros: np.ndarray) -> np.ndarray:
    """Which microseconds lie in the years 1 to 9999."""
    return (micros >= _FIRST) & (micros <= _LAST)


def of_text(text: pa.StringArray, form: str) -> pa.Array:
    """The times of the texts, null where there is none or it is not written so."""
    decimals = _DECIMALS[form]
    fraction = rf"(?:\.(?P<f>[0-9]{{1,{decimals}}})0*)?" if decimals else r"(?P<f>)"
    groups = pc.extract_regex(text, rf"^(?P<sign>-?)(?P<whole>0*[0-9]{{1,18}}){fraction}$")
    fine = np.from_dlpack(pc.is_valid(groups).cast(pa.uint8())).astype(bool)
    whole = _numbers(groups, "whole")
    if form == "epoch_ns":
        fine &= whole % _NS == 0
        micros = whole // _NS
    else:
        unit = FORMATS[form]
        fine &= whole <= _LAST // unit + 1
        micros = np.where(fine, whole, 0) * unit
        if decimals:
            digits = pc.utf8_rpad(pc.fill_null(pc.struct_field(groups, "f"), ""), decimals, "0")
            micros += np.from_dlpack(digits.cast(pa.int64()))
    negative = np.from_dlpack(
        pc.equal(pc.fill_null(pc.struct_field(groups, "sign"), ""), "-").cast(pa.uint8())
    )
    micros = np.where(negative, -micros, micros)
    return pa.array(micros, pa.int64(), mask=~(fine & valid(micros))).cast(_UTC)


def of_numbers(values: pa.Array, form: str) -> tuple[pa.Array, pa.Array]:
    """The times of numbers, the nearest microsecond of a float; and which of them are times.

    Shapes: values (n,), integers or floats; both answers (n,).
    """
    missing = np.from_dlpack(pc.is_null(values).cast(pa.uint8())).astype(bool)
    if pa.types.is_floating(values.type):
        factor = 1 / _NS if form == "epoch_ns" else float(FORMATS[form])
        floats: np.ndarray = np.from_dlpack(values.cast(pa.float64()).fill_null(0.0))
        numbers = floats * factor
        fine = np.isfinite(numbers) & (np.abs(numbers) < 2.0**62)
        micros = np.rint(np.where(fine, numbers, 0.0)).astype(np.int64)
    else:
        limit = 2**63 - 1
        fits = np.ones(len(values), bool)
        if pa.types.is_uint64(values.type):
            fits = np.from_dlpack(pc.less_equal(values.fill_null(0), limit).cast(pa.uint8())).astype(bool)
        whole: np.ndarray = np.from_dlpack(values.fill_null(0).cast(pa.int64(), safe=False))
        fine = fits & (np.abs(whole) <= limit // FORMATS[form])
        micros = np.where(fine, whole, 0)
        if form == "epoch_ns":
            fine &= micros % _NS == 0
            micros //= _NS
        else:
            micros = micros * FORMATS[form]
    fine &= valid(micros)
    return pa.array(micros, pa.int64(), mask=missing | ~fine).cast(_UTC), pa.array(fine)


def _numbers(groups: pa.StructArray, name: str) -> np.ndarray:
    digits = pc.fill_null(pc.struct_field(groups, name), "0")
    return np.from_dlpack(digits.cast(pa.int64()))
