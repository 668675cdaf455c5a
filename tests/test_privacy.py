"""Identifiers become pseudonyms, texts masks, values coarse; and a privacy class follows its column into features."""

import hashlib
import hmac
import pickle

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.project import open_project
from flows.session import plan_of
from pipelines.errors import CheckFailed, SpecError
from pipelines.measures import torn
from pipelines.privacy import Generalise, Mask, Pseudonymise
from pipelines.quality import Check
from tests import projects
from tests.strategies import data, run, with_origin

TEXT = pa.string()
KEY = "0123456789abcdef-secret"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("SHOP_KEY", KEY)


def table(values, dtype, **metadata):
    field = pa.field("x", dtype, metadata=metadata or None)
    return with_origin(pa.table([pa.array(values, dtype)], schema=pa.schema([field])))


def pseudonyms(values, dtype=TEXT, **settings_):
    step = Pseudonymise(columns=("x",), key_env="SHOP_KEY", **settings_).located(None)
    return data(run(step, [table(values, dtype, privacy="direct")]).kept)["x"]


def test_a_pseudonym_is_the_keyed_hash_of_the_text():
    expected = hmac.new(KEY.encode(), b"0:ann", hashlib.sha256).hexdigest()

    assert pseudonyms(["ann", None, "bob", "ann"])[0] == expected[:32]
    assert pseudonyms(["ann"], length=64) == [expected]
    assert pseudonyms(["ann", None, "ann"])[1:] == [None, expected[:32]]
    assert pseudonyms([7], pa.int64()) == pseudonyms(["7"])
    assert pseudonyms(["ann"], scope="a") != pseudonyms(["ann"], scope="b")
    assert pseudonyms(["xann"], scope="") != pseudonyms(["ann"], scope="x")


def test_the_key_is_nowhere_and_another_key_is_another_step(monkeypatch):
    step = Pseudonymise(columns=("x",), key_env="SHOP_KEY").located(None)
    stage = step.stage(table(["ann"], pa.string()).schema)

    shown = f"{step!r} {stage!r}"
    monkeypatch.setenv("SHOP_KEY", "another key, also long enough")
    other = Pseudonymise(columns=("x",), key_env="SHOP_KEY").located(None)

    assert KEY not in shown
    assert other != step
    assert pickle.loads(pickle.dumps(stage)).params["key"].value == KEY.encode()  # noqa: S301 - our own bytes


@pytest.mark.parametrize(("value", "message"), [(None, "holds 0 bytes"), ("short", "holds 5 bytes")])
def test_a_key_that_is_not_there_or_short_is_refused(monkeypatch, value, message):
    monkeypatch.delenv("SHOP_KEY")
    if value:
        monkeypatch.setenv("SHOP_KEY", value)

    with pytest.raises(
        SpecError, match=f"environment variable SHOP_KEY {message}, expected a secret key of at least 16"
    ):
        Pseudonymise(columns=("x",), key_env="SHOP_KEY").located(None)


def test_texts_are_masked_but_for_some_characters():
    texts = ["4711-0815", "123", None, "\u00e9\u00e9\u00e9\u00e9\u00e9", ""]

    def masked(**settings_):
        return data(run(Mask(columns=("x",), **settings_), [table(texts, pa.string())]).kept)["x"]

    assert masked(keep=4) == ["***0815", "***", None, "***\u00e9\u00e9\u00e9\u00e9", "***"]
    assert masked(keep=2, side="start") == ["47***", "12***", None, "\u00e9\u00e9***", "***"]
    assert masked() == ["***", "***", None, "***", "***"]


def coarse(values, dtype, to):
    return data(run(Generalise(columns={"x": to}), [table(values, dtype, privacy="p")]).kept)["x"]


def test_values_become_coarser():
    assert coarse([0, 9, 10, 39, -1, None], pa.int64(), 10) == [0, 0, 10, 30, -10, None]
    assert coarse([-128, 127], pa.int8(), 50) == [-128, 100]
    assert coarse([0.7, 1.25, None], pa.float64(), 0.5) == [0.5, 1.0, None]
    assert coarse(["80331", "8", None], pa.string(), 3) == ["803", "8", None]
    assert [str(day) for day in coarse([19_900], pa.date32(), "quarter")] == ["2024-04-01"]
    (at,) = coarse([1_700_000_000_000_000], pa.timestamp("us", "UTC"), "month")
    assert at.isoformat() == "2023-11-01T00:00:00+00:00"


