"""The bad-input matrix: every kind of damage, B1 to B41, gives its exact table or its exact message, however it is cut.

Cases of CSV and JSON lines are read in every way of cutting the file (`read_all` compares them). What needs more than a
file (a lock, a model, a warehouse) has a test of its own below; the last test says that none is missing.
"""

import gzip
import io
import re
import sqlite3
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlflow.errors import ModelError
from dlflow.nn import Dense, Sequential
from flows.project import open_project
from pipelines import sources
from pipelines.errors import InputError, PartFailed, PipelineError, SchemaMismatch, SourceChanged, SpecError
from pipelines.sources import stream
from pipelines.warehouse import Snapshot, append, read_file, write_file
from pipelines.warehouse.names import check_columns, check_table
from tests.bad_input import CASES, HEAD, XY
from tests.sources_reading import CUTS, declared, read_all, read_once, rejects, values, write
from tests.warehouse_tables import lineage


@pytest.mark.parametrize("case", CASES, ids=[f"{one.id}-{one.what.replace(' ', '_')}" for one in CASES])
def test_matrix(tmp_path, case):
    path = write(tmp_path / case.name, case.content)
    cuts = CUTS if case.kind in {"csv", "jsonl"} else (1, 1 << 24)
    if case.error is not None:
        for size in cuts:
            with pytest.raises(InputError) as caught:
                read_once(case.columns, path, kind=case.kind, part_bytes=size, **case.settings)
            assert str(caught.value).replace(f"{tmp_path}/", "").startswith(case.error)
        return

    found = read_all(case.columns, path, cuts, kind=case.kind, **case.settings)

    assert values(found) == case.rows
    assert rejects(found) == case.rejects
    assert found.kept.schema.names[: len(case.columns)] == list(case.columns)


CUT = [one for one in CASES if one.kind in {"csv", "jsonl"} and not one.name.endswith(".gz")]
SHORT = 300  # bytes of a file that is cut at every one of them


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 5])
@pytest.mark.parametrize("case", CUT, ids=[f"{one.id}-{one.what.replace(' ', '_')}" for one in CUT])
def test_matrix_in_every_way_of_cutting(tmp_path, monkeypatch, case, chunk):
    """Every size of parts from a byte to the whole file (of long files many), and chunks that end anywhere in a record."""
    if chunk is not None:
        monkeypatch.setattr(stream, "CHUNK", chunk)
    path = write(tmp_path / case.name, case.content)
    whole = len(case.content) + 1
    for size in range(1, whole + 1) if whole <= SHORT else [*range(1, 64, 3), *range(64, whole, 191), whole]:
        if case.error is not None:
            with pytest.raises(InputError) as caught:
                read_once(case.columns, path, kind=case.kind, part_bytes=size, **case.settings)
            assert str(caught.value).replace(f"{tmp_path}/", "").startswith(case.error)
            continue
        found = read_once(case.columns, path, kind=case.kind, part_bytes=size, **case.settings)
        assert (values(found), rejects(found)) == (case.rows, case.rejects)


def parquet(path, table, **settings):
    pq.write_table(table, path, **settings)
    return path


def test_b28_a_parquet_file_that_is_cut_is_named_with_its_size(tmp_path):
    whole = parquet(tmp_path / "a.parquet", pa.table({"id": [1]})).read_bytes()
    path = write(tmp_path / "a.parquet", whole[:-7])

    with pytest.raises(
        InputError, match=rf"a\.parquet: damaged or no Parquet \({len(whole) - 7} bytes\): .*; restore it"
    ):
        read_once({"id": "int64"}, path, kind="parquet")


