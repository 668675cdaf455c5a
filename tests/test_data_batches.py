"""Batches: every row once per epoch, the same rows however they are taken, by whomever, in whatever order."""

from itertools import chain, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlflow.data import Batches, Dataset, TableFile, sample_field
from dlflow.errors import ModelError


class InMemory(Dataset):
    """Row i is the number i, twice; counts how often a row group is read."""

    shape = (2,)
    dtype = np.dtype(np.float32)
    label_dtype = np.dtype(np.int32)

    def group(self, file, group):
        self.__dict__.setdefault("reads", []).append((file, group))
        begins = [
            sum(sum(each.row_groups) for each in self.files[:file]),
            sum(self.files[file].row_groups[:group]),
        ]
        numbers = np.arange(self.files[file].row_groups[group], dtype=np.int32) + sum(begins)
        return np.repeat(numbers[:, None], 2, axis=1).astype(np.float32), numbers


def dataset(groups):
    return InMemory(tuple(TableFile(str(number), tuple(rows)) for number, rows in enumerate(groups)))


def numbers(batches, epoch):
    return [batches.take(epoch, step, 0, batches.size(step))[1].tolist() for step in range(batches.steps)]


layouts = st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=4)
settings_of_batches = st.fixed_dictionaries(
    {"batch": st.integers(1, 30), "seed": st.integers(0, 2**64 - 1), "window_rows": st.integers(1, 40)}
)


@given(layouts, settings_of_batches, st.integers(0, 1000))
def test_every_row_is_in_one_batch_of_an_epoch(layout, options, epoch):
    batches = Batches(dataset(layout), **options)

    taken = numbers(batches, epoch)

    assert sorted(chain.from_iterable(taken)) == list(range(batches.rows))
    assert [len(each) for each in taken] == [batches.size(step) for step in range(batches.steps)]
    assert all(len(each) == options["batch"] for each in taken[:-1])


@given(layouts, settings_of_batches, st.data())
def test_a_batch_is_the_same_however_it_is_taken(layout, options, data):
    """Shards of any size, steps in any order, epochs in between, a worker that has read nothing before."""
    whole = Batches(dataset(layout), **options)
    expected = [numbers(whole, epoch) for epoch in (0, 1)]
    worker = Batches(dataset(layout), **options)
    places = [(epoch, step) for epoch in (0, 1) for step in range(whole.steps)]

    for epoch, step in data.draw(st.permutations(places)):
        cuts = data.draw(st.lists(st.integers(0, whole.size(step)), max_size=3))
        edges = [0, *sorted(cuts), whole.size(step)]
        shards = [worker.take(epoch, step, low, high) for low, high in pairwise(edges)]

        assert list(chain.from_iterable(y.tolist() for _, y in shards)) == expected[epoch][step]
        assert all(np.array_equal(X, np.stack([y, y], axis=1)) for X, y in shards)


@given(layouts, settings_of_batches)
def test_no_more_than_two_windows_are_in_memory(layout, options):
    batches = Batches(dataset(layout), **options)

    for step in range(batches.steps):
        batches.take(0, step, 0, batches.size(step))
        held = [len(y) for _, y in batches._kept.values()]

        assert len(held) <= 2
        assert all(rows <= max(options["window_rows"], 9) for rows in held)


@given(layouts, settings_of_batches)
def test_an_epoch_in_order_reads_every_row_group_once(layout, options):
    data = dataset(layout)

    numbers(Batches(data, **options), 0)

    expected = [
        (file, group) for file, rows in enumerate(layout) for group, count in enumerate(rows) if count
    ]
    assert sorted(data.__dict__.get("reads", [])) == expected


def test_rows_that_fit_one_window_are_read_once_in_all():
    data = dataset([[5, 5], [5]])
    batches = Batches(data, batch=4, seed=0)

    orders = [numbers(batches, epoch) for epoch in range(4)]

    assert len(data.reads) == 3
    assert len({str(order) for order in orders}) == 4


def test_epochs_and_seeds_have_different_orders():
    data = dataset([[50] * 4])
    orders = [
        numbers(Batches(data, batch=200, seed=seed, window_rows=80), epoch)
        for seed in (0, 1)
        for epoch in (0, 1)
    ]

    assert len({str(order) for order in orders}) == 4
    assert orders[0] == numbers(Batches(data, batch=200, seed=0, window_rows=80), 0)


