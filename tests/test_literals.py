"""The grammar of the types: what is written is read exactly or refused, alone or among others."""

import datetime as dt
import math
import re
from fractions import Fraction
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import SpecError
from pipelines.formats import check_format
from pipelines.literals import ARROW, reader
from pipelines.timestamps import dates, timestamps

INT = re.compile(r"-?[0-9]+", re.ASCII)
FLOAT = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)


def texts(*values):
    return pa.array(values, pa.string())


def read(kind, *values, **settings):
    found, bad = reader(kind, **settings)(texts(*values))
    assert [value is None for value in found.to_pylist()] == [
        i in bad.tolist() or value is None for i, value in enumerate(values)
    ]
    return found.to_pylist()


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (
            "int8",
            {"1": 1, "-128": -128, "127": 127, "007": 7, "-0": 0, "0" * 30 + "5": 5},
            ["128", "-129", "+5", "0x1F", "0x10", "1_0", "1.0", "1e2", "", "-", " 1", "\u0661"],
        ),
        (
            "int64",
            {str(2**63 - 1): 2**63 - 1, str(-(2**63)): -(2**63)},
            [str(2**63), str(-(2**63) - 1), "9" * 5000],
        ),
        (
            "float64",
            {"1": 1.0, "1e5": 1e5, "1E+5": 1e5, ".5": 0.5, "5.": 5.0, "-0": 0.0, "1e-400": 0.0},
            [
                "1e309",
                "inf",
                "nan",
                "NaN",
                "+5",
                "0x1",
                "1_0",
                "1,5",
                " 1",
                "1 ",
                "e5",
                ".",
                "",
                "1e",
                "\u0661",
            ],
        ),
        ("float32", {"1.5": 1.5, "3e38": float(np.float32(3e38))}, ["4e38", "-1e39"]),
        (
            "bool",
            {"true": True, "FALSE": False, "True": True, "1": True, "0": False},
            ["yes", "t", "", "2", "on", " true"],
        ),
        ("string", {"": "", " a ": " a ", "é": "é"}, ["a\0b"]),
        (
            "date",
            {"2024-02-29": dt.date(2024, 2, 29)},
            [
                "2023-02-29",
                "2024-2-9",
                "24-02-29",
                "0000-01-01",
                "2024-02-29 ",
                "20240229",
                "2024-02-29T00:00",
            ],
        ),
        (
            "timestamp",
            {
                "2024-02-29 12:30": dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC),
                "2024-02-29T12:30:15.25": dt.datetime(2024, 2, 29, 12, 30, 15, 250000, tzinfo=dt.UTC),
                "2024-02-29T12:30:15.123456000": dt.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=dt.UTC),
                "2024-02-29T12:30:15Z": dt.datetime(2024, 2, 29, 12, 30, 15, tzinfo=dt.UTC),
                "2024-02-29T12:30:15-01:30": dt.datetime(2024, 2, 29, 14, 0, 15, tzinfo=dt.UTC),
                "2024-02-29T12:30+0100": dt.datetime(2024, 2, 29, 11, 30, tzinfo=dt.UTC),
            },
            [
                "2024-02-29",
                "2024-02-29 12",
                "2024-02-30 12:30",
                "2024-02-29T24:00",
                "2024-02-29T12:60",
                "2024-02-29T12:30:60",
                "2024-02-29T12:30:15.1234567",
                "2024-02-29T12:30+25:00",
                "0001-01-01T00:00+01",
                "2024-02-29 05+01:00",
            ],
        ),
    ],
)
def test_a_type_reads_its_grammar_and_nothing_else(kind, good, bad):
    for text, value in good.items():  # alone: the fast way of a column in which all is well
        assert read(kind, text, None) == [value, None]
    for text in bad:
        assert read(kind, text) == [None]
    mixed = [*good, *bad, None]  # together: value by value
    assert read(kind, *mixed) == [*good.values(), *[None] * (len(bad) + 1)]


numbers = (
    st.text("0123456789+-.eExX_ ,infa", max_size=7)
    | st.floats().map(repr)
    | st.integers(-(10**20), 10**20).map(str)
)


@settings(max_examples=300)
@given(st.lists(numbers, max_size=6), st.sampled_from(["int8", "int16", "int32", "int64"]))
def test_integers_are_those_of_the_grammar_that_fit(values, kind):
    limit = 2 ** (ARROW[kind].bit_width - 1)

    expected = [int(text) if INT.fullmatch(text) and -limit <= int(text) < limit else None for text in values]

    assert read(kind, *values) == expected
    assert [read(kind, text)[0] for text in values] == expected


