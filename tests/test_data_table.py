"""What is written as a training set is what is read, and what does not fit names the file and the row."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlflow.data import Dataset, TableFile, sample_field
from dlflow.data.batches import Batches
from dlflow.data.file import _compare_digest
from dlflow.data.table import _samples
from dlflow.errors import ModelError


def write(path, X, y, *, row_group_size=4, field=None, missing=(), label=None, checksums=False):
    """A training set as the warehouse writes it; `missing` are rows whose label is null."""
    X = np.ascontiguousarray(X, np.float32)
    field = field or sample_field(X.shape[1:])
    samples = pa.array([row.tobytes() for row in X], field.type)
    labels = pa.array(y, label, mask=np.isin(np.arange(len(y)), missing))
    schema = pa.schema([pa.field("id", pa.int64()), field, pa.field("y", labels.type)])
    table = pa.Table.from_arrays([pa.array(range(len(X)), pa.int64()), samples, labels], schema=schema)
    pq.write_table(table, path, row_group_size=row_group_size, write_page_checksum=checksums)
    return TableFile.of(path)


def rows(count, first=0, shape=(3,)):
    size = int(np.prod(shape))
    X = np.arange(first * size, (first + count) * size, dtype=np.float32).reshape(count, *shape)
    return X, np.arange(first, first + count, dtype=np.int32)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (1,), (2, 3, 1)])
@pytest.mark.parametrize("label", [pa.int32(), pa.float32(), pa.int64(), pa.int8()])
def test_what_is_written_is_what_is_read(tmp_path, shape, label):
    X, y = rows(10, shape=shape)
    first = write(tmp_path / "a.parquet", X[:7], y[:7], label=label)
    second = write(tmp_path / "b.parquet", X[7:], y[7:], label=label)
    dataset = Dataset((first, second))

    read_X, read_y = dataset.read()

    assert first.row_groups == (4, 3)
    assert (dataset.rows, dataset.shape, dataset.names) == (10, shape, None)
    assert np.array_equal(read_X, X)
    assert np.array_equal(read_y, y)
    assert read_X.dtype == np.float32
    assert read_y.dtype == dataset.label_dtype == label.to_pandas_dtype()


@pytest.mark.parametrize(
    ("dtype", "scale"), [("uint8", 1 / 255), ("int16", None), ("float64", 2.0), ("float32", 0.5)]
)
def test_numbers_of_other_types_are_read_as_float32_times_their_scale(tmp_path, dtype, scale):
    stored = np.arange(20).reshape(5, 2, 2).astype(dtype)
    metadata = {"dtype": dtype, "shape": "[2, 2]"} | ({} if scale is None else {"scale": repr(scale)})
    width = 4 * stored.itemsize
    field = pa.field("x", pa.binary(width), nullable=False, metadata=metadata)
    x = pa.array([row.tobytes() for row in stored], pa.binary(width))
    schema = pa.schema([field, pa.field("y", pa.int32())])
    pq.write_table(
        pa.Table.from_arrays([x, pa.array(range(5), pa.int32())], schema=schema), tmp_path / "a.parquet"
    )

    X, _ = Dataset((TableFile.of(tmp_path / "a.parquet"),)).read()

    assert X.dtype == np.float32
    assert np.array_equal(X, stored.astype(np.float32) * np.float32(scale or 1))


def test_tokens_stay_whole_numbers_up_to_the_batch(tmp_path):
    stored = np.arange(2**24, 2**24 + 20, dtype=np.int32).reshape(5, 4)  # float32 could not tell them apart
    metadata = {"dtype": "int32", "shape": "[4]"}
    field = pa.field("x", pa.binary(16), nullable=False, metadata=metadata)
    x = pa.array([row.tobytes() for row in stored], pa.binary(16))
    schema = pa.schema([field, pa.field("y", pa.int32())])
    table = pa.Table.from_arrays([x, pa.array(range(5), pa.int32())], schema=schema)
    for name in ("a.parquet", "b.parquet"):
        pq.write_table(table, tmp_path / name)
    dataset = Dataset(tuple(TableFile.of(tmp_path / name) for name in ("a.parquet", "b.parquet")))

    X, _ = dataset.read()
    batch, labels = Batches(dataset, batch=4, seed=1).take(0, 1, 0, 4)

    assert X.dtype == batch.dtype == dataset.dtype == np.int32
    assert np.array_equal(X[:5], stored)
    assert np.array_equal(batch, stored[labels])


def test_names_of_the_values_are_kept(tmp_path):
    file = write(tmp_path / "a.parquet", *rows(2), field=sample_field((3,), names=["age", "größe", "pay"]))

    assert Dataset((file,)).names == ("age", "größe", "pay")


def test_other_columns_can_be_samples_and_labels(tmp_path):
    X, y = rows(3)
    file = write(tmp_path / "a.parquet", X, y, field=sample_field((3,), name="inputs"))

    read_X, read_y = Dataset((file,), x="inputs", y="id").read()

    assert np.array_equal(read_X, X)
    assert read_y.tolist() == [0, 1, 2]


def test_samples_are_read_without_a_copy(tmp_path):
    dataset = Dataset((write(tmp_path / "a.parquet", *rows(4)),))

    X, _ = dataset.group(0, 0)

    assert not X.flags.owndata
    assert X.ctypes.data % 4 == 0


def test_a_slice_of_a_column_is_its_own_rows():
    values = np.arange(10, dtype=np.float32)
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(8), 5, [None, pa.py_buffer(values)])

    assert _samples(pa.chunked_array([column.slice(2, 2)]), (2,)).tolist() == [[4, 5], [6, 7]]
    assert _samples(pa.chunked_array([column.slice(4), column.slice(1, 1)]), (2,)).tolist() == [
        [8, 9],
        [2, 3],
    ]


def test_a_file_without_rows_is_read_as_no_rows(tmp_path):
    X, y = rows(3)
    empty, full = write(tmp_path / "a.parquet", X[:0], y[:0]), write(tmp_path / "b.parquet", X, y)

    assert Dataset((empty, full)).read()[0].shape == (3, 3)
    assert Dataset((empty,)).read()[0].shape == (0, 3)
    assert Dataset((empty,)).read()[1].dtype == np.int32


def test_a_missing_label_names_the_file_and_the_row(tmp_path):
    dataset = Dataset((write(tmp_path / "a.parquet", *rows(10), missing=[6, 7]),))

    with pytest.raises(
        ModelError, match=r"a\.parquet: column 'y' is missing in row 6 \(2 rows of its row group\)"
    ):
        dataset.read()


def test_a_missing_sample_names_the_file_and_the_row(tmp_path):
    field = sample_field((1,)).with_nullable(True)
    table = pa.table(
        [pa.array([b"1234", None], field.type), pa.array([0, 1])],
        schema=pa.schema([field, ("y", pa.int64())]),
    )
    pq.write_table(table, tmp_path / "a.parquet")

    with pytest.raises(ModelError, match=r"a\.parquet: column 'x' is missing in row 1"):
        Dataset((TableFile.of(tmp_path / "a.parquet"),)).read()


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_value_that_is_not_finite_names_the_file_the_row_and_the_feature(tmp_path, bad):
    X, y = rows(10)
    X[5, 2] = bad
    file = write(tmp_path / "a.parquet", X, y, field=sample_field((3,), names=["a", "b", "pay"]))

    with pytest.raises(ModelError, match=r"a\.parquet: column 'x', row 5: pay is not finite"):
        Dataset((file,)).read()


def test_a_label_that_is_no_number_is_refused(tmp_path):
    file = write(tmp_path / "a.parquet", rows(2)[0], ["no", "yes"])

    with pytest.raises(
        ModelError, match="column 'y' is string, expected int32 class numbers or float32 values"
    ):
        Dataset((file,)).read()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "expected fixed-size binary with dtype and shape"),
        ({"dtype": "float16", "shape": "[6]"}, "holds 'float16' values"),
        ({"dtype": "float32", "shape": "[2]"}, r"12 bytes per row, shape \(2,\) needs 8"),
    ],
)
def test_a_column_that_holds_no_samples_is_refused(tmp_path, metadata, message):
    field = sample_field((3,)).remove_metadata()
    file = write(tmp_path / "a.parquet", *rows(2), field=field.with_metadata(metadata) if metadata else field)

    with pytest.raises(ModelError, match=message):
        Dataset((file,)).read()


def test_files_must_agree_on_the_shape_of_the_samples(tmp_path):
    files = (write(tmp_path / "a.parquet", *rows(2)), write(tmp_path / "b.parquet", *rows(2, shape=(4,))))

    with pytest.raises(
        ModelError, match=r"b\.parquet: samples have shape \(4,\), those of .*a\.parquet \(3,\)"
    ):
        Dataset(files).read()


def test_files_must_agree_on_the_type_of_the_labels(tmp_path):
    X, y = rows(2)
    files = (write(tmp_path / "a.parquet", X, y), write(tmp_path / "b.parquet", X, y.astype(np.float32)))

    with pytest.raises(ModelError, match=r"b\.parquet: column 'y' is float, in .*a\.parquet int32"):
        Dataset(files).read()


def test_a_column_that_is_not_there_is_named(tmp_path):
    file = write(tmp_path / "a.parquet", *rows(2))

    with pytest.raises(ModelError, match=r"no column 'label', expected it beside \['id', 'x', 'y'\]"):
        Dataset((file,), y="label").read()


def test_a_file_that_was_replaced_is_noticed(tmp_path):
    file = write(tmp_path / "a.parquet", *rows(8))
    write(tmp_path / "a.parquet", *rows(7))
    with pytest.raises(ModelError, match="row group 1 has 3 rows, expected 4; it was replaced"):
        Dataset((file,)).read()

    write(tmp_path / "a.parquet", *rows(12))
    with pytest.raises(ModelError, match="3 row groups, expected 2; it was replaced"):
        Dataset((file,)).read()


def test_a_file_that_is_gone_or_foreign_is_named(tmp_path):
    file = write(tmp_path / "a.parquet", *rows(2))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(ModelError, match=r"a\.parquet: cannot be read as Parquet"):
        Dataset((file,)).read()

    (tmp_path / "a.parquet").unlink()
    with pytest.raises(ModelError, match=r"a\.parquet: there is no such file"):
        Dataset((file,)).read()


def flipped(path):
    """The file with each of its bytes changed, one after the other."""
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        yield place


def test_every_flipped_byte_is_found_by_the_digest(tmp_path):
    path = tmp_path / "a.parquet"
    known = write(path, *rows(4))
    file = replace(known, sha256=known.digest())
    assert Dataset((file,)).read()[1].tolist() == list(range(4))
    _compare_digest.cache_clear()  # each below is a process that has not read it yet

    for _ in flipped(path):
        with pytest.raises(ModelError, match=r"a\.parquet: digest is .*, expected .*the file is damaged"):
            file.opened()


def test_without_the_digest_no_flipped_byte_of_the_rows_is_trained_on(tmp_path):
    """By the checksums of the pages. The footer, which they do not cover, is not damaged here: it can end the process."""
    path = tmp_path / "a.parquet"
    file = write(path, *rows(4), checksums=True)
    with file.opened() as opened:
        columns = [opened.metadata.row_group(0).column(column) for column in (1, 2)]
    spans = [(one.data_page_offset, one.data_page_offset + one.total_compressed_size) for one in columns]
    said = []

    for place in flipped(path):
        if not any(start <= place < end for start, end in spans):
            continue
        try:
            X, y = Dataset((file,)).read()
        except ModelError as error:
            said.append(str(error))
        else:
            assert np.array_equal(X, rows(4)[0])
            assert np.array_equal(y, rows(4)[1])

    assert all(one.startswith(f"{path}: ") for one in said)
    assert sum("checksum" in one for one in said) > 40  # bytes of the compressed values


def test_a_dataset_needs_files():
    with pytest.raises(ModelError, match="has no files"):
        Dataset(())
