"""Tables as Hypothesis draws them, the ways to cut them, and a run of one step as the engine does it."""

import itertools
import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from pipelines.errors import InputError
from pipelines.hashing import row_hash
from pipelines.sketch import plain, summarise
from pipelines.stage import LINE, OFFSET, ORIGIN, SOURCE, Exchange, Fit, Map, Rows
from pipelines.warehouse.by_group import ByGroup

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("age", pa.int32(), metadata={"unit": "years"}),
        pa.field("price", pa.float64(), metadata={"unit": "EUR"}),
        pa.field("city", pa.string()),
        pa.field("note", pa.string(), metadata={"privacy": "personal"}),
        pa.field("ok", pa.bool_()),
        pa.field("day", pa.date32()),
        pa.field("at", pa.timestamp("us", "UTC")),
    ]
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# few values, so that keys and ties meet; each with what breaks careless code
CELLS = {
    "id": [1, 2, 3],
    "age": [-5, 0, 1, 7, 120],
    "price": [0.0, -0.0, 0.1, 1.5, -2.0, 3.0, 1e300, -1e300, 5e-324],
    "city": ["", "a", "b", " a", "A ", "\u00fc x", "a\t\u00a0b", "u\u0308", "12", "3.5", "\u1e9e\u0130\n"],
    "note": ["a", "B", "a b", "\ufb01 "],
    "ok": [False, True],
    "day": [date(1900, 1, 1), date(1969, 12, 31), date(2024, 2, 29)],
    "at": [EPOCH + timedelta(microseconds=us) for us in (-1, 0, 10**15 + 1, 4 * 10**15)],
}


def with_origin(table):
    """The table with origin columns: four rows to a file."""
    rows = range(table.num_rows)
    for field, values in zip(
        ORIGIN, ([row // 4 for row in rows], [row % 4 + 1 for row in rows], [-1 for _ in rows]), strict=True
    ):
        table = table.append_column(field, pa.array(values, field.type))
    return table


@st.composite
def tables(draw, *, cells=CELLS, least=0, most=12, schema=SCHEMA):
    """Tables with origin; few keys, many ties and missing values."""
    names = [name for name in schema.names if name in cells]
    rows = draw(st.integers(least, most))
    columns = []
    for name in names:
        cell = st.sampled_from([None, *cells[name]])
        columns.append(pa.array([draw(cell) for _ in range(rows)], schema.field(name).type))
    return with_origin(pa.table(columns, schema=pa.schema([schema.field(name) for name in names])))


@st.composite
def cuts(draw, table):
    """The rows of a table in parts, at least one, that come in any order; some parts are empty."""
    places = sorted(draw(st.lists(st.integers(0, table.num_rows), max_size=4)))
    bounds = [0, *places, table.num_rows]
    parts = [table.slice(start, stop - start) for start, stop in itertools.pairwise(bounds)]
    return draw(st.permutations(parts))


def run(step, parts, *, buckets=3):
    """What a step makes of all parts, in the order of origin; every part's ledger is checked on the way."""
    schema = parts[0].schema
    stage = step.stage(schema)
    if isinstance(stage, Fit):
        fitted = summarise(stage.sketch, [part.select(list(stage.columns)) for part in parts])
        stage = stage.mapped(stored(fitted))
    elif isinstance(stage, Exchange):
        together = in_order(pa.concat_tables(parts))
        bucket = pa.array(row_hash(together, stage.by) % buckets)
        parts = [together.filter(pa.compute.equal(bucket, number)) for number in range(buckets)]
        stage = stage.mapped()
    assert isinstance(stage, Map)
    made = [stage(part) for part in parts]
    for part, rows in zip(parts, made, strict=True):
        gone = (rows.rejected.num_rows if rows.rejected else 0) + rows.deduplicated + rows.filtered
        assert part.num_rows + rows.added == rows.kept.num_rows + gone
    rejected = [rows.rejected for rows in made if rows.rejected is not None]
    evidence = [rows.evidence for rows in made if rows.evidence is not None]
    notes = {}
    for rows in made:
        for name, count in rows.notes.items():
            notes[name] = notes.get(name, 0) + count
    return Rows(
        in_order(pa.concat_tables([rows.kept for rows in made])),
        in_order(pa.concat_tables(rejected)) if rejected else None,
        sum(rows.deduplicated for rows in made),
        sum(rows.filtered for rows in made),
        sum(rows.added for rows in made),
        {name: count for name, count in notes.items() if count},
        in_order(pa.concat_tables(evidence)) if evidence else None,
    )


def outcome(step, parts, **options):
    """The same, or the refusal of the rows."""
    try:
        return run(step, parts, **options)
    except InputError as error:
        return error


def in_order(table):
    """The rows in the order of their origin, in one chunk."""
    return table.sort_by([(SOURCE, "ascending"), (LINE, "ascending")]).combine_chunks()


def same(one, other):
    """Whether two results are equal to the last bit, messages included."""
    if isinstance(one, InputError):
        return repr(one) == repr(other)
    plain = [replace(rows, kept=None, rejected=None, evidence=None) for rows in (one, other)]
    rejected = [rows.rejected.to_pylist() if rows.rejected else [] for rows in (one, other)]
    told = [rows.evidence.to_pylist() if rows.evidence else [] for rows in (one, other)]
    return (
        told[0] == told[1]
        and plain[0] == plain[1]
        and bits(one.kept) == bits(other.kept)
        and rejected[0] == rejected[1]
    )


def bits(table):
    """The rows as text that tells -0.0 from 0.0, and the schema."""
    return [[repr(value) for value in row.values()] for row in table.to_pylist()], str(
        table.schema.to_string(show_field_metadata=True)
    )


def data(table):
    """The columns without origin, as Python lists."""
    return table.drop_columns([SOURCE, LINE, OFFSET]).to_pydict()


def stored(fitted):
    """What was fitted, as it comes back from the files beside a table."""
    if isinstance(fitted, dict):
        return {name: stored(one) for name, one in fitted.items()}
    if not isinstance(fitted, ByGroup):
        return json.loads(json.dumps(fitted, allow_nan=False))
    stream = pa.BufferOutputStream()
    pq.write_table(fitted.table, stream)
    return ByGroup(pq.read_table(pa.BufferReader(stream.getvalue())))


def told(fitted):
    """What was fitted as JSON has it; by group: {label: [values]}."""
    if isinstance(fitted, dict):
        return {name: told(one) for name, one in fitted.items()}
    if not isinstance(fitted, ByGroup):
        return fitted
    labels, *values = (column.to_pylist() for column in fitted.table.columns)
    assert sorted(labels, key=str.encode) == labels
    return {label: list(map(plain, row)) for label, *row in zip(labels, *values, strict=True)}
