"""What is true of every cleaning step, whatever the rows and however they are cut."""

import dataclasses
import pickle
import re
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from pipelines.clean import MapValues, Text, Trim
from pipelines.columns import Cast, Derive, Drop, Rename, Select
from pipelines.contradictions import Resolve
from pipelines.custom import Python
from pipelines.duplicates import Deduplicate
from pipelines.errors import InputError
from pipelines.fill import Fill
from pipelines.functions import FUNCTIONS
from pipelines.outliers import Clip
from pipelines.privacy import Generalise, Mask, Pseudonymise
from pipelines.rows import Keep, Quarantine
from pipelines.split import Split
from pipelines.stage import ORIGIN, Exchange
from pipelines.steps import STEPS
from pipelines.units import Unit, Units
from pipelines.windows import Window
from tests.strategies import EPOCH, SCHEMA, bits, cuts, in_order, outcome, run, same, tables, with_origin

FULL = with_origin(SCHEMA.empty_table()).schema

IDEMPOTENT = [
    Trim(),
    Trim(columns=("city",)),
    Text(columns=("city", "note"), case="lower", collapse=True, unicode="NFKC"),
    Text(columns=("city",), case="upper", unicode="NFC"),
    Text(columns=("note",), collapse=True),
    Text(columns=("city", "note"), accents="remove", case="upper"),
    MapValues(column="city", values={"a": "alpha", "b": "beta"}),
    MapValues(column="ok", values={"true": True}, other="null"),
    Fill(columns=("age",), value=7),
    Fill(columns=("price", "age"), with_="mean"),
    Fill(columns=("price", "age"), with_="median"),
    Fill(columns=("city", "ok", "day", "at", "price"), with_="mode"),
    Fill(columns=("price",), with_="mean", by=("city", "id")),
    Fill(columns=("city",), with_="mode", by=("ok",)),
    Fill(columns=("city", "price"), with_="forward", by=("id",), order_by=("at", "day")),
    Fill(columns=("age", "ok"), with_="backward", order_by=("price",)),
    Fill(columns=("price",), with_="interpolate", by=("id", "ok"), order_by=("day",)),
    Units(
        column="price", to="EUR", units={"a": 2, "u\u0308": Unit(factor=0.5, offset=3)}, unit_column="city"
    ),
    Clip(columns=("age", "price"), low=-1.5, high=99.5),
    Clip(columns=("price",), high=1.0, on_outlier="null"),
    Keep(where="age > 3 or ok"),
    Quarantine(where="price < 0", rule="negative"),
    Select(columns=("price", "id")),
    Derive(columns={"double": "price / 2", "old": "age > 60 and ok"}),
    Deduplicate(),
    Deduplicate(by=("id",), keep="last"),
    Deduplicate(by=("id", "city"), keep="latest", order_by=("at", "price")),
    Deduplicate(by=("id",), keep="earliest", order_by=("day",)),
    Deduplicate(by=("city",), keep="best", order_by=("at",)),
    Resolve(by=("id",), policy="first", columns=("city", "age")),
    Resolve(by=("id",), policy="latest", order_by=("at",)),
    Resolve(by=("id",), policy="majority", columns=("city",)),
    Resolve(by=("id",), policy="trust", source_column="note", order=("b", "a"), order_by=("at",)),
    Resolve(
        by=("id",),
        policy="majority",
        policies={"ok": "latest", "day": "first", "age": "quarantine"},
        order_by=("at",),
    ),
    Resolve(by=("id",), policy="quarantine", columns=("ok", "price")),
]
ONCE = [
    MapValues(column="city", values={"a": 1, "b": 2.5}, other="quarantine"),
    MapValues(column="age", values={"1": "one", "-1": "minus one"}, other="null"),
    Clip(columns=("price", "age"), method="iqr", factor=0.5),
    Clip(columns=("price", "age"), method="iqr", on_outlier="null"),
    Clip(columns=("price", "age"), method="iqr", on_outlier="flag"),
    Clip(columns=("price", "age"), method="zscore", factor=1),
    Clip(columns=("age",), method="mad", on_outlier="null"),
    Clip(columns=("price", "age"), method="iqr", by=("city",), on_outlier="null"),
    Clip(columns=("price",), method="zscore", factor=1, by=("ok", "id")),
    Clip(columns=("age",), method="mad", by=("id",), on_outlier="flag"),
    Fill(columns=("age",), with_="forward", by=("city",), order_by=("at",), limit=1),
    Units(column="city", to="kg", units={"g": 0.001}, default="g", other="null"),
    Units(column="note", to="a b", units={"B": 3}),
    Window(columns={"last": "lag(city, 1)", "mean": "mean(price, 2)"}, by=("id",), order_by=("at",)),
    Window(columns={"many": "count(age, 400d)", "std": "std(price, 1h)"}, by=("id",), order_by=("at", "day")),
    Split(by=("id",), test=0.3, stratify=("ok",)),
    Split(test="age > 3", validation="ok"),
    Mask(columns=("city", "note"), keep=1),
    Generalise(columns={"age": 10, "day": "year", "at": "month"}),
    Drop(columns=("note", "at")),
    Rename(columns={"city": "note", "note": "city"}),
    Cast(columns={"city": "float64", "price": "int64", "age": "string"}),
    Cast(columns={"city": "float64", "price": "int8"}, on_error="null"),
    Cast(columns={"age": "int8", "at": "date", "ok": "int64"}),
]


