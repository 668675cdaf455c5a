r"""Dates and timestamps from text: a day that does not exist and an hour that clocks skip or repeat are refused, never moved.

    without a format    date       2024-02-29
                        timestamp  2024-02-29 12:30, 2024-02-29T12:30:15.250, with or without Z, +01, +0100, +01:00
    with a format       %Y %y %m %d %j %b %B %H %I %p %M %S %f %z %% and literal text, as in strptime
                        epoch_s, epoch_ms, epoch_us, epoch_ns: a number since 1970, see epochs.py

A text without an offset is local time of `zone`, one with an offset is what it says; both are stored as UTC. %m, %d, %H,
%I, %M, %S take one or two digits, two where they touch another number (%j, the day of the year, three); names of months and AM/PM are English, in any
case; %y below 69 is 20xx. Years are 0001 to 9999; seconds are 0 to 59; more than six decimals of a second are refused
unless they are zeros. C's strptime is not used: it takes 30 February for 1 March.
"""

import functools
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import epochs
from pipelines.digits import layout, local_times
from pipelines.errors import SpecError
from pipelines.formats import MONTHS, regex
from pipelines.halves import in_halves

__all__ = ["characters", "check_zone", "dates", "read_local", "reason", "timestamps", "where"]

_DAY_US = 86_400_000_000
_FIRST, _LAST = (
    int(np.datetime64(day, "us").astype(np.int64)) for day in ("0001-01-01", "9999-12-31T23:59:59.999999")
)
_UTC = pa.timestamp("us", "UTC")
_FEW = 16  # texts that do not fit


def check_zone(zone: str) -> None:
    """Raises: SpecError if the time zone is not known on this machine."""
    try:
        pc.assume_timezone(pa.array([0], pa.timestamp("us")), zone)
    except pa.ArrowInvalid as error:
        raise SpecError(
            f"zone {zone!r} is not known; expected an IANA name such as 'Europe/Paris' or 'UTC'"
        ) from error


def dates(text: pa.StringArray, pattern: str | None) -> tuple[pa.Array, np.ndarray]:
    """Days of the texts (null where there is none), and the row numbers of those that do not fit."""

    def by_value(piece: pa.StringArray) -> tuple[pa.Array, np.ndarray]:
        return _by_value(piece, lambda distinct: _dates(distinct, pattern))

    return by_value(text) if pattern is not None else in_halves(text, _dates_at_once, by_value)


