"""The whole mission on small data, in this process, on workers, through Prefect, twice, and interrupted."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from dlflow import registry
from pipelines import warehouse
from pipelines.errors import CheckFailed, InputError, SourceChanged, TooManyRejects
from tests import projects

PLANTED = {"rows": 3000, "seed": 5}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A project that has run in this process, and its record."""
    folder = projects.make(tmp_path_factory.mktemp("done") / "shop")
    return folder, projects.run(folder)


@pytest.fixture
def copy(done, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(done[0], tmp_path / "shop")


def table(record, name):
    return next(one for one in record["tables"] if one["name"] == name)


def test_every_planted_fault_is_found_and_none_is_invented(done, tmp_path):
    from flows.example import generate

    planted = generate(tmp_path, **PLANTED)
    _folder, record = done

    orders, customers, sales = (table(record, name) for name in ("orders", "customers", "sales"))
    assert orders["rows_in"] == planted["orders"]["lines"]
    assert orders["quarantined"] + sales["quarantined"] == planted["orders"]["rejected"]
    assert orders["deduplicated"] == planted["orders"]["duplicates"]
    assert sales["rows_out"] == planted["orders"]["orders"]
    assert customers["rows_out"] == planted["customers"]["customers"]
    assert customers["deduplicated"] == planted["customers"]["exact_duplicates"]
    assert (
        customers["quarantined"] == planted["customers"]["contradictions"] + planted["customers"]["garbage"]
    )
    assert sales["quarantined"] == planted["orders"]["unknown_product"]
    assert table(record, "products")["rows_out"] == planted["products"]["rows"]
    notes = {key: value for step in orders["steps"] for key, value in step["notes"].items()}
    assert notes["filled unit_price"] == planted["orders"]["missing_price"]
    (dispute,) = [one for one in customers["evidence"] if one["column"] == "region"]
    assert (dispute["policy"], set(dispute["decided"])) == ("latest", {"latest"})
    assert customers["passes"][0]["ends"] == "exchange for resolve customer_id"
    assert [one["version"] for one in customers["check_history"]] == [0]
    assert record["ledger"]["balanced"]
    assert all(check["passed"] for one in record["tables"] for check in one["checks"])


def test_a_quarantined_row_says_where_it_was_and_what_it_said(done):
    folder, _ = done

    rejects = warehouse.read_quarantine(str(folder / "warehouse" / "orders")).to_pylist()

    for reject in rejects:
        lines = Path(reject["source"]).read_bytes().split(b"\n")
        assert lines[reject["line"] - 1].decode().rstrip("\r") == reject["raw"].rstrip("\r\n")


def test_a_second_run_does_nothing_and_says_so(copy):
    again = projects.command(copy, "run")

    assert again.returncode == 0
    assert (
        again.stdout
        == "dlflow orders: nothing to do, all up to date: products, customers, orders, sales, features, returns\n"
    )


def test_a_changed_setting_runs_what_depends_on_it_and_nothing_else(copy):
    file = copy / "pipeline.toml"
    file.write_text(file.read_text().replace('value = "unknown"', 'value = "none"'))

    plan = projects.command(copy, "plan").stdout
    record = projects.run(copy)

    assert "keep   orders" in plan
    assert "why: its steps or settings in the pipeline file changed" in plan
    assert "why: table sales is built again" in plan
    assert {one["name"]: one["status"] for one in record["tables"]} == {
        "products": "unchanged",
        "customers": "unchanged",
        "orders": "unchanged",
        "sales": "built",
        "features": "built",
    }
    assert table(record, "orders")["rows_in"] == table(projects.run(copy), "orders")["rows_in"]


def test_a_new_file_is_named_as_the_reason_and_its_rows_come_in(copy, done):
    first = min((copy / "data").glob("orders-*.csv"))
    more = first.read_text().splitlines(keepends=True)
    fields = next(
        line for line in more[1:] if "NA" not in line and line.count(",") == more[0].count(",")
    ).split(",")
    fields[0] = "99999999"
    (copy / "data" / "orders-9.csv").write_text(more[0] + ",".join(fields))

    plan = projects.command(copy, "plan").stdout
    record = projects.run(copy)

    assert "why: source orders: new: orders-9.csv" in plan
    assert table(record, "orders")["rows_out"] == table(done[1], "orders")["rows_out"] + 1
    assert (
        warehouse.Snapshot.open(str(copy / "warehouse" / "orders"), 0).rows
        == table(done[1], "orders")["rows_out"]
    )


def test_workers_and_this_process_make_the_same_tables_and_weights(done, tmp_path):
    folder, record = done
    other = projects.make(tmp_path / "shop")

    on_workers = projects.run(other, workers=2, prove=True)

    assert projects.everything(other) == projects.everything(folder)
    assert projects.ledger(other) == projects.ledger(folder)
    assert on_workers["models"][0]["workers"] == 2
    assert on_workers["models"][0]["weights_sha256"] == record["models"][0]["weights_sha256"]
    assert on_workers["models"][0]["proof"]["identical"]


def test_as_a_prefect_flow_the_same_tables_and_weights(done, tmp_path, prefect_server):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    folder, record = done
    other = projects.make(tmp_path / "shop")

    as_flow = projects.run(other, prefect=True)

    assert as_flow["driver"] == "prefect"
    assert projects.everything(other) == projects.everything(folder)
    assert as_flow["models"][0]["weights_sha256"] == record["models"][0]["weights_sha256"]
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
        flow = next(run for run in runs if run.name == as_flow["run"])
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow.id])))
    assert flow.state.is_completed()
    assert flow.parameters == {"file": "pipeline.toml", "workers": 1}
    assert {task.name for task in tasks} == {*projects.TABLES, "train returns"}


