"""A tensor column goes from the file to the model: through steps, an exchange, the warehouse, the profile, to float32."""

import numpy as np
import pytest

from dlflow.data import Dataset, TableFile
from pipelines import warehouse
from pipelines.engine import InProcess
from pipelines.inspection import profile_table
from pipelines.storage import reference
from pipelines.tensor import of_numbers
from tests.projects import ledger, quarantined, run
from tests.sources_reading import write
from tests.test_sources_idx import idx

PIPELINE = """
name = "digits"

[sources.train]
kind = "idx"
path = "data/train-images-idx3-ubyte"
labels = "data/train-labels-idx1-ubyte"
[sources.train.columns]
image = { type = "tensor", dtype = "uint8", shape = [4, 4], scale = 0.00392156862745098 }
y = { type = "int32", name = "label", nullable = false }

[tables.digits]
source = "train"
steps = [
  { do = "derive", columns = { id = "y * 1" } },
  { do = "quarantine", where = "y == 9", rule = "nine" },
  { do = "keep", where = "y < 8" },
  { do = "deduplicate", by = ["y"], keep = "first" },
  { do = "rename", columns = { image = "x" } },
  { do = "split", by = ["y"], test = 0.4 },
]
checks = [{ check = "not_null", columns = ["x"] }, { check = "unique", columns = ["y"] }]
partition_by = ["split"]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    (folder / "data").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 4)).astype(np.uint8)
    labels = (np.arange(200) % 10).astype(np.uint8)
    write(folder / "data" / "train-images-idx3-ubyte", idx(images))
    write(folder / "data" / "train-labels-idx1-ubyte", idx(labels))
    write(folder / "pipeline.toml", PIPELINE)
    run(folder)
    return folder, images, labels


def test_images_come_through_an_exchange_and_are_read_as_float32(project):
    folder, images, labels = project
    uri = str(folder / "warehouse" / "digits")
    files = [TableFile.of(file.absolute) for file in warehouse.Snapshot.open(uri).files()]

    dataset = Dataset(tuple(files))
    X, y = dataset.read()

    expected = {(images[at].tobytes(), int(labels[at])) for at in range(8)}
    stored = np.rint(X * 255).astype(np.uint8)
    assert {(one.tobytes(), int(label)) for one, label in zip(stored, y, strict=True)} == expected
    assert (dataset.shape, X.dtype, len(X)) == ((4, 4), np.float32, 8)
    assert X.max() <= 1.0


def test_the_ledger_balances_and_bytes_stay_out_of_the_quarantine(project):
    folder, _, _ = project

    steps = {(table, step): numbers for table, step, *numbers in ledger(folder)}
    nines = quarantined(folder, "digits")

    assert steps["digits", "read"][:3] == [200, 0, 200]
    assert len(nines) == 20
    assert {row["raw"] for row in nines} == {'{"image": "16 bytes", "y": 9, "id": 9}'}


def test_the_profile_has_the_other_columns(project):
    folder, _, _ = project
    snapshot = warehouse.Snapshot.open(str(folder / "warehouse" / "digits"))

    assert set(profile_table(reference("digits", snapshot), InProcess())) == {"y", "id", "split"}


@pytest.mark.parametrize(
    ("numbers", "dtype", "fine"),
    [
        (np.array([[1.0, 2.0], [1.5, 2.0], [np.nan, 1.0]]), "int8", [True, False, False]),
        (np.array([1, 300, -1], np.int16), "uint8", [True, False, False]),
        (np.array([2**64 - 1, 5], np.uint64), "int32", [False, True]),
        (np.array([1e300, 1.0]), "float32", [False, True]),
        (np.array([np.inf, 0.1]), "float64", [False, True]),
    ],
)
def test_numbers_become_another_type_only_where_nothing_is_lost(numbers, dtype, fine):
    found, which = of_numbers(numbers, dtype)

    assert found.dtype == dtype
    assert which.tolist() == fine