@settings(max_examples=60, deadline=None)
@given(value=st.floats(-1e9, 1e9), width=st.sampled_from([0.1, 0.3, 7.0, 1000.0]))
def test_what_is_coarse_stays_as_it_is(value, width):
    (once,) = coarse([value], pa.float64(), width)

    assert coarse([once], pa.float64(), width) == [once]
    assert once <= value < once + width * 1.001 + 1e-6


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        (
            Mask(columns=("x",)),
            {b"privacy": b"direct", b"unit": b"kg"},
            {b"privacy": b"direct", b"unit": b"kg"},
        ),
        (Mask(columns=("x",), becomes="none"), {b"privacy": b"direct", b"unit": b"kg"}, {b"unit": b"kg"}),
        (Generalise(columns={"x": 3}), {b"privacy": b"direct"}, None),
        (Generalise(columns={"x": 3}, becomes="quasi"), None, {b"privacy": b"quasi"}),
    ],
    ids=str,
)
def test_every_step_says_what_class_a_column_has_afterwards(step, before, after):
    rows = table(["abcdef"], pa.string()).schema
    schema = rows.set(0, rows.field("x").with_metadata(before))

    assert step.build(schema).field("x").metadata == after


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Mask(columns=("n",)), "column 'n' is int64, expected string"),
        (Mask(columns=("x",), keep=-1), "expected 0 to 100"),
        (Generalise(columns={}), "columns is empty"),
        (Generalise(columns={"x": "year"}), "the column is string, expected a number of characters"),
        (Generalise(columns={"n": 0.5}), "the column is integer, expected a whole width"),
        (Generalise(columns={"n": 0}), "expected a whole width"),
        (Generalise(columns={"d": 3}), 'the column is date, expected "year"'),
        (Generalise(columns={"nn": 3}), "did you mean 'n'?"),
    ],
    ids=str,
)
def test_what_cannot_be_is_told_before_anything_runs(step, message):
    schema = with_origin(
        pa.table(
            {"x": pa.array([], pa.string()), "n": pa.array([], pa.int64()), "d": pa.array([], pa.date32())}
        )
    ).schema

    with pytest.raises(SpecError) as caught:
        step.stage(schema)
    assert message in str(caught.value)


def test_rows_of_rare_combinations_are_counted():
    rows = with_origin(pa.table({"zip": ["1", "1", "2", None, None, "3"], "age": [30, 30, 30, 40, 40, None]}))
    check = Check(check="k_anonymity", columns=("zip", "age"), k=2)

    assert torn(rows, check) == 2
    assert check.expected == "at least 2 rows of every combination"
    with pytest.raises(SpecError, match="k = 1: expected at least 2"):
        Check(check="k_anonymity", columns=("zip",), k=1)


FILE = """[sources.people]
kind = "csv"
path = "people.csv"
[sources.people.columns]
id = "int64"
email = {{ type = "string", privacy = "direct" }}
age = {{ type = "int64", privacy = "quasi" }}
[sources.visits]
kind = "csv"
path = "visits.csv"
columns = {{ visit = "int64", id = "int64", paid = "bool" }}
[tables.people]
source = "people"
steps = [
  {{ do = "pseudonymise", columns = ["email"], key_env = "SHOP_KEY" }},{steps}
]
checks = [{checks}]
[tables.visits]
source = "visits"
steps = [
  {{ do = "join", with = "people", on = ["id"], cardinality = "m:1" }},
  {{ do = "derive", columns = {{ older = "age + 1" }} }},
  {{ do = "rename", columns = {{ older = "years" }} }},
  {{ do = "split", by = ["visit"], test = 0.2 }},
  {{ do = "features", label = "paid", numeric = ["years"]{allow} }},
]
"""


def project(folder, *, steps="", allow="", checks=""):
    (folder / "people.csv").write_text(
        "id,email,age\n" + "".join(f"{n},p{n}@x.org,{20 + n}\n" for n in range(20))
    )
    (folder / "visits.csv").write_text(
        "visit,id,paid\n" + "".join(f"{n},{n % 20},{str(n % 3 == 0).lower()}\n" for n in range(100))
    )
    (folder / "pipeline.toml").write_text(FILE.format(steps=steps, allow=allow, checks=checks), "utf-8")
    return folder / "pipeline.toml"


def test_a_class_follows_a_join_a_derivation_and_a_new_name_and_is_refused_as_a_feature(tmp_path):
    with pytest.raises(SpecError) as caught:
        open_project(project(tmp_path))

    assert (
        "features: column 'years' has privacy class 'quasi' and may not become a feature; drop it, generalise it first, "
        "or allow it by name: allow_private = ['years']"
    ) in str(caught.value)
    open_project(project(tmp_path, allow=', allow_private = ["years"]'))
    open_project(project(tmp_path, steps='\n  { do = "generalise", columns = { age = 10 } },'))


def test_a_run_holds_pseudonyms_and_no_key_and_is_built_again_with_another(tmp_path, monkeypatch):
    file = project(tmp_path, steps='\n  { do = "generalise", columns = { age = 10 } },')

    projects.run(tmp_path)
    emails = [row["email"] for row in projects.content(tmp_path, "people")]
    found = [
        path
        for path in (tmp_path / "warehouse").rglob("*")
        if path.is_file() and KEY.encode() in path.read_bytes()
    ]
    known = plan_of(open_project(file)).nothing_to_do
    monkeypatch.setenv("SHOP_KEY", "another key, also long enough")

    assert all(len(email) == 32 for email in emails)
    assert found == []
    assert known
    assert not plan_of(open_project(file)).tables["people"].current


def test_a_table_that_tells_too_much_is_not_committed(tmp_path):
    checks = '{ check = "k_anonymity", columns = ["age"], k = 5 }'
    project(tmp_path, steps='\n  { do = "generalise", columns = { age = 10 } },', checks=checks)
    projects.run(tmp_path)
    project(tmp_path, allow=', allow_private = ["years"]', checks=checks)

    with pytest.raises(CheckFailed, match="k_anonymity age: found 20 of 20 rows are of rarer ones"):
        projects.run(tmp_path)