def test_the_model_is_registered_with_its_lineage_and_can_be_loaded(done):
    folder, record = done

    model, metadata = registry.load(registry.latest(folder / "warehouse" / "_dlflow" / "models", "returns"))

    made = record["models"][0]
    assert registry.weights_digest(model.w) == made["weights_sha256"]
    assert metadata["lineage"]["table"] == "features"
    assert metadata["lineage"]["version"] == table(record, "features")["version"]
    assert made["metrics"]["test"]["auc"] > 0.55
    assert (
        made["rows"]["train"] + made["rows"]["validation"] + made["rows"]["test"]
        == table(record, "features")["rows_out"]
    )


def test_too_many_bad_rows_stop_the_run_before_the_commit(tmp_path):
    folder = projects.make(tmp_path / "shop")
    file = folder / "pipeline.toml"
    file.write_text(
        file.read_text().replace(
            '[tables.orders]\nsource = "orders"', '[tables.orders]\nsource = "orders"\nreject_limit = 0.001'
        )
    )

    with pytest.raises(
        TooManyRejects, match=r"of 3,000 rows would be quarantined, the limit is 0\.10%.*Commonest:\n  "
    ):
        projects.run(folder)

    assert not (folder / "warehouse" / "orders" / "_delta_log").exists()
    assert (folder / "warehouse" / "customers" / "_delta_log").exists()


def test_a_failed_check_stops_the_commit_and_keeps_the_old_version(copy):
    file = copy / "pipeline.toml"
    file.write_text(
        file.read_text().replace('{ check = "row_count", min = 1 }', '{ check = "row_count", min = 1000000 }')
    )

    with pytest.raises(
        CheckFailed, match=r"(?s)table 'orders'.*row_count: found 2,963 rows, expected at least 1,000,000"
    ):
        projects.run(copy)

    assert warehouse.Snapshot.open(str(copy / "warehouse" / "orders")).version == 0


def test_a_broken_promise_of_a_join_stops_the_run(tmp_path):
    folder = projects.make(tmp_path / "shop")
    file = folder / "pipeline.toml"
    text = file.read_text()
    start, end = text.index("[tables.customers]"), text.index("[tables.orders]")
    file.write_text(text[:start] + '[tables.customers]\nsource = "customers"\n\n' + text[end:])

    with pytest.raises(
        InputError, match=r"join with 'customers': declared m:1, but it has .* surplus rows of equal keys"
    ):
        projects.run(folder)


def test_a_source_that_changes_while_it_is_read_fails_the_run_by_name(tmp_path):
    from flows.project import open_project
    from flows.session import plan_of
    from pipelines.build import build
    from pipelines.engine import InProcess

    folder = projects.make(tmp_path / "shop")
    plan = plan_of(open_project(folder / "pipeline.toml"))
    first = min((folder / "data").glob("orders-*.csv"))
    with first.open("a") as file:
        file.write("1,2,3\n")

    with pytest.raises(SourceChanged, match=first.name):
        build(plan.tables["orders"], InProcess(), reference=lambda name: None, run="test")


def test_the_log_holds_the_traceback_and_the_terminal_one_sentence(tmp_path):
    folder = projects.make(tmp_path / "shop")
    shutil.rmtree(folder / "data")

    failed = projects.command(folder, "run", "--workers", "0")

    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
    assert "no input; expected a file of this name" in " ".join(failed.stderr.split())


def test_tables_history_and_sql_answer_people_and_programs(copy):
    tables = json.loads(projects.command(copy, "tables", "--json").stdout)
    history = projects.command(copy, "history", "orders").stdout
    count = projects.command(copy, "sql", "select count(*) as n from orders", "--format", "csv").stdout
    refused = projects.command(copy, "sql", "delete from orders")

    assert {one["name"] for one in tables} == set(projects.TABLES)
    assert "replace" in history
    assert count.splitlines() == ["n", str(len(projects.content(copy, "orders")))]
    assert refused.returncode != 0
    assert "select" in refused.stderr.lower()


def test_a_worker_killed_while_tables_are_built_costs_no_row(done, tmp_path, local_cluster):
    from flows.cluster import worker_pids
    from flows.project import open_project
    from flows.session import plan_of
    from pipelines.build import build
    from pipelines.engine import OnDask

    folder = projects.make(tmp_path / "shop")
    plan = plan_of(open_project(folder / "pipeline.toml"))
    killed = []

    def kill(name, parts, total, rows):
        if not killed:
            killed.append(min(worker_pids(local_cluster).values()))
            os.kill(killed[0], signal.SIGKILL)

    build(
        plan.tables["orders"], OnDask(local_cluster), reference=lambda name: None, run="test", progress=kill
    )

    assert killed
    assert projects.content(folder, "orders") == projects.content(done[0], "orders")
    assert projects.quarantined(folder, "orders") == projects.quarantined(done[0], "orders")
    local_cluster.wait_for_workers(2, timeout=60)