def test_b29_a_flipped_byte_is_never_read_as_other_data(tmp_path):
    """Where pages have checksums in a source, and anywhere in a file of the warehouse, which has a digest."""
    table = pa.table({"id": pa.array(range(50), pa.int64())})
    whole = parquet(
        tmp_path / "a.parquet", table, write_page_checksum=True, compression=None, use_dictionary=False
    ).read_bytes()
    data = whole.index(np.arange(50, dtype="<i8").tobytes())
    for at in range(data, data + 400, 37):
        path = write(tmp_path / "a.parquet", whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(InputError, match="damaged or no Parquet"):
            read_once({"id": "int64"}, path, kind="parquet")
    with pytest.raises(InputError, match="it begins with b'PAR2', expected b'PAR1'"):
        read_once({"id": "int64"}, write(tmp_path / "a.parquet", b"PAR2" + whole[4:]), kind="parquet")

    uri = str(tmp_path / "t")
    append(
        uri,
        [write_file(uri, table, partition={}, schema=table.schema)],
        key="k",
        schema=table.schema,
        lineage=lineage(),
    )
    [stored] = Snapshot.open(uri).files()
    content = bytearray((tmp_path / "t" / stored.path).read_bytes())
    content[1] ^= 1
    (tmp_path / "t" / stored.path).write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"digest is .* expected .*; the file is damaged"):
        read_file(stored, table.schema, verify=True)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (
            {"id": [1], "x": ["1.5"]},
            [
                "- x float64",
                '+ x string: declare "string", or correct the file; correct the declaration or the data',
            ],
        ),
        ({"id": [1]}, ["- x float64: is missing; correct the declaration or the data"]),
        (
            {"id": [1], "x": [1.5], "new": [1]},
            [
                '+ new int64: is not declared; correct the declaration or the data, leave new columns out by ignore = ["new"], or take them in by contract = "evolve"'
            ],
        ),
        (
            {"id": [1.0], "x": [1.5]},
            [
                "- id int64",
                '+ id float64: declare "float64", or correct the file; correct the declaration or the data',
            ],
        ),
    ],
)
def test_b30_drift_of_a_parquet_file_is_told_as_a_difference_of_schemas(tmp_path, found, told):
    first = parquet(tmp_path / "1.parquet", pa.table({"id": [1], "x": [1.5]}))
    parquet(tmp_path / "2.parquet", pa.table(found))
    source = declared({"id": "int64", "x": "float64"}, path=str(tmp_path), kind="parquet")

    one, two = sources.files(source)
    assert one.path == str(first)
    assert sources.read(source, *sources.cut(source, one, 0)).kept.num_rows == 1
    with pytest.raises(InputError) as caught:
        sources.cut(source, two, 1)

    assert str(caught.value).split("\n  ") == [
        f"{tmp_path}/2.parquet: the columns are not those declared (- declared, + in the file):",
        *told,
    ]


@pytest.mark.parametrize(
    ("column", "told"),
    [(pa.array([2.7]), "double"), (pa.array(["7"]), "string"), (pa.array([300], pa.int16()), "int16")],
)
def test_b31_nothing_is_cast_on_the_way_into_a_table(tmp_path, column, told):
    schema = pa.schema([("n", pa.int64())])

    with pytest.raises(
        SchemaMismatch, match=f"column 'n' is {told}, expected int64; add a cast of 'n' before this step"
    ):
        write_file(str(tmp_path / "t"), pa.table({"n": column}), partition={}, schema=schema)


def test_b32_a_locked_or_changing_database_is_named(tmp_path):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as writer:
        writer.executescript("CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (2)")
        writer.isolation_level = None
        source = declared({"id": "int64"}, path=str(path), kind="sqlite", table="t", busy_s=0.1, part_bytes=1)
        [file] = sources.files(source)
        parts = sources.cut(source, file, 0)
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(PartFailed, match=r"a\.db: database is locked, after waiting 0\.1 s \(busy_s\)"):
            sources.read(source, parts[0])
        writer.execute("INSERT INTO t VALUES (3)")
        writer.execute("COMMIT")

    with pytest.raises(SourceChanged, match=r"a\.db: changed since the run was planned"):
        sources.read(source, parts[1])


@pytest.mark.parametrize(
    "name", ["../x", "/etc", "a/b", "a=b", "", ".", "x" * 300, "a\0b", "CON ", "é", "a-b"]
)
def test_b34_such_a_name_is_refused_and_as_a_value_it_makes_no_path(tmp_path, name):
    with pytest.raises(SpecError, match="expected a letter or '_'"):
        check_table(name)
    with pytest.raises(SpecError):
        check_columns(["id", name])
    if name in {"", "a\0b"}:
        return
    schema = pa.schema([("id", pa.int64()), ("p", pa.string())])
    uri = str(tmp_path / "t")
    made = write_file(uri, pa.table({"id": [1]}), partition={"p": name}, schema=schema)
    append(uri, [made], key="k", schema=schema, partition_by=["p"], lineage=lineage())
    assert Snapshot.open(uri).read().to_pylist() == [{"id": 1, "p": name}]
    assert {one.name for one in tmp_path.iterdir()} == {"t"}


def test_b34_names_that_differ_in_case_alone_are_refused():
    with pytest.raises(SpecError, match="case"):
        check_columns(["Id", "id"])


def test_b35_too_many_partitions_are_refused_with_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.warehouse.split.MOST_PARTITIONS", 3)
    schema = pa.schema([("id", pa.int64()), ("p", pa.int64())])
    uri = str(tmp_path / "t")
    made = [write_file(uri, pa.table({"id": [at]}), partition={"p": at}, schema=schema) for at in range(4)]

    with pytest.raises(SchemaMismatch, match=r"4 partitions by \['p'\], expected at most 3"):
        append(uri, made, key="k", schema=schema, partition_by=["p"], lineage=lineage())


