"""A proposed source reads the sample it was proposed from, and says what it is not sure of."""

import gzip
import json
import sqlite3
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import sources, spec
from pipelines.errors import InputError
from pipelines.guess import column
from pipelines.infer import infer
from tests import projects
from tests.postgres import PASSWORD
from tests.stores import KEY, SECRET
from tests.test_sources_idx import idx


def declared(folder, text):
    """The proposed source, as the pipeline file has it."""
    (folder / "pipeline.toml").write_text(text)
    [source] = spec.load(folder / "pipeline.toml").sources.values()
    return source


def rows(source):
    """Good rows and rejects of all files."""
    made = [
        sources.read(source, part)
        for number, file in enumerate(sources.files(source))
        for part in sources.cut(source, file, number)
    ]
    return sum(one.kept.num_rows for one in made), sum(
        one.rejected.num_rows for one in made if one.rejected is not None
    )


def test_a_csv_is_proposed_with_its_evidence(tmp_path):
    (tmp_path / "a.csv").write_text(
        "id;Unit Price;when;us;both;code;ok;flag;land\n"
        "1;1,5;2024-05-01;12/31/2024;01/02/2024;007;true;1;NA\n"
        "2;NA;2024-05-02;01/02/2024;03/04/2024;008;false;0;DE\n"
        "3;2,5;;01/02/2024;05/06/2024;009;true;0;FR\n"
    )

    text = infer(str(tmp_path / "a.csv"))

    assert (
        text
        == f"""\
# proposed by dlflow infer from 3 rows of 1 of 1 file; check every line
[sources.a]
kind = "csv"
path = "{tmp_path}/a.csv"
delimiter = ";"
decimal = ","

[sources.a.columns]
id = {{ type = "int64" }}  # none missing; 1 to 3
Unit_Price = {{ type = "float64", name = "Unit Price", null = ["", "NA"] }}  # 33.3% missing; 1.5 to 2.5
when = {{ type = "date" }}  # 33.3% missing; 2024-05-01 to 2024-05-02
us = {{ type = "date", format = "%m/%d/%Y" }}  # none missing; 2024-01-02 to 2024-12-31; format '%m/%d/%Y' was the only one that fits
both = {{ type = "string" }}  # none missing; AMBIGUOUS dates: '%d/%m/%Y' and '%m/%d/%Y' read all of them, such as '01/02/2024'; set type and format
code = {{ type = "string" }}  # none missing; values '007', '008', '009'; leading zeros ('007'), so no number; up to 3 characters
ok = {{ type = "bool" }}  # none missing; all values fit
flag = {{ type = "int64" }}  # none missing; 0 to 1; 0 and 1 alone: bool would read them too
land = {{ type = "string" }}  # 33.3% missing; values 'DE', 'FR'; 'NA' 1 times, taken as text; up to 2 characters
"""
    )
    assert rows(declared(tmp_path, text)) == (3, 0)


def test_values_that_would_be_set_aside_are_told_before(tmp_path):
    lines = [str(number) for number in range(99)] + ["oops"]

    guess = column(lines)

    assert (guess.type, guess.evidence[-1]) == (
        "int64",
        "1 of 100 values do not fit and would be set aside: 'oops'",
    )


