"""What the columns of a table have to do with each other, as people and programs read it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from flows.tables import print_json, print_rows
from pipelines import warehouse
from pipelines.analysis import Clusters, Correlations, Pairs
from pipelines.engine import InProcess
from pipelines.errors import SpecError
from pipelines.fields import NUMBER, kind_of, require
from pipelines.measures import summarise_files
from pipelines.places import Place
from pipelines.storage import reference

__all__ = ["analysed", "print_analysis"]

_ANY = ("string", "bool", "integer", "float", "date", "timestamp")


def analysed(
    root: Place, table: str, *, columns: Sequence[str], clusters: int | None, pairs: Sequence[str]
) -> dict[str, Any]:
    """{"correlations", "clusters", "pairs"}: what was asked for; without `columns` of all numbers without a privacy class.

    Raises: SpecError for columns that are not there, or may not be told.
    """
    ref = reference(table, warehouse.Snapshot.open(str(root / table)))
    schema = ref.schema
    private = {one.name for one in schema if b"privacy" in (one.metadata or {})}
    if not columns and not pairs:
        columns = [one.name for one in schema if kind_of(one.type) in NUMBER and one.name not in private]
    require(schema, columns, step="analyse", kinds=(*NUMBER, "bool"))
    require(schema, pairs, step="analyse --pairs", kinds=_ANY)
    if told := sorted(private & {*columns, *pairs}):
        raise SpecError(
            f"analyse: column {told[0]!r} has a privacy class, its values are not told; leave it out"
        )
    if len(columns) == 1 or len(pairs) == 1 or (clusters is not None and (clusters < 1 or not columns)):
        raise SpecError("analyse: give two columns or more, and 1 or more clusters")

    def found(sketch: Any, names: Sequence[str]) -> Mapping[str, Any]:
        fields = tuple(schema.field(name) for name in names)
        look = partial(summarise_files, files=ref.files, runner=InProcess(), name="analyse")
        answer: Mapping[str, Any] = look(sketch, columns=fields)
        return answer

    made: dict[str, Any] = {"table": table, "version": ref.version}
    if columns:
        made["correlations"] = found(Correlations(tuple(columns)), columns)
    if clusters is not None:
        made["clusters"] = found(Clusters(tuple(columns), clusters), columns)
    if pairs:
        made["pairs"] = found(Pairs(tuple(pairs)), pairs)
    return made


def print_analysis(root: Place, table: str, *, as_json: bool, **asked: Any) -> None:
    """The same, on the terminal."""
    made = analysed(root, table, **asked)
    if as_json:
        print_json(made)
        return
    if "correlations" in made:
        found = made["correlations"]["correlations"]
        strongest = sorted(found.items(), key=lambda one: -abs(one[1] or 0.0))
        print_rows(["columns", "correlation"], [list(one) for one in strongest])
    if "clusters" in made:
        clusters = made["clusters"]
        rows = [[size, *centre] for size, centre in zip(clusters["sizes"], clusters["centres"], strict=True)]
        print_rows(["rows", *clusters["columns"]], rows)
    if "pairs" in made:
        pairs = made["pairs"]["pairs"]
        print_rows(["a", "b", "rows", "support", "lift"], [list(one.values()) for one in pairs])