def test_row_groups_meet_others_in_every_epoch():
    batches = Batches(dataset([[10] * 20]), batch=20, seed=0, window_rows=20)

    pairs = [frozenset(number // 10 for number in numbers(batches, epoch)[0]) for epoch in range(5)]

    assert {len(pair) for pair in pairs} == {2}
    assert len(set(pairs)) > 1


def test_rows_of_different_row_groups_and_files_meet_in_a_batch():
    first = numbers(Batches(dataset([[100, 100], [100, 100]]), batch=40, seed=3), 0)[0]

    assert {number // 100 for number in first} == {0, 1, 2, 3}


def test_a_dataset_smaller_than_the_batch_is_one_batch():
    batches = Batches(dataset([[3]]), batch=128, seed=0)

    assert (batches.steps, batches.size(0)) == (1, 3)
    assert sorted(numbers(batches, 0)[0]) == [0, 1, 2]


def test_a_dataset_without_rows_has_no_steps_but_empty_shards():
    batches = Batches(dataset([[], [0]]), batch=8, seed=0)

    assert batches.steps == 0
    assert batches.take(0, 0, 0, 0)[0].shape == (0, 2)


def test_an_empty_shard_has_the_shape_and_type_of_rows():
    X, y = Batches(dataset([[9]]), batch=4, seed=0).take(0, 1, 2, 2)

    assert (X.shape, X.dtype, y.shape, y.dtype) == ((0, 2), np.float32, (0,), np.int32)


def test_taken_rows_belong_to_the_caller():
    batches = Batches(dataset([[4]]), batch=4, seed=0)
    X, y = batches.take(0, 0, 0, 4)
    X[:], y[:] = -1, -1

    assert sorted(batches.take(0, 0, 0, 4)[1].tolist()) == [0, 1, 2, 3]


def test_wide_samples_make_smaller_windows():
    data = dataset([[8] * 10])
    batches = Batches(data, batch=8, seed=0, window_bytes=16 * 8)  # 8 bytes per sample: 16 rows

    batches.take(0, 0, 0, 8)
    batches.close()

    assert len(data.reads) == 4  # a window of two row groups, and the next


@pytest.mark.parametrize(
    ("step", "start", "stop"), [(0, 0, 5), (0, 3, 2), (0, -1, 2), (-1, 0, 1), (3, 0, 1), (2, 0, 3)]
)
def test_rows_outside_a_batch_are_refused(step, start, stop):
    batches = Batches(dataset([[5], [5]]), batch=4, seed=0)

    with pytest.raises(ModelError, match="an epoch has 3 steps"):
        batches.take(0, step, start, stop)


def test_sizes_below_one_are_refused():
    for options in ({"batch": 0}, {"batch": 1, "window_rows": 0}):
        with pytest.raises(ModelError, match="expected at least 1"):
            Batches(dataset([[5]]), seed=0, **options)


@settings(max_examples=10, deadline=None)
@given(
    layout=st.lists(st.lists(st.integers(1, 9), max_size=3), min_size=1, max_size=3), seed=st.integers(0, 9)
)
def test_files_give_the_rows_that_were_written(tmp_path_factory, layout, seed):
    folder, files, first = tmp_path_factory.mktemp("rows"), [], 0
    schema = pa.schema([sample_field((1,)), ("y", pa.float32())])
    for number, groups in enumerate(layout):
        path = folder / f"{number}.parquet"
        with pq.ParquetWriter(path, schema) as writer:
            for count in groups:
                values = np.arange(first, first + count, dtype=np.float32)
                samples = pa.FixedSizeBinaryArray.from_buffers(
                    pa.binary(4), count, [None, pa.py_buffer(values)]
                )
                writer.write_table(pa.Table.from_arrays([samples, pa.array(values)], schema=schema))
                first += count
        files.append(TableFile.of(path))
    batches = Batches(Dataset(tuple(files)), batch=4, seed=seed, window_rows=10)

    taken = [batches.take(0, step, 0, batches.size(step)) for step in range(batches.steps)]

    assert sorted(chain.from_iterable(y.tolist() for _, y in taken)) == list(range(first))
    assert all(np.array_equal(X[:, 0], y) for X, y in taken)


def test_the_next_window_is_read_beside_the_training_and_an_error_is_raised_where_it_is_wanted():
    data = dataset([[10] * 6])
    batches = Batches(data, batch=5, seed=1, window_rows=10)
    batches.take(0, 0, 0, 5)
    batches._ahead.join()

    assert len(data.reads) == 2
    broken, whole = [], data.group

    def group(file, number):
        if len(data.reads) >= 3:
            broken.append(number)
            raise ModelError("gone")
        return whole(file, number)

    object.__setattr__(data, "group", group)
    for step in (1, 2, 3):
        batches.take(0, step, 0, 5)
    with pytest.raises(ModelError, match="gone"):
        batches.take(0, 6, 0, 5)
    assert broken
    batches.close()
    batches.close()