def title(step):
    given = (
        f"{field.name}={getattr(step, field.name)}"
        for field in dataclasses.fields(step)
        if getattr(step, field.name) != field.default
    )
    return f"{step.do} {' '.join(given)}"


ELSEWHERE = {  # steps that need more than a table; where the same laws are
    "join": "test_exchange_join.py::test_any_rows_join_as_in_pandas",
    "join_asof": "test_asof.py::test_any_rows_join_as_in_pandas",
    "features": "test_encoders.py::test_the_cut_changes_no_bit_of_what_is_learned_or_made",
}
ITS_OWN = """import pyarrow as pa, pyarrow.compute as pc
def twice(table, *, by):
    return pa.table({"twice": pc.multiply(table["age"].cast("float64"), by)})
"""


def test_every_step_setting_and_function_is_in_the_documents(repository):
    said = (repository / "docs" / "steps.md").read_text("utf-8")

    for step in STEPS.values():
        names = [one.name.removesuffix("_") for one in dataclasses.fields(step)]
        missing = [name for name in names if not re.search(rf"`[^`]*\b{name}\b[^`]*`", said)]
        assert (step.do, missing) == (step.do, [])
        assert f"`{step.do}`" in said or f'do = "{step.do}"' in said, step.do
    assert [name for name in FUNCTIONS if not re.search(rf"`{name}[`(]", said)] == []


def test_every_kind_of_step_has_its_laws():
    """A new kind of step without one fails here."""
    here = {step.do for step in IDEMPOTENT + ONCE} | {"pseudonymise", "python"}

    assert here | set(ELSEWHERE) == set(STEPS)
    assert not here & set(ELSEWHERE)
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert f"def {name}(" in Path(__file__).with_name(file).read_text("utf-8")


every_step = pytest.mark.parametrize("step", IDEMPOTENT + ONCE, ids=title)


@every_step
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_neither_the_cut_nor_the_order_of_the_parts_changes_anything(step, data):
    table = data.draw(tables())

    whole = outcome(step, [table], buckets=1)
    parts = outcome(step, data.draw(cuts(table)), buckets=data.draw(st.integers(1, 4)))

    assert same(whole, parts)


def goes_by_origin(step):
    """Whether the place of a row in its file decides where nothing else does, as it says itself."""
    if not isinstance(step.stage(FULL), Exchange) or step == Deduplicate():
        return False
    return "at" not in getattr(step, "order_by", ()) or "first" in getattr(step, "policies", {}).values()


