import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.hashing import row_hash, unit_interval


def test_the_hash_is_the_same_for_ever():
    table = pa.table({"a": [1, 2, None], "b": ["x", "yy", None], "c": [0.5, -0.0, None]})

    hashes = row_hash(table, ("a", "b", "c"))

    assert hashes.tolist() == [15027396898995477062, 13483369793213302773, 6590794944062180951]


@given(st.lists(st.text(max_size=8) | st.none(), max_size=40), st.integers(0, 40))
def test_a_row_hashes_the_same_wherever_it_stands(texts, cut):
    table = pa.table({"t": pa.array(texts, pa.string())})

    whole = row_hash(table, ("t",))
    pieces = [row_hash(piece, ("t",)) for piece in (table.slice(0, cut), table.slice(cut))]

    assert np.array_equal(whole, np.concatenate(pieces))
    chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    assert np.array_equal(whole, row_hash(chunked, ("t",)))


def test_equal_numbers_hash_equally_and_order_of_columns_counts():
    table = pa.table({"a": pa.array([1, 2], pa.int8()), "b": pa.array([2, 1], pa.int64()), "z": [0.0, -0.0]})

    assert row_hash(table, ("a",)).tolist() == row_hash(table, ("b",))[::-1].tolist()
    assert row_hash(table, ("a", "b"))[0] != row_hash(table, ("b", "a"))[0]
    assert len(set(row_hash(table, ("z",)).tolist())) == 1


def test_hashes_spread_evenly_over_buckets():
    numbers = pa.table({"n": np.arange(100_000), "s": pa.array(np.arange(100_000)).cast(pa.string())})

    for column in ("n", "s"):
        counts = np.bincount((row_hash(numbers, (column,)) % np.uint64(16)).astype(int), minlength=16)
        assert counts.min() > 0.95 * 100_000 / 16
        assert abs(unit_interval(row_hash(numbers, (column,))).mean() - 0.5) < 0.005


def test_dates_times_bools_and_dictionaries_hash():
    moment = pa.array([0, 1], pa.int64()).cast(pa.timestamp("us", "UTC"))
    table = pa.table(
        {
            "d": pa.array([0, 1], pa.int32()).cast(pa.date32()),
            "t": moment,
            "b": [True, False],
            "k": pa.array(["x", "y"]).dictionary_encode(),
            "s": ["x", "y"],
        }
    )

    for column in ("d", "t", "b"):
        assert len(set(row_hash(table, (column,)).tolist())) == 2
    assert row_hash(table, ("k",)).tolist() == row_hash(table, ("s",)).tolist()
    assert row_hash(table.slice(0, 0), ("s", "t")).shape == (0,)


def test_texts_that_repeat_hash_as_each_of_them_does():
    few = pa.array(["north", None, "", "südlich"] * 1000, pa.string())
    alone = [row_hash(pa.table({"t": few[row : row + 1]}), ("t",))[0] for row in range(4)]

    assert np.array_equal(row_hash(pa.table({"t": few}), ("t",)), np.tile(alone, 1000))
    encoded = pa.table({"t": few.dictionary_encode()})
    assert np.array_equal(row_hash(encoded, ("t",)), np.tile(alone, 1000))
    nothing = pa.table({"t": pa.nulls(2, pa.string()).dictionary_encode()})
    assert np.array_equal(row_hash(nothing, ("t",)), np.repeat(alone[1], 2))
