"""Tables that are loaded file by file: each row once, whatever happens to the files and to the run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flows.project import open_project
from pipelines import build as builds
from pipelines import warehouse
from pipelines.engine import InProcess
from pipelines.errors import CommitConflict, InputError, PartFailed, SourceChanged, SpecError
from pipelines.inspection import build_state
from pipelines.plan import make
from pipelines.storage import reference

REPOSITORY = Path(__file__).parents[1]
SOURCE = """
[sources.orders]
kind = "csv"
path = "data/*.csv"
columns = {{ id = "int64", price = {{ type = "float64", range = [0, 100] }} }}
on_change = "{policy}"

[tables.orders]
source = "orders"
load = "append"
{more}
"""


class Shop:
    """A project of one table, run in this process."""

    def __init__(self, folder, policy="error", more="", text=SOURCE):
        self.folder, self.text = folder, text
        (folder / "data").mkdir(parents=True)
        self.declare(policy, more)

    def declare(self, policy="error", more="", **others):
        text = self.text.format(policy=policy, more=more)
        for old, new in others.items():
            text = text.replace(old, new)
        (self.folder / "pipeline.toml").write_text(text)

    def file(self, name, *rows):
        (self.folder / "data" / name).write_text("id,price\n" + "".join(f"{row}\n" for row in rows))

    def plan(self):
        project = open_project(self.folder / "pipeline.toml")
        return make(
            project.pipeline, project.checked, state=build_state, digests=self.folder / "digests.json"
        )

    def run(self, plan=None, name="orders"):
        root = self.folder / "warehouse"
        return builds.build(
            (plan or self.plan()).tables[name],
            InProcess(),
            reference=lambda other: reference(other, warehouse.Snapshot.open(f"{root}/{other}")),
            run="run",
        )

    @property
    def uri(self):
        return str(self.folder / "warehouse" / "orders")

    @property
    def ids(self):
        return sorted(warehouse.Snapshot.open(self.uri).read(["id"])["id"].to_pylist())

    @property
    def rejects(self):
        table = warehouse.read_quarantine(self.uri)
        return sorted((Path(one["source"]).name, one["line"], one["raw"]) for one in table.to_pylist())

    @property
    def why(self):
        return self.plan().tables["orders"].why


@pytest.fixture
def shop(tmp_path):
    made = Shop(tmp_path / "shop")
    made.file("a.csv", "1,5", "2,x")
    made.run()
    return made


def test_only_new_files_are_read(shop):
    shop.file("b.csv", "3,7", "4,500")

    built = shop.run()

    assert (shop.ids, built.version) == ([1, 3], 1)
    assert [Path(one["path"]).name for one in built.inputs] == ["b.csv"]
    assert shop.rejects == [("a.csv", 3, "2,x"), ("b.csv", 3, "4,500")]
    assert shop.plan().nothing_to_do


def test_the_plan_says_how_many_files_are_new(shop):
    shop.file("b.csv", "3,7")
    shop.file("c.csv", "4,7")

    assert shop.plan().text() == (
        "load   orders  <- source orders (1 loaded, 2 to load)\n"
        "         why: source orders: 2 new files (0.0 MB): b.csv, c.csv\n"
        "         pass 1: read -> write"
    )


def test_a_file_that_was_moved_or_touched_is_the_same_file(shop):
    (shop.folder / "data" / "a.csv").rename(shop.folder / "data" / "b.csv")
    os.utime(shop.folder / "data" / "b.csv", (1, 1))

    assert shop.plan().nothing_to_do


def test_a_loaded_file_that_changed_or_is_gone_stops_the_run(shop):
    shop.file("b.csv", "3,7")
    shop.run()
    shop.file("a.csv", "9,9")
    (shop.folder / "data" / "b.csv").unlink()
    shop.file("c.csv", "4,7")

    with pytest.raises(InputError) as failure:
        shop.run()

    assert str(failure.value) == (
        "table 'orders': source orders: 1 loaded file changed: a.csv; 1 loaded file gone: b.csv; nothing was loaded. "
        'Restore the files, or set on_change in [sources.orders]: "reload" (the rows follow the files) or "ignore" (the '
        "rows that were loaded stay)"
    )
    assert f"STOP: {failure.value}" in shop.plan().text()
    assert shop.ids == [1, 3]


def test_with_ignore_the_rows_that_were_loaded_stay(shop):
    shop.declare("ignore")
    shop.file("a.csv", "9,9")
    shop.file("b.csv", "3,7")

    shop.run()

    assert (shop.ids, shop.rejects) == ([1, 3], [("a.csv", 3, "2,x")])
    assert (
        "ignored: source orders: 1 loaded file changed: a.csv; the rows that were loaded stay"
        in shop.plan().text()
    )


def test_with_ignore_all_files_may_go_after_they_were_loaded(shop):
    shop.declare("ignore")
    (shop.folder / "data" / "a.csv").unlink()

    assert shop.plan().nothing_to_do


def test_with_reload_exactly_the_rows_of_that_file_are_replaced_in_one_commit(shop):
    shop.declare("reload")
    shop.file("b.csv", "3,7", "4,500")
    shop.run()
    before = {file.path for file in warehouse.Snapshot.open(shop.uri).files()}
    shop.file("a.csv", "1,6", "2,7", "5,y")

    built = shop.run()

    assert (shop.ids, built.version) == ([1, 2, 3], 2)
    assert shop.rejects == [("a.csv", 4, "5,y"), ("b.csv", 3, "4,500")]
    assert len(before & {file.path for file in warehouse.Snapshot.open(shop.uri).files()}) == 1
    ledger = warehouse.history(shop.uri)[0].record["ledger"]
    assert [(one["step"], one["rows_in"], one["rows_out"], one["quarantined"]) for one in ledger] == [
        ("read", 3, 2, 1),
        ("unload", -2, -1, -1),
    ]


def test_a_file_that_goes_back_to_what_it_was_is_loaded_again(shop):
    shop.declare("reload")
    shop.file("a.csv", "7,7", "8,z")
    shop.run()
    shop.file("a.csv", "1,5", "2,x")

    shop.run()

    assert (shop.ids, shop.rejects) == ([1], [("a.csv", 3, "2,x")])


def test_changed_steps_load_all_files_again_in_one_commit(shop):
    shop.file("b.csv", "3,7")
    shop.run()
    shop.declare("error", 'steps = [{ do = "keep", where = "price > 6" }]')

    built = shop.run()

    assert (shop.ids, built.version, len(built.inputs)) == ([3], 2, 2)
    assert shop.plan().nothing_to_do


def test_changed_steps_are_refused_while_loaded_files_are_missing(shop):
    (shop.folder / "data" / "a.csv").unlink()
    shop.declare("ignore", 'steps = [{ do = "keep", where = "price > 6" }]')

    with pytest.raises(
        InputError, match=r"all files are loaded again, but a\.csv loaded before is no longer there as it was"
    ):
        shop.run()

    assert shop.ids == [1]


def test_a_policy_or_a_limit_is_changed_without_loading_again(shop):
    shop.declare("reload", "reject_limit = 0.9")

    assert shop.plan().nothing_to_do


def test_a_plan_that_another_run_has_overtaken_is_made_again(shop):
    shop.file("b.csv", "3,7")
    stale = shop.plan()
    shop.file("c.csv", "4,7")
    shop.run()

    built = shop.run(stale)

    assert (built.already, shop.ids) == (True, [1, 3, 4])


def test_a_load_beside_another_that_holds_no_lock_is_refused(shop):
    base, manifest = warehouse.loaded(shop.uri)
    schema = warehouse.Snapshot.open(shop.uri).schema
    shop.file("b.csv", "3,7")
    shop.run()

    with pytest.raises(CommitConflict, match="another run has loaded into this table meanwhile"):
        warehouse.load(
            shop.uri, [], manifest, key="late", base=base, whole=False, schema=schema,
            lineage=warehouse.Lineage(run="late"),
        )  # fmt: skip


def test_a_file_that_changes_between_plan_and_run_is_named(shop):
    shop.file("b.csv", "3,7")
    stale = shop.plan()
    shop.file("b.csv", "3,7", "4,8")

    with pytest.raises(SourceChanged, match=r"b\.csv: changed since the run was planned"):
        shop.run(stale)

    assert shop.ids == [1]


def test_a_unique_key_is_looked_for_in_the_whole_table(tmp_path):
    shop = Shop(tmp_path / "shop", more='checks = [{ check = "unique", column = "id", severity = "warn" }]')
    shop.file("a.csv", "1,5", "2,6")
    shop.run()
    shop.file("b.csv", "2,7", "3,8")

    built = shop.run()

    assert [(one["passed"], one["found"]) for one in built.checks] == [
        (False, "1 of 4 rows repeat the key of another")
    ]


def test_a_manifest_that_is_gone_is_an_error_and_no_second_load(shop):
    next((shop.folder / "warehouse" / "_dlflow" / "loads").glob("orders-*.json")).unlink()

    with pytest.raises(PartFailed, match="the list of what was loaded into the table cannot be read"):
        shop.plan()


def test_rows_that_another_program_has_rewritten_are_loaded_again_as_a_whole(shop):
    shop.declare("reload")
    snapshot = warehouse.Snapshot.open(shop.uri)
    receipt = warehouse.write_file(shop.uri, snapshot.read(), partition={}, schema=snapshot.schema)

    def compact(newest):
        from pipelines.warehouse.commit import Change

        return Change(
            operation="compact", add=[receipt], remove=newest.files(), schema=newest.schema, partition_by=(),
            data_change=False,
        )  # fmt: skip

    warehouse.commit(shop.uri, key="compact", plan=compact, lineage=warehouse.Lineage(run="x"))
    assert shop.plan().nothing_to_do
    shop.file("a.csv", "7,7")

    assert shop.why == ("its files were rewritten since; all source files are loaded again",)
    shop.run()
    assert shop.ids == [7]


def test_a_table_with_partitions_keeps_source_files_apart(tmp_path):
    cheap = 'steps = [{ do = "derive", columns = { cheap = "price < 6" } }]\npartition_by = ["cheap"]'
    shop = Shop(tmp_path / "shop", "reload", cheap)
    shop.file("a.csv", "1,5", "2,6")
    shop.file("b.csv", "3,5", "4,6")
    shop.run()
    shop.file("b.csv", "3,7")

    shop.run()

    assert shop.ids == [1, 2, 3]
    assert len(warehouse.Snapshot.open(shop.uri).files()) == 3


def test_files_without_a_row_are_loaded_once(tmp_path):
    shop = Shop(tmp_path / "shop")
    shop.file("a.csv")

    shop.run()

    assert (shop.ids, shop.plan().nothing_to_do) == ([], True)


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ('{ do = "deduplicate", by = ["id"] }', "rows of several loads would have to meet"),
        ('{ do = "fill", columns = ["price"], with = "mean" }', "its values come from all rows"),
        (
            '{ do = "join", with = "other", on = ["id"], cardinality = "m:1" }',
            "the old values of table 'other'",
        ),
    ],
)
def test_a_step_that_looks_beyond_its_row_is_refused_by_name(tmp_path, step, why):
    other = '[tables.other]\nsource = "orders"'

    with pytest.raises(SpecError) as failure:
        Shop(tmp_path / "shop", more=f"steps = [{step}]\n{other}").plan()

    name = re.search(r'do = "(\w+)"', step)[1]
    assert f"tables.orders.steps[0]: step '{name}' cannot be in a table with load = \"append\"" in str(
        failure.value
    )
    assert why in str(failure.value)


def test_settings_without_effect_are_refused(tmp_path):
    text = SOURCE.replace('load = "append"', "")

    with pytest.raises(
        SpecError, match=r'sources\.orders\.on_change has no effect: no table with load = "append"'
    ):
        Shop(tmp_path / "one", "reload", text=text).plan()
    with pytest.raises(SpecError, match='load = "append" is for a table that reads a source'):
        Shop(tmp_path / "two", more='[tables.sums]\ntable = "orders"\nload = "append"').plan()


def machine(folder, examples):
    program = REPOSITORY / "tests" / "chaos" / "load_machine.py"
    done = subprocess.run(
        [sys.executable, str(program), str(folder), str(examples)],
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]


def test_files_come_change_move_and_go_and_runs_are_killed_and_each_row_is_there_once(tmp_path):
    machine(tmp_path, 2)


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_the_same_for_longer(tmp_path):
    machine(tmp_path, 60)


@pytest.mark.parametrize(("limit", "told"), [("0.3", "30.00%"), ("7", "7 rows")])
def test_a_limit_stops_the_load_before_its_commit_with_the_three_commonest_reasons(tmp_path, limit, told):
    shop = Shop(tmp_path / "shop", more=f"reject_limit = {limit}")
    shop.file("a.csv", "1,5", "2,6", "x,1", "y,1", "z,1", "3,500", "4,500", "5,n", "6,n", "7,n", "8,n", "9")

    with pytest.raises(InputError) as failure:
        shop.run()

    assert str(failure.value) == (
        f"table 'orders': 10 of 12 rows would be quarantined, the limit is {told} (reject_limit), so nothing was committed. "
        "Commonest:\n"
        "  4 x type: column 'price': cannot read 'n' as float64\n"
        "  3 x type: column 'id': cannot read 'x' as int64\n"
        "  2 x range: column 'price': '500' is outside [0, 100]; correct the data or the declaration, or raise reject_limit"
    )
    assert not warehouse.log.exists(shop.uri)
    shop.declare(more="reject_limit = 0.9")
    shop.run()
    assert (shop.ids, len(shop.rejects)) == ([1, 2], 10)