@settings(max_examples=300)
@given(st.lists(numbers, max_size=6), st.sampled_from([".", ","]))
def test_floats_are_those_of_the_grammar_that_are_finite(values, decimal):
    def expected(text):
        point = text if decimal == "." else text.replace(".", "x").replace(",", ".")
        value = float(point) if FLOAT.fullmatch(point) else math.inf
        return value if math.isfinite(value) else None

    assert read("float64", *values, decimal=decimal) == [expected(text) for text in values]
    assert [read("float64", text, decimal=decimal)[0] for text in values] == [
        expected(text) for text in values
    ]


@given(st.fractions(), st.integers(0, 20))
def test_a_float_is_the_nearest_one(value, digits):
    text = f"{float(value):.{digits}f}"

    [found] = read("float64", text)

    assert abs(Fraction(text) - Fraction(found)) <= min(
        abs(Fraction(text) - Fraction(math.nextafter(found, to))) for to in (-math.inf, math.inf)
    )


@given(
    st.dates(),
    st.sampled_from(
        ["%Y-%m-%d", "%d/%m/%Y", "%d.%m.%Y", "%Y%m%d", "%d %b %Y", "%B %d, %Y", "%Y-%j", "%Y%j", "%j/%Y"]
    ),
)
def test_a_date_of_any_format_is_the_date_that_was_written(day, form):
    written = day.strftime(form.replace("%Y", f"{day.year:04}"))  # strftime writes the year 2 as "2"

    found, bad = dates(texts(written, "31.31.2024"), form)

    assert found.to_pylist() == [day, None]
    assert bad.tolist() == [1]


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        (
            "%Y-%j",
            {"2024-366": "2024-12-31", "2023-1": "2023-01-01", "2023-060": "2023-03-01"},
            ["2023-366", "2024-0", "2024-367", "2024-1234"],
        ),
        (
            "epoch_s",
            {
                "0": "1970-01-01",
                "-1": "1969-12-31T23:59:59",
                "1700000000.25": "2023-11-14T22:13:20.250000",
                "-0.000001": "1969-12-31T23:59:59.999999",
                "1.5000000000": "1970-01-01T00:00:01.500000",
                "253402300799.999999": "9999-12-31T23:59:59.999999",
            },
            ["253402300800", "-62135596801", "1.0000001", "1e9", "+1", " 1", "", ".5", "9" * 30, "nan"],
        ),
        (
            "epoch_ms",
            {"1700000000250": "2023-11-14T22:13:20.250000", "0.001": "1970-01-01T00:00:00.000001"},
            ["0.0001"],
        ),
        ("epoch_us", {"1": "1970-01-01T00:00:00.000001"}, ["1.0"]),
        (
            "epoch_ns",
            {"1000": "1970-01-01T00:00:00.000001", "-2000": "1969-12-31T23:59:59.999998"},
            ["1", "1001"],
        ),
    ],
)
def test_days_of_the_year_and_numbers_since_1970(form, good, bad):
    found = read("timestamp", *good, *bad, None, pattern=form)

    assert [str(value) for value in found[: len(good)]] == [
        str(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)) for text in good.values()
    ]


@pytest.mark.parametrize("form", ["%Y-%j-%m", "%j", "%Y", "epoch_h", "%Y-%j-%d"])
def test_a_format_that_says_too_little_or_too_much_is_refused(form):
    with pytest.raises(SpecError):
        check_format(form, date=False)


@given(
    st.datetimes(),
    st.sampled_from([None, "%Y-%m-%dT%H:%M:%S.%f%z", "%d/%m/%Y %I:%M:%S.%f %p %z"]),
    st.integers(-1439, 1439),
)
def test_a_time_with_an_offset_is_that_time(local, form, minutes):
    moment = local.replace(tzinfo=dt.timezone(dt.timedelta(minutes=minutes)))
    written = moment.isoformat(timespec="microseconds")
    if form is not None:
        written = moment.strftime(form.replace("%Y", f"{moment.year:04}"))
    try:
        expected = moment.astimezone(dt.UTC)
    except OverflowError:
        expected = None

    found, bad = timestamps(texts(written), form, "America/New_York")

    assert found.to_pylist() == [expected]
    assert bad.tolist() == ([0] if expected is None else [])


@settings(max_examples=200)
@given(
    st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2030, 1, 1)),  # noqa: DTZ001 - local times
    st.sampled_from(["America/New_York", "Europe/Berlin", "Australia/Lord_Howe"]),
)
def test_a_local_time_is_its_utc_time_or_refused_where_clocks_change(local, zone):
    early, late = (local.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(dt.UTC) for fold in (0, 1))

    found, _ = timestamps(texts(local.isoformat(), "2024-01-01T00:00Z"), None, zone)

    assert found.to_pylist()[0] == (early if early == late else None)