def opened(tmp_path, text):
    with pytest.raises(SpecError) as caught:
        open_project(write(tmp_path / "pipeline.toml", text))
    return [problem.removeprefix(f"{tmp_path / 'pipeline.toml'}") for problem in caught.value.problems]


def test_b36_all_that_is_wrong_in_a_pipeline_file_is_told_at_once_with_its_line(tmp_path):
    found = opened(
        tmp_path,
        'name = "x"\n[sources.s]\nkind = "csv"\npath = "s.csv"\ncolumns = { a = "int65", b = "string" }\n'
        '[tables.t]\nsorce = "s"\n[tables.u]\nsource = "s"\nsteps = [{ do = "dedupe" }]\npartition_by = 3\n[moduls.m]\n',
    )

    assert found == [
        ":5: sources.s.columns.a: type 'int65' is not known; did you mean 'int64'?",
        ":7: unknown key 'sorce' in tables.t; did you mean 'source'?",
        ":10: tables.u.steps[0]: there is no step 'dedupe'; did you mean 'deduplicate'?",
        ":11: tables.u.partition_by = 3: input should be a valid tuple",
        ":12: unknown section 'moduls'; did you mean 'models'?",
    ]


def test_b37_a_pipeline_file_is_toml_and_holds_a_key_once(tmp_path):
    assert opened(tmp_path, 'name = "x"\nname = "y"\n') == [
        ": not valid TOML: Cannot overwrite a value (at line 2, column 11); strings need quotes, tables need [brackets]"
    ]


def test_b38_names_of_a_database_are_quoted(tmp_path):
    path, table, column = tmp_path / "a.db", 'x"; DROP TABLE t; --', 'c" FROM t; --'
    with closing(sqlite3.connect(path)) as writer:
        quoted = [name.replace('"', '""') for name in (table, column)]
        writer.executescript(
            f'CREATE TABLE "{quoted[0]}" ("{quoted[1]}" INTEGER); INSERT INTO "{quoted[0]}" VALUES (7); CREATE TABLE t (a)'
        )

    rows = read_all({"c": {"type": "int64", "name": column}}, path, kind="sqlite", table=table)

    assert values(rows) == [(7,)]
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (0,)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.array([0, 7, 1]), "label of row 1 is 7"),
        (np.array([0, 1, -1]), "label of row 2 is -1"),
        (np.array([0.0, 1.5, 1.0]), "1.5"),
        (np.array([0.0, np.nan, 1.0]), "nan"),
        (np.array(["a", "b", "a"]), "number the classes from 0"),
    ],
)
def test_b39_labels_that_do_not_fit_are_told_before_the_first_step(labels, told):
    model = Sequential([Dense(5, activation="softmax")])
    model.compile(optimizer="sgd", loss="sparse_categorical_cross_entropy")

    with pytest.raises(ModelError, match=told):
        model.fit(np.zeros((3, 2), np.float32), labels, batch_size=2, epochs=1)


def test_b40_no_rows_are_an_error_and_a_small_set_is_one_batch():
    model = Sequential([Dense(1)])
    model.compile(optimizer="sgd", loss="mean_squared_error")

    with pytest.raises(ModelError):
        model.fit(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), batch_size=4, epochs=1)
    history = model.fit(np.ones((2, 2), np.float32), np.ones(2, np.float32), batch_size=1000, epochs=2)
    assert [np.isfinite(epoch["loss"]) for epoch in history] == [True, True]


def test_b40_files_without_rows_change_nothing(tmp_path):
    for name, content in {"1": HEAD, "2": HEAD + b"1,1.5,a\n", "3": b""}.items():
        write(tmp_path / f"{name}.csv", content)
    source = declared(XY, path=str(tmp_path), kind="csv", allow_empty=True)

    made = [
        sources.read(source, part)
        for at, one in enumerate(sources.files(source))
        for part in sources.cut(source, one, at)
    ]

    assert [one.kept.num_rows for one in made] == [0, 1, 0]


def test_b41_a_bomb_is_refused_after_its_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_FREE_BYTES", 1 << 20)
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as packed:
        packed.write(HEAD + b"1,1.5,a\n" * 1_000_000)
    path = write(tmp_path / "in.csv.gz", out.getvalue())

    with pytest.raises(
        InputError,
        match=r"in\.csv\.gz: [\d,]+ bytes unpack to more than [\d,]+, over 200 to 1; if that is meant",
    ):
        read_once(XY, path, kind="csv")


def test_every_row_of_the_matrix_has_a_test():
    named = {int(number) for name in globals() for number in re.findall(r"^test_b(\d+)_", name)}

    assert named | {int(one.id[1:]) for one in CASES} == set(range(1, 42))
    assert {int(one.id[1:]) for one in CUT if one.kind == "csv"} == set(range(1, 26))
    assert issubclass(InputError, PipelineError)