def test_drift_between_files_and_another_encoding_are_said(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_bytes("stadt,n\nKöln,1\n".encode("cp1252"))
    (tmp_path / "data" / "b.csv").write_text("stadt,n,more\nBonn,1,2\n")

    text = infer(str(tmp_path / "data"))

    assert "# not UTF-8; gb18030 reads it, which is a guess" in text or "# not UTF-8; cp1252 reads it" in text
    assert (
        "# DRIFT: the files have 2 sets of columns; if they are different data, declare a source for each:\n"
        in text
    )
    assert "#   a.csv: stadt, n\n#   b.csv: + more\n" in text
    assert rows(declared(tmp_path, text)) == (2, 0)


def test_files_of_different_data_are_told_apart_and_load_as_proposed(tmp_path):
    for name, content in {"a": "id,x\n1,2\n", "b": "id,x\n3,4\n", "c": "key,y,z\n5,6,7\n"}.items():
        (tmp_path / f"{name}.csv").write_text(content)
        pq.write_table(
            pa.table({one: [1] for one in content.split("\n")[0].split(",")}), tmp_path / f"{name}.parquet"
        )

    for end in ("csv", "parquet"):
        text = infer(str(tmp_path / f"*.{end}"))

        assert f"#   a.{end} and 1 more: id, x\n#   c.{end}: + key, y, z - id, x\n" in text
        assert 'optional = ["id", "x", "key", "y", "z"]  # null where a file lacks them' in text
        assert rows(declared(tmp_path, text)) == (3, 0)


@pytest.mark.parametrize("kind", ["jsonl", "sqlite", "parquet", "gz", "headless"])
def test_every_kind_is_read_by_what_is_proposed_for_it(tmp_path, kind):
    table = None
    match kind:
        case "jsonl":
            path = tmp_path / "a.jsonl"
            lines = [
                {"id": n, "who": {"age": n / 2, "zip": str(n)}, "tags": [n], "ok": True} for n in range(5)
            ]
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        case "sqlite":
            path, table = tmp_path / "a.db", "t"
            with closing(sqlite3.connect(path)) as database:
                database.executescript(
                    "CREATE TABLE t (id INTEGER, zip TEXT, x REAL, b BLOB); CREATE TABLE u (i)"
                )
                database.executemany(
                    "INSERT INTO t VALUES (?, ?, ?, x'00')", [(n, str(n), n / 2) for n in range(5)]
                )
                database.commit()
        case "parquet":
            path = tmp_path / "a.parquet"
            pq.write_table(pa.table({"id": range(5), "l": [[1]] * 5, "s": ["a"] * 5, "x": [0.5] * 5}), path)
        case "gz":
            path = tmp_path / "a.csv.gz"
            path.write_bytes(gzip.compress(b"id,x\n" + b"1,0.5\n" * 5))
        case "headless":
            path = tmp_path / "a.csv"
            path.write_text("1,0.5\n" * 5)

    source = declared(tmp_path, infer(str(path), table=table))

    assert rows(source) == (5, 0)


CELLS = st.one_of(
    st.integers(-5, 2000).map(str),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(str),
    st.dates().map(str),
    st.sampled_from(
        ["", "NA", "x", "007", "true", "01/02/2024", "31/12/2024", "2024-05-01T10:00:00", "a b", "1e5"]
    ),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=st.lists(CELLS, min_size=1, max_size=12), kind=st.sampled_from([0, 1]))
def test_whatever_stands_in_a_column_the_proposal_loads_and_at_most_what_it_says_is_set_aside(
    tmp_path, cells, kind
):
    cells = cells if kind else cells[:1] * 5
    path = tmp_path / "a.csv"
    path.write_text("id,v\n" + "".join(f"{number},{cell}\n" for number, cell in enumerate(cells)))

    text = infer(str(path))

    good, bad = rows(declared(tmp_path, text))
    assert good + bad == len(cells)
    assert bad == 0 or f"{bad:,} of " in text


def test_a_type_that_reads_all_values_goes_before_one_that_reads_most():
    assert column([*map(str, range(99)), "0.5"]).type == "float64"


@pytest.mark.parametrize("kind", ["arrow", "idx", "text", "documents", "tables", "url", "noname"])
def test_every_other_kind_is_read_by_what_is_proposed_for_it(tmp_path, kind):
    expected = 5
    match kind:
        case "arrow":
            path = tmp_path / "a.feather"
            table = pa.table(
                {
                    "id": pa.array(range(5), pa.int16()),
                    "t": pa.array(range(5), pa.timestamp("ms")),
                    "l": [[1]] * 5,
                }
            )
            with pa.ipc.new_file(path, table.schema) as file:
                file.write_table(table)
        case "idx":
            path = tmp_path / "a-images-idx3-ubyte"
            path.write_bytes(idx(np.zeros((5, 2, 3), np.uint8)))
            (tmp_path / "a-labels-idx1-ubyte").write_bytes(idx(np.zeros(5, np.uint8)))
        case "text":
            path = tmp_path / "a.txt"
            path.write_text(
                "".join(f'a long line with "quotes and a number {n}\t{n % 2}\n' for n in range(5))
            )
        case "documents":
            path = tmp_path / "data"
            for n in range(5):
                (path / f"c{n % 2}").mkdir(parents=True, exist_ok=True)
                (path / f"c{n % 2}" / f"{n}.txt").write_text("x")
        case "noname":
            path = tmp_path / "a.dat"
            path.write_text("id;x;\n" + "".join(f"{n};{n / 2};\n" for n in range(5)))
        case _:
            path = tmp_path / "a.db"
            with closing(sqlite3.connect(path)) as database:
                database.executescript("CREATE TABLE t (id INTEGER); CREATE TABLE u (i REAL, d TEXT)")
                database.execute("INSERT INTO t VALUES (1), (2), (3)")
                database.execute("INSERT INTO u VALUES (1, '2024-01-01'), (2.5, NULL)")
                database.commit()

    text = infer(f"sqlite:///{path}" if kind == "url" else str(path))
    (tmp_path / "pipeline.toml").write_text(text)
    found = spec.load(tmp_path / "pipeline.toml").sources

    assert [sum(rows(one)[part] for one in found.values()) for part in (0, 1)] == [expected, 0]
    assert kind != "tables" or list(found) == ["t", "u"]
    assert kind != "text" or "label" in text


def test_objects_of_a_store_and_tables_of_a_server_are_looked_at_by_url(
    store, bucket, postgres, database, monkeypatch, tmp_path
):
    for name, value in {
        "AWS_ENDPOINT_URL": store.storage.endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    url = store.put(f"s3://{bucket}/in/a.csv", "id;x\n1;0,5\n2;1,5\n")
    assert rows(declared(tmp_path, infer(url))) == (2, 0)
    assert 'decimal = ","' in infer(f"s3://{bucket}/in/*.csv")
    postgres.run(
        "CREATE TABLE people (id bigint PRIMARY KEY, born date, name text, price numeric, tags text[])",
        "INSERT INTO people VALUES (1, '2001-02-03', 'a', 1.50, '{x}'), (2, NULL, NULL, 2, NULL)",
        database=database,
    )
    address = postgres.url(database)

    text = infer(address)

    assert 'born = { type = "date" }  # as the database says; 50.0% missing' in text
    assert PASSWORD not in text
    monkeypatch.setenv("PASSWORD", PASSWORD)
    assert rows(declared(tmp_path, text)) == (2, 0)
    with pytest.raises(InputError, match="which table"):
        infer(address, table="peeple")


def test_what_cannot_be_looked_at_is_a_sentence(tmp_path):
    (tmp_path / "a.xyz").write_text("x")

    with pytest.raises(InputError, match="a file of unknown kind"):
        infer(str(tmp_path / "a.xyz"))
    with pytest.raises(
        InputError, match=r"no file to look at; .* has a\.xyz; expected a file, a folder or a glob of CSV"
    ):
        infer(str(tmp_path / "*.csv"))


def test_the_command_writes_a_new_file_and_no_old_one(tmp_path):
    (tmp_path / "a.csv").write_text("id\n1\n")

    said = projects.command(tmp_path, "infer", "a.csv", "--output", "source.toml")
    again = projects.command(tmp_path, "infer", "a.csv", "--output", "source.toml")

    assert said.stdout.startswith(
        "wrote source.toml; check every line, and put it into pipeline.toml with a table"
    )
    assert "[sources.a.columns]" in (tmp_path / "source.toml").read_text()
    assert (again.returncode, "source.toml is there" in again.stderr) == (2, True)