def _dates_at_once(text: pa.StringArray) -> pa.Array | None:
    """Days of texts that are all written as ISO 8601; else None."""
    if len(np.flatnonzero(_lengths(text) != 10)):
        return None
    try:
        values = pc.cast(text, pa.date32())
    except pa.ArrowInvalid:
        return None
    first = pa.scalar(_FIRST // _DAY_US, pa.int32()).cast(pa.date32())
    return None if pc.all(pc.greater_equal(values, first)).as_py() is False else values


def timestamps(text: pa.StringArray, pattern: str | None, zone: str) -> tuple[pa.Array, np.ndarray]:
    """UTC microseconds of the texts (null where there is none), and the row numbers of those that do not fit."""
    if pattern in epochs.FORMATS:
        values = epochs.of_text(text, str(pattern))
        return values, where(pc.and_(pc.is_valid(text), pc.is_null(values)))
    if pattern is None and (plain := _timestamps_at_once(text, zone)) is not None:
        return plain, np.zeros(0, np.int64)
    iso = f"%Y-%m-%d{'T' if b'T' in characters(text.slice(0, 1)) else ' '}%H:%M:%S"
    shape = layout(pattern or iso)
    if shape is None:
        return _by_value(text, lambda distinct: _timestamps(distinct, pattern, zone))
    local, read = local_times(text, shape)
    early, late = (local, local) if zone == "UTC" else _both(local, zone)
    read &= (early >= _FIRST) & (early <= _LAST)
    if late is not early:
        read &= early == late
    values = pa.array(early, pa.int64(), mask=~read).cast(_UTC)
    rest = np.flatnonzero(~read & _numpy(pc.is_valid(text).cast(pa.uint8())).astype(bool))
    if not len(rest):
        return values, rest
    found, misfits = _by_value(text.take(pa.array(rest)), lambda distinct: _often(distinct, pattern, zone))
    place = np.full(len(text), -1)
    place[rest] = np.arange(len(rest))
    return pc.if_else(pa.array(place < 0), values, found.take(pa.array(place, mask=place < 0))), rest[misfits]


def _timestamps_at_once(text: pa.StringArray, zone: str) -> pa.Array | None:
    """UTC microseconds of texts that are all written as ISO 8601 without an offset; else None."""
    if len(np.flatnonzero(_lengths(text) < 16)):
        return None
    try:
        values = pc.assume_timezone(pc.cast(text, pa.timestamp("us")), zone).cast(_UTC)
    except pa.ArrowInvalid:
        return None
    micros = values.cast(pa.int64())
    fine = pc.all(pc.and_(pc.greater_equal(micros, _FIRST), pc.less_equal(micros, _LAST))).as_py()
    return None if fine is False else values


def reason(text: str, pattern: str | None, zone: str, *, date: bool) -> str:
    """Why a text that does not fit does not, in parentheses; empty if it is not written as declared at all."""
    if pattern in epochs.FORMATS:
        return f" (declared format {pattern!r})"
    groups = pc.extract_regex(pa.array([text]), regex(pattern, date=date))
    if groups.null_count:
        return f" (declared format {pattern!r})" if pattern else ""
    if date:
        return " (no such day)"
    local, offset, valid = _local(groups)
    if not valid[0]:
        return " (no such day or time)"
    if offset is not None and offset[0] != _NO_OFFSET:
        return " (year below 1 or above 9999)"
    early, late = _both(local, zone)
    if early[0] == late[0]:
        return " (year below 1 or above 9999)"
    what = "comes twice, clocks go back" if _exists(local, zone) else "does not exist, clocks go forward"
    return f" (this time {what} in {zone}; write the offset)"


def characters(text: pa.StringArray) -> bytes:
    """All bytes of a column of text, one after the other."""
    _, offsets, data = text.buffers()
    if data is None or not len(text):
        return b""
    bounds = np.frombuffer(offsets, np.int32)[text.offset : text.offset + len(text) + 1]
    return data.slice(int(bounds[0]), int(bounds[-1] - bounds[0])).to_pybytes()


def where(mask: pa.BooleanArray) -> np.ndarray:
    """Row numbers where the mask is true; null counts as false."""
    return _numpy(pc.indices_nonzero(mask)).astype(np.int64)


def _numpy(values: pa.Array) -> np.ndarray:
    """The values of an array without nulls; Array.to_numpy would do, but imports pandas."""
    found: np.ndarray = np.from_dlpack(values)
    return found


def _lengths(text: pa.StringArray) -> np.ndarray:
    """Byte lengths of the texts that are not null."""
    return _numpy(pc.binary_length(text.drop_null() if text.null_count else text))


def _by_value(
    text: pa.StringArray, read: Callable[[pa.StringArray], pa.Array]
) -> tuple[pa.Array, np.ndarray]:
    """Read each distinct text once: a regular expression costs 0.5 us, and times of a table repeat."""
    encoded = text.dictionary_encode()
    values = read(encoded.dictionary).take(encoded.indices)
    return values, where(pc.and_(pc.is_valid(text), pc.is_null(values)))


def _dates(text: pa.StringArray, pattern: str | None) -> pa.Array:
    groups = pc.extract_regex(text, regex(pattern, date=True))
    local, _, valid = _local(groups)
    return pa.array((local // _DAY_US).astype(np.int32), pa.int32(), mask=~valid).cast(pa.date32())


def _often(text: pa.StringArray, pattern: str | None, zone: str) -> pa.Array:
    """The same as `_timestamps`; what does not fit is often the same few texts, and they are read once."""
    if len(text) > _FEW:
        return _timestamps(text, pattern, zone)
    place = {one: at for at, one in enumerate(sorted(text.to_pylist()))}
    return _few(tuple(place), pattern, zone).take(
        pa.array([place[one] for one in text.to_pylist()], pa.int64())
    )


@functools.lru_cache(256)
def _few(texts: tuple[str, ...], pattern: str | None, zone: str) -> pa.Array:
    return _timestamps(pa.array(texts, pa.string()), pattern, zone)


def _timestamps(text: pa.StringArray, pattern: str | None, zone: str) -> pa.Array:
    local, offset, valid = _local(pc.extract_regex(text, regex(pattern, date=False)))
    early, late = _both(local, zone)
    micros = early
    valid = valid.copy()
    if offset is not None:
        own = offset != _NO_OFFSET
        micros = np.where(own, local - offset, early)
        late = np.where(own, micros, late)
    valid &= (micros == late) & (micros >= _FIRST) & (micros <= _LAST)
    return pa.array(micros, pa.int64(), mask=~valid).cast(_UTC)


def read_local(naive: pa.TimestampArray, zone: str) -> tuple[pa.Array, pa.Array]:
    """UTC microseconds of local times (null stays null), and which of them are one time: neither skipped nor repeated."""
    missing = pc.is_null(naive)
    early, late = _both(_numpy(naive.cast(pa.int64()).fill_null(0)), zone)
    clear = (early == late) & epochs.valid(early)
    return pc.if_else(missing, pa.scalar(None, _UTC), pa.array(early).cast(_UTC)), pa.array(clear)


def _both(local: np.ndarray, zone: str) -> tuple[np.ndarray, np.ndarray]:
    """UTC microseconds by the earlier and by the later reading: they differ where clocks skip or repeat an hour."""
    naive = pa.array(local, pa.int64()).cast(pa.timestamp("us"))
    both = (
        pc.assume_timezone(naive, zone, ambiguous=which, nonexistent=which)
        for which in ("earliest", "latest")
    )
    early, late = (_numpy(one.cast(pa.int64())) for one in both)
    return early, late


def _exists(local: np.ndarray, zone: str) -> bool:
    naive = pa.array(local, pa.int64()).cast(pa.timestamp("us"))
    try:
        pc.assume_timezone(naive, zone, ambiguous="earliest", nonexistent="raise")
    except pa.ArrowInvalid:
        return False
    return True


_NO_OFFSET = np.iinfo(np.int64).min


def _local(groups: pa.StructArray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Local microseconds, offsets in microseconds (None: no text can have one), and which of them exist.

    Shapes: all (n,), as `groups`, what the expression has found in each text (null: it is not written so).
    """
    names = [field.name for field in groups.type]
    valid = _numpy(pc.is_valid(groups).cast(pa.uint8())).astype(bool)

    def texts(letter: str) -> pa.StringArray:
        return pc.fill_null(pc.struct_field(groups, letter), "")

    def number(letter: str, missing: int) -> np.ndarray:
        if letter not in names:
            return np.full(len(groups), missing, np.int64)
        digits = texts(letter)
        return _numpy(pc.cast(pc.if_else(pc.equal(digits, ""), str(missing), digits), pa.int64()))

    year: np.ndarray = number("Y", 1970)
    if "y" in names:
        short = number("y", 70)
        year = short + np.where(short < 69, 2000, 1900)
    month: np.ndarray = number("m", 1)
    for letter, size in (("b", 3), ("B", None)):
        if letter in names:
            known = pa.array([name[:size] for name in MONTHS])
            month = (
                _numpy(pc.fill_null(pc.index_in(pc.ascii_lower(texts(letter)), known), 0).cast(pa.int64()))
                + 1
            )
    day, hour, minute, second = (number(*part) for part in (("d", 1), ("H", 0), ("M", 0), ("S", 0)))
    if "j" in names:
        first = (np.where(valid & (year >= 1), year, 1970) - 1970).astype("datetime64[Y]")
        of_year = first.astype("datetime64[D]") + (np.clip(number("j", 1), 1, 366) - 1)
        valid &= (of_year.astype("datetime64[Y]") == first) & (number("j", 1) >= 1) & (number("j", 1) <= 366)
        month = (of_year.astype("datetime64[M]") - first.astype("datetime64[M]")).astype(np.int64) + 1
        day = (of_year - of_year.astype("datetime64[M]").astype("datetime64[D]")).astype(np.int64) + 1
    if "I" in names:
        half = number("I", 12)
        valid &= (half >= 1) & (half <= 12)
        hour = half % 12 + 12 * _numpy(pc.equal(pc.ascii_lower(texts("p")), "pm").cast(pa.int64()))
    fraction = np.zeros(len(groups), np.int64)
    if "f" in names:
        fraction = _numpy(pc.cast(pc.utf8_rpad(texts("f"), 6, "0"), pa.int64()))
    valid &= (
        (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60) & (second < 60)
    )
    start = ((np.where(valid, year, 1970) - 1970) * 12 + np.where(valid, month, 1) - 1).astype(
        "datetime64[M]"
    )
    length = (
        (start + np.timedelta64(1, "M")).astype("datetime64[D]") - start.astype("datetime64[D]")
    ).astype(np.int64)
    valid &= day <= length
    days = start.astype("datetime64[D]").astype(np.int64) + np.where(valid, day, 1) - 1
    local = days * _DAY_US + np.where(valid, ((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction, 0)
    if "z" not in names:
        return local, None, valid
    offset, sane = _offsets(texts("z"))
    return local, offset, valid & sane


def _offsets(text: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """Microseconds of "Z", "+01", "+0100", "+01:00" (_NO_OFFSET for ""), and whether they are below a day."""
    digits = pc.replace_substring(pc.utf8_slice_codeunits(text, 1), ":", "")
    value = _numpy(pc.cast(pc.utf8_rpad(digits, 4, "0"), pa.int64()))
    sign = np.where(_numpy(pc.starts_with(text, "-").cast(pa.uint8())), -1, 1)
    micros = sign * (value // 100 * 60 + value % 100) * 60_000_000
    none = _numpy(pc.equal(text, "").cast(pa.uint8())).astype(bool)
    return np.where(none, _NO_OFFSET, micros), (value // 100 < 24) & (value % 100 < 60)