@pytest.mark.parametrize("step", [one for one in IDEMPOTENT + ONCE if not goes_by_origin(one)], ids=title)
@settings(max_examples=3, deadline=None)
@given(data=st.data(), table=tables())
def test_the_order_of_the_rows_changes_no_row_and_no_count(step, data, table):
    """Rows at other places of other files; of equal times none decides, so all times are different here."""
    times = pa.array([EPOCH + timedelta(hours=hour) for hour in range(table.num_rows)], table["at"].type)
    place = table.schema.get_field_index("at")
    table = table.set_column(place, table.schema.field(place), times)
    others = table.take(pa.array(data.draw(st.permutations(range(table.num_rows))), pa.int64()))
    other = with_origin(others.drop_columns(ORIGIN.names))

    one, two = (outcome(step, [rows]) for rows in (table, other))

    assert type(one) is type(two)
    if not isinstance(one, InputError):
        shown = [sorted(bits(rows.kept.drop_columns(ORIGIN.names))[0], key=repr) for rows in (one, two)]
        assert shown[0] == shown[1]
        assert one.notes == two.notes
        assert (one.deduplicated, one.filtered) == (two.deduplicated, two.filtered)
        assert sorted(map(rule_of, rejects_of(one))) == sorted(map(rule_of, rejects_of(two)))


def rejects_of(rows):
    return [] if rows.rejected is None else rows.rejected.to_pylist()


def rule_of(reject):
    return reject["rule"], reject["column"] or "", reject["raw"]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_secrets_and_functions_of_the_user_change_nothing_by_the_cut(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(ITS_OWN, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAW_KEY", "a key that is long enough")
        pseudonyms = Pseudonymise(columns=("city", "age"), key_env="LAW_KEY").located(folder)
    function = Python(function="own:twice", takes=("age",), columns={"twice": "float64"}, params={"by": 2.0})
    table = data.draw(tables())

    for step in (pseudonyms, function.located(folder)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LAW_KEY", "a key that is long enough")
            whole = outcome(step, [table])
            assert same(whole, outcome(step, data.draw(cuts(table))))
            assert step.build(table.schema).equals(whole.kept.schema, check_metadata=True)


@every_step
@settings(max_examples=4, deadline=None)
@given(table=tables())
def test_the_columns_are_those_that_the_plan_has_said(step, table):
    rows = outcome(step, [table])

    assume(not isinstance(rows, InputError))
    assert step.build(table.schema).equals(rows.kept.schema, check_metadata=True)
    assert all(name in rows.kept.schema.names for name in ORIGIN.names)


@pytest.mark.parametrize("step", IDEMPOTENT, ids=title)
@settings(max_examples=8, deadline=None)
@given(table=tables())
def test_cleaning_twice_is_cleaning_once(step, table):
    once = outcome(step, [table])

    assume(not isinstance(once, InputError))
    twice = run(step, [once.kept])

    assert same(
        dataclasses.replace(once, rejected=None, deduplicated=0, filtered=0, notes={}, evidence=None),
        dataclasses.replace(twice, notes={}),
    )


@every_step
@settings(max_examples=2, deadline=None)
@given(table=tables())
def test_a_step_never_changes_what_it_is_given(step, table):
    before = table.to_pylist()

    outcome(step, [table])

    assert table.to_pylist() == before


@every_step
def test_a_step_is_read_from_its_settings_and_travels(step):
    schema = with_origin(SCHEMA.empty_table()).schema

    read = TypeAdapter(type(step)).validate_python(dataclasses.asdict(step))
    stage = pickle.loads(pickle.dumps(step.stage(schema)))  # noqa: S301 - our own bytes

    assert read == step
    assert stage.name == step.stage(schema).name


@settings(max_examples=5, deadline=None)
@given(table=tables())
def test_the_metadata_of_a_column_goes_with_it(table):
    renamed = Rename(columns={"note": "remark"}).build(table.schema)
    derived = Derive(columns={"length": "length(note)", "age": "age + 1"}).build(table.schema)
    filled = run(Fill(columns=("price",), value=0), [in_order(table)]).kept.schema

    assert renamed.field("remark").metadata == {b"privacy": b"personal"}
    assert derived.field("length").metadata == {b"privacy": b"personal"}
    assert derived.field("age").metadata is None, "an expression may change the unit"
    assert filled.field("price").metadata == {b"unit": b"EUR"}
