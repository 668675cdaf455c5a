"""Parquet and Arrow IPC: columns are the declared ones or a difference is told; a value that does not fit costs its row."""

import datetime as dt
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import sources
from pipelines.difference import type_name
from pipelines.errors import InputError
from pipelines.stage import OFFSET
from tests.sources_reading import CUTS, declared, lines, read_all, read_once, rejects, values, write

UTC = dt.UTC


def store(path, table, rows=2):
    """The table in the form that the name says."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows, write_page_checksum=True)
    else:
        new = pa.ipc.new_stream if path.suffix == ".arrows" else pa.ipc.new_file
        with new(path, table.schema) as writer:
            writer.write_table(table, rows)
    return path


@pytest.fixture(params=[".parquet", ".arrow", ".arrows"])
def reading(request, tmp_path):
    """Reads a table as declared from a file of each form, in every way of cutting."""
    kind = "parquet" if request.param == ".parquet" else "arrow"

    def read(table, columns, rows=2, **settings):
        path = store(tmp_path / f"in{request.param}", table, rows)
        return read_all(columns, path, kind=kind, **settings)

    def error(table, columns, **settings):
        with pytest.raises(InputError) as caught:
            read(table, columns, **settings)
        return str(caught.value).replace(f"{tmp_path}/", "").replace(request.param, "")

    read.error = error
    return read


def test_rows_keep_their_values_and_their_ordinal(reading):
    table = pa.table({"id": range(1, 8), "x": [0.5 * i for i in range(7)], "s": list("abcdefg")})

    rows = reading(table, {"id": "int64", "x": "float64", "s": "string"})

    assert values(rows) == [(i + 1, 0.5 * i, "abcdefg"[i]) for i in range(7)]
    assert lines(rows) == [1, 2, 3, 4, 5, 6, 7]
    assert set(rows.kept[OFFSET].to_pylist()) == {-1}
    assert rows.rejected.num_rows == 0


def test_types_of_one_kind_are_read_where_nothing_is_lost(reading):
    table = pa.table(
        {
            "i": pa.array([1, None, 3], pa.int32()),
            "f": pa.array([1.5, None, 2.5], pa.float32()),
            "n": pa.array([1, 2, 1 << 53], pa.int64()),
            "d": pa.array([decimal.Decimal("1.10"), None, decimal.Decimal("-2.00")]),
            "s": pa.array(["a", None, "a"]).dictionary_encode(),
            "day": pa.array([dt.date(2024, 2, 29), None, dt.date(1, 1, 1)], pa.date32()),
            "t": pa.array([0, None, 1_000], pa.timestamp("ns", "Europe/Paris")),
            "none": pa.nulls(3),
            "b": [True, None, False],
        }
    )

    rows = reading(
        table,
        {
            "i": "int64", "f": "float64", "n": "float64", "d": "float64", "s": "string", "day": "date",
            "t": "timestamp", "none": "int8", "b": "bool",
        },
    )  # fmt: skip

    assert values(rows) == [
        (1, 1.5, 1.0, 1.1, "a", dt.date(2024, 2, 29), dt.datetime(1970, 1, 1, tzinfo=UTC), None, True),
        (None, None, 2.0, None, None, None, None, None, None),
        (
            3,
            2.5,
            2.0**53,
            -2.0,
            "a",
            dt.date(1, 1, 1),
            dt.datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
            None,
            False,
        ),
    ]


def test_values_that_do_not_fit_set_their_row_aside(reading):
    table = pa.table(
        {
            "i": pa.array([1, 300, None, 3, 4, 5], pa.int64()),
            "f": pa.array([1.0, 2.0, float("nan"), 1e300, 4.0, 5.0]),
            "n": pa.array([0, 0, 0, 0, (1 << 53) + 1, 5], pa.int64()),
            "t": pa.array([0, 0, 0, 0, 0, 1], pa.timestamp("ns")),
        }
    )

    rows = reading(table, {"i": "int8", "f": "float32", "n": "float64", "t": "timestamp"})

    assert [row[:3] for row in values(rows)] == [(1, 1.0, 0.0)]
    assert rejects(rows) == [
        (2, "type", "i", "column 'i': int64 300 found, int8 expected"),
        (3, "type", "f", "column 'f': double nan found, float32 expected"),
        (4, "type", "f", "column 'f': double 1e+300 found, float32 expected"),
        (5, "type", "n", "column 'n': int64 9007199254740993 found, float64 expected"),
        (6, "type", "t", "column 't': timestamp 1970-01-01 00:00:00.000000001 found, timestamp expected"),
    ]
    assert (
        rows.rejected["raw"][0].as_py()
        == '{"i": 300, "f": 2.0, "n": 0, "t": "1970-01-01 00:00:00.000000000"}'
    )


def test_local_times_are_of_the_declared_zone(reading):
    local = pa.array(["2024-07-01T12:00:00", "2024-03-31T02:30:00", None])
    table = pa.table({"t": local.cast(pa.timestamp("us"))})

    rows = reading(table, {"t": {"type": "timestamp", "zone": "Europe/Paris"}})

    assert values(rows) == [(dt.datetime(2024, 7, 1, 10, tzinfo=UTC),), (None,)]
    assert rejects(rows) == [
        (2, "type", "t", "column 't': timestamp 2024-03-31 02:30:00.000000 found, timestamp expected")
    ]


def test_numbers_are_times_where_the_format_is_an_epoch(reading):
    table = pa.table({"t": [0, 1_700_000_000_250, None, 1 << 62], "f": [0.25, None, -1.0, 0.0]})

    rows = reading(
        table,
        {"t": {"type": "timestamp", "format": "epoch_ms"}, "f": {"type": "timestamp", "format": "epoch_s"}},
    )

    assert values(rows) == [
        (dt.datetime(1970, 1, 1, tzinfo=UTC), dt.datetime(1970, 1, 1, 0, 0, 0, 250_000, tzinfo=UTC)),
        (dt.datetime(2023, 11, 14, 22, 13, 20, 250_000, tzinfo=UTC), None),
        (None, dt.datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ]
    assert rejects(rows) == [(4, "type", "t", f"column 't': number {1 << 62} found, timestamp expected")]


def test_rules_of_the_declaration_hold_for_typed_columns(reading):
    table = pa.table({"i": [1, None, 300], "s": ["a", "b", "zz"], "u": ["NA", "x", "y"]})
    columns = {
        "i": {"type": "int64", "nullable": False, "range": [0, 100], "on_error": "null"} | {"nullable": True},
        "s": {"type": "string", "values": ["a", "b"]},
        "u": {"type": "string", "null": ["NA"]},
    }

    rows = reading(table, columns)

    assert values(rows) == [(1, "a", None), (None, "b", "x")]
    assert rejects(rows) == [(3, "values", "s", "column 's': 'zz' is not one of 'a', 'b'")]


def test_lists_of_numbers_become_tensors(reading):
    x = {"type": "tensor", "dtype": "uint8", "shape": [2, 2], "scale": 0.5}
    lists = [[1, 2, 3, 4], [1, 2, 3], None, [1, 2, 3, 256], [0, None, 0, 0], [255, 0, 0, 0]]
    fixed = [[1.0, 2.0], [3.0, 4.0], None, [5.0, 6.0], [7.0, 8.0], [float("inf"), 0.0]]
    table = pa.table(
        {"x": pa.array(lists, pa.list_(pa.int16())), "y": pa.array(fixed, pa.list_(pa.float64(), 2))}
    )

    rows = reading(table, {"x": x, "y": {"type": "tensor", "dtype": "float32", "shape": [2]}})

    assert values(rows) == [
        (bytes([1, 2, 3, 4]), np.array([1, 2], "<f4").tobytes()),
        (None, None),
    ]
    assert rejects(rows) == [
        (2, "type", "x", "column 'x': list of 3 numbers found, tensor uint8 [2, 2] expected"),
        (
            4,
            "type",
            "x",
            "column 'x': list with a number that is no uint8 found, tensor uint8 [2, 2] expected",
        ),
        (5, "type", "x", "column 'x': list with a missing number found, tensor uint8 [2, 2] expected"),
        (
            6,
            "type",
            "y",
            "column 'y': list with a number that is no float32 found, tensor float32 [2] expected",
        ),
    ]
    assert rows.kept.schema.field("x").metadata == {b"dtype": b"uint8", b"shape": b"[2, 2]", b"scale": b"0.5"}


def test_tensors_of_another_form_are_a_difference(reading):
    form = {"dtype": "uint8", "shape": "[2, 2]"}
    table = pa.table(
        [pa.array([b"abcd"], pa.binary(4))], schema=pa.schema([pa.field("x", pa.binary(4), metadata=form)])
    )

    rows = reading(table, {"x": {"type": "tensor", "dtype": "uint8", "shape": [2, 2]}})

    assert values(rows) == [(b"abcd",)]
    assert "\n  - x tensor uint8 [4]\n  + x tensor uint8 [2, 2]: declare" in (
        reading.error(table, {"x": {"type": "tensor", "dtype": "uint8", "shape": [4]}})
    )


def test_text_that_is_none_sets_its_row_aside(tmp_path):
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff"]).buffers())
    path = store(tmp_path / "in.parquet", pa.table({"s": bad}))

    rows = read_all({"s": "string"}, path, kind="parquet")

    assert values(rows) == [("ok",)]
    assert rejects(rows) == [
        (2, "type", "s", "column 's': text with byte 0xFF at 0, which is not UTF-8, found, string expected")
    ]
    assert rows.rejected["raw"].to_pylist() == ['{"s": "\\\\xff"}']


def test_b30_every_difference_of_the_schemas_is_told_at_once(reading):
    table = pa.table({"id": ["1"], "prize": [1.5], "more": [True]})

    assert reading.error(table, {"id": "int64", "price": "float64"}) == (
        "in: the columns are not those declared (- declared, + in the file):\n"
        "  - id int64\n"
        '  + id string: declare "string", or correct the file\n'
        "  - price float64: is missing, did you mean 'prize'?\n"
        "  + prize float64: is not declared\n"
        "  + more bool: is not declared; correct the declaration or the data, leave new columns out by "
        'ignore = ["prize", "more"], or take them in by contract = "evolve"'
    )


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (pa.array([1.0]), "int64"),
        (pa.array([1]), "string"),
        (pa.array(["1"]), "float64"),
        (pa.array([1]), "bool"),
        (pa.array([dt.datetime(2024, 1, 1)]), "date"),  # noqa: DTZ001
        (pa.array([dt.date(2024, 1, 1)]), "timestamp"),
        (pa.array([1]), "timestamp"),
        (pa.array([b"a"]), "string"),
        (pa.array([{"a": 1}]), "string"),
    ],
)
def test_b30_another_kind_is_never_cast(reading, found, kind):
    assert f"\n  - x {kind}\n  + x {type_name(pa.field('x', found.type))}: " in reading.error(
        pa.table({"x": found}), {"x": kind}
    )


def test_b30_columns_may_stand_in_another_order_and_be_left_out(reading):
    table = pa.table({"c": [1], "b": ["x"], "a": [2]})

    assert values(reading(table, {"a": "int64", "b": "string"}, ignore=("c",))) == [(2, "x")]
    assert values(reading(table, {"a": "int64", "b": "string"}, extra="ignore")) == [(2, "x")]
    assert values(reading(table, {"k": {"type": "int64", "name": "a"}}, extra="ignore")) == [(2,)]


def test_no_rows_have_the_declared_types(reading):
    rows = reading(pa.table({"a": pa.array([], pa.int32())}), {"a": "int64"})

    assert rows.kept.num_rows == 0


def test_b28_what_is_no_such_file_is_named(tmp_path):
    good = store(tmp_path / "good.parquet", pa.table({"a": [1, 2, 3]})).read_bytes()
    told = {}
    for name, content in {
        "empty": b"",
        "csv": b"a\n1\n2\n3\n4\n5\n6\n",
        "cut": good[:-10],
        "head": b"XXXX" + good[4:],
    }.items():
        path = write(tmp_path / f"{name}.parquet", content)
        with pytest.raises(InputError) as caught:
            read_once({"a": "int64"}, path, kind="parquet")
        told[name] = str(caught.value).replace(f"{tmp_path}/", "")
    assert told["empty"] == (
        "empty.parquet: no Parquet file (0 bytes): it begins with b'', expected b'PAR1'; check path and kind"
    )
    assert told["csv"] == (
        "csv.parquet: no Parquet file (14 bytes): it begins with b'a\\n1\\n', expected b'PAR1'; check path and kind"
    )
    assert told["cut"].startswith(f"cut.parquet: damaged or no Parquet ({len(good) - 10} bytes): ")
    assert told["cut"].endswith("; restore it from a copy, or check path and kind")
    assert told["head"].startswith("head.parquet: no Parquet file")


def test_b29_a_flipped_byte_in_a_page_with_a_checksum_is_found(tmp_path):
    path = store(tmp_path / "a.parquet", pa.table({"a": pa.array(range(1000), pa.int64())}), rows=1000)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    write(path, bytes(content))

    with pytest.raises(InputError, match=r"a\.parquet: damaged or no Parquet .*CRC"):
        read_once({"a": "int64"}, path, kind="parquet")


def test_a_large_row_group_is_cut_and_small_ones_are_put_together(tmp_path):
    large = store(
        tmp_path / "large.parquet", pa.table({"a": np.random.default_rng(0).random(100_000)}), rows=100_000
    )
    small = store(tmp_path / "small.parquet", pa.table({"a": list(range(1000))}), rows=1)

    counts = {}
    for path in (large, small):
        source = declared({"a": "float64"}, path=str(path), kind="parquet", part_bytes=100_000)
        [file] = sources.files(source)
        counts[path.name] = [(part.start, part.stop) for part in sources.cut(source, file, 0)]

    assert max(stop - start for start, stop in counts["large.parquet"]) <= 12_500
    assert sum(stop - start for start, stop in counts["large.parquet"]) == 100_000
    assert 1 <= len(counts["small.parquet"]) <= 2


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1) | st.none(),
            st.floats(width=64) | st.none(),
            st.text() | st.none(),
        ),
        max_size=20,
    ),
    st.integers(1, 5),
    st.sampled_from([".parquet", ".arrow", ".arrows"]),
)
def test_no_row_is_lost_and_no_value_changed(tmp_path_factory, rows, size, form):
    table = pa.table(
        {
            name: pa.array([row[at] for row in rows], kind)
            for at, (name, kind) in enumerate({"i": pa.int64(), "f": pa.float64(), "s": pa.string()}.items())
        }
    )
    path = store(tmp_path_factory.mktemp("in") / f"a{form}", table, size)

    made = read_all(
        {"i": "int32", "f": "float64", "s": "string"},
        path,
        CUTS[1:3],
        kind="parquet" if form == ".parquet" else "arrow",
    )

    def good(row):
        i, f, s = row
        return (
            (i is None or -(2**31) <= i < 2**31) and (f is None or np.isfinite(f)) and "\0" not in (s or "")
        )

    assert values(made) == [row for row in rows if good(row)]
    assert made.rejected["_line"].to_pylist() == [at for at, row in enumerate(rows, 1) if not good(row)]
