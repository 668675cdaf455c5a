"""Batch scoring: every row once, whatever happens on the way; and the commands that use a model."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from flows.answers import answer_table
from flows.scoring import score_table
from flows.session import Options, runner_of
from pipelines import warehouse
from pipelines.engine import InProcess, OnDask
from pipelines.errors import InputError, SpecError
from tests import models, projects


def score(root, model="m", table="rows", into="answers", **settings):
    return score_table(root, model, table, into, runner=settings.pop("runner", InProcess()), **settings)


def answers(root, into="answers"):
    return sorted(warehouse.open_at(str(root), into).read().to_pylist(), key=lambda row: row["id"])


def expected(predictor, table):
    return [
        {"id": key, **row}
        for key, row in zip(
            table["id"].to_pylist(), predictor.predict(table, where="t").to_pylist(), strict=True
        )
    ]


@pytest.fixture
def root(tmp_path):
    models.committed(tmp_path, "rows", models.rows(50, seed=1))
    return tmp_path


def test_each_row_is_answered_once_and_a_rerun_adds_nothing(root):
    predictor = models.registered(root)

    first, again = score(root), score(root)

    assert answers(root) == expected(predictor, models.rows(50, seed=1))
    assert (first.scored, first.already, first.into_version) == (50, False, 0)
    assert (again.scored, again.already, again.into_version) == (0, True, 0)
    (event,) = warehouse.history(str(root / "answers"))
    assert event.operation == "score"
    assert event.record["sources"] == [
        {"kind": "table", "name": "rows", "path": str(root / "rows"), "rows": 50, "version": 0},
        {
            "kind": "model",
            "name": "m",
            "version": 1,
            "weights_sha256": predictor.digest,
        },
    ]
    (line,) = warehouse.sql(str(root), "select * from dlflow__ledger").to_pylist()
    assert (line["table"], line["step"], line["rows_in"], line["rows_out"]) == ("answers", "score", 50, 50)
    assert warehouse.pins(str(root)) == []


def test_of_a_new_version_only_what_is_new_is_scored_and_what_is_gone_goes(root):
    predictor = models.registered(root)
    score(root)
    before = {file.path for file in warehouse.open_at(str(root), "answers").files()}
    more = models.rows(30, seed=2)
    models.committed(root, "rows", more, key="second")

    added = score(root)

    assert (added.scored, added.removed, added.rows) == (30, 0, 80)
    assert before < {file.path for file in warehouse.open_at(str(root), "answers").files()}
    uri = str(root / "rows")
    lineage = warehouse.Lineage(run="delete")
    warehouse.delete(uri, "id < 10", key="d", lineage=lineage, runner=InProcess())
    after = score(root)
    assert (after.scored, after.removed, after.rows) == (60, 80, 60)
    found = warehouse.open_at(str(root), "rows").read()
    assert answers(root) == sorted(expected(predictor, found), key=lambda row: row["id"])
    entries = warehouse.sql(
        str(root), "select sum(rows_in) i, sum(rows_out) o from dlflow__ledger where table = 'answers'"
    ).to_pylist()
    assert entries == [{"i": 60, "o": 60}]


def test_another_model_or_other_columns_answer_all_again(root):
    models.registered(root, seed=1)
    score(root)
    predictor = models.registered(root, seed=2)

    by_model, by_columns = score(root), score(root, keep=("id", "grade"))

    assert (by_model.model_version, by_model.scored, by_model.rows) == (2, 50, 50)
    assert by_columns.scored == 50
    found = warehouse.open_at(str(root), "answers").read()
    assert found.column_names == ["id", "grade", "predicted", "probability"]
    assert answers(root) == [
        {"id": one["id"], "grade": grade, **one}
        for one, grade in zip(
            expected(predictor, models.rows(50, seed=1)),
            models.rows(50, seed=1)["grade"].to_pylist(),
            strict=True,
        )
    ]


def test_answers_that_somebody_has_changed_are_made_again(root):
    predictor = models.registered(root)
    score(root)
    lineage = warehouse.Lineage(run="delete")
    warehouse.delete(str(root / "answers"), "id == 7", key="d", lineage=lineage, runner=InProcess())

    again = score(root)

    assert (again.scored, again.rows) == (50, 50)
    assert answers(root) == expected(predictor, models.rows(50, seed=1))


def test_compaction_of_the_answers_changes_nothing(root):
    models.registered(root)
    models.committed(root, "rows", models.rows(30, seed=2), key="second")
    score(root)
    warehouse.maintain(str(root), ["answers"], runner=InProcess())

    assert score(root).already


def test_an_older_version_of_the_table_can_be_scored(root):
    models.registered(root)
    models.committed(root, "rows", models.rows(30, seed=2), key="second")

    found = score(root, at="0")

    assert (found.table_version, found.rows) == (0, 50)
    assert score(root).scored == 30
    assert score(root, at="0").removed == 30


def test_workers_give_the_same_rows(root, local_cluster):
    models.registered(root, "classes of an image")

    score(root)
    score(root, into="by_workers", runner=OnDask(local_cluster))

    assert answers(root) == answers(root, "by_workers")


@pytest.mark.parametrize("place", ["load.after_manifest", "commit.before_log", "commit.after_log"])
def test_a_killed_scoring_is_whole_or_not_there_and_the_next_completes_it(root, place):
    predictor = models.registered(root)
    arguments = ("score", "m", "--table", "rows", "--into", "answers", "--warehouse", str(root))

    killed = projects.command(root, *arguments, DLFLOW_FAILPOINTS=f"{place}=kill")

    assert killed.returncode == -signal.SIGKILL
    done = score(root)
    assert done.already == (place == "commit.after_log")
    assert answers(root) == expected(predictor, models.rows(50, seed=1))
    assert warehouse.sql(str(root), "select rows_in from dlflow__ledger").to_pylist() == [{"rows_in": 50}]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"into": "rows"}, SpecError, "answers of 'rows' cannot go into the same table; name another"),
        ({"into": "other"}, SpecError, "table 'other' is there and holds no answers of a model"),
        ({"keep": ("ids",)}, SpecError, "there is no column 'ids' to keep; did you mean 'id'"),
        ({"table": "other"}, SpecError, "table 'other': no column 'kind', the model reads price, size, kind"),
        (
            {"table": "third", "into": "x"},
            SpecError,
            "column 'size' is date32.*, the model was trained on int32",
        ),
        ({"table": "fourth", "into": "x"}, InputError, "column 'size' is 3000000000, expected int32"),
    ],
)
def test_what_cannot_be_scored_is_refused(root, settings, error, message):
    import pyarrow as pa

    models.registered(root)
    rows = models.rows(5)
    models.committed(root, "other", rows.select(["id", "price", "size"]))
    days = pa.array([0] * 5, pa.int32()).cast(pa.date32())
    models.committed(root, "third", rows.set_column(2, "size", days))
    models.committed(root, "fourth", rows.set_column(2, "size", pa.array([3_000_000_000] * 5)))

    with pytest.raises(error, match=message):
        score(root, **{"into": "answers", **settings})


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A project that has run."""
    folder = projects.make(tmp_path_factory.mktemp("scoring") / "shop", rows=1200)
    projects.run(folder)
    return folder


def test_a_trained_model_scores_the_table_that_its_features_are_made_from_and_the_features_alike(shop):
    root = shop / "warehouse"

    by_sales = score(root, "returns", "sales", "by_sales")
    score(root, "returns", "features", "by_features")

    one, other = (
        {row["order_id"]: row for row in warehouse.open_at(str(root), name).read().to_pylist()}
        for name in ("by_sales", "by_features")
    )
    assert by_sales.scored == len(one) > 1000
    assert one == other


def test_features_of_another_recipe_are_refused(shop, tmp_path):
    root = shop / "warehouse"
    models.registered(root, name="stranger")

    with pytest.raises(
        SpecError, match="its features were not made by the recipe of model 'stranger' version 1"
    ):
        score(root, "stranger", "features", "by_stranger")


def test_the_commands_of_a_model(shop):
    shown = projects.command(
        shop, "predict", "returns", "--table", "sales", "--limit", "3", "--format", "json"
    )
    scored = projects.command(shop, "score", "returns", "--table", "sales", "--into", "scored", "--json")
    written = projects.command(shop, "export-model", "returns", "--onnx", "m.onnx", "--scorer", "m.pyz")

    assert [sorted(row) for row in json.loads(shown.stdout)] == [["order_id", "predicted", "probability"]] * 3
    assert "the first 3 of" in shown.stderr
    assert json.loads(scored.stdout)["into"] == "scored"
    assert written.stdout == "m.onnx: model returns version 1\nm.pyz: model returns version 1\n"
    assert (shop / "m.onnx").stat().st_size
    assert (shop / "m.pyz").stat().st_size
    wrong = projects.command(shop, "predict", "return", "--table", "sales")
    assert wrong.returncode == 3
    assert "no model 'return'" in " ".join(wrong.stderr.split())
    assert "give the rows" in projects.command(shop, "predict", "returns").stderr


@contextlib.contextmanager
def serving(folder, *arguments):
    """A server in a process of its own, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "score-server", "returns", "--port", "0", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate(timeout=30)


def call(address, path, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", **headers}
    request = urllib.request.Request(address + path, data, headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_server_answers_like_the_table_and_ends_when_told(shop):
    root = shop / "warehouse"
    predictor, rows, answer, _ = _of(root)
    sent = [
        {name: value for name, value in row.items() if name in predictor.schema.names}
        for row in rows.to_pylist()
    ]

    with serving(shop) as (process, address):
        assert address.startswith("http://127.0.0.1:")
        assert call(address, "/health") == (200, {"status": "ok", "model": "returns", "version": 1})
        status, said = call(address, "/predict", {"rows": sent})
        assert status == 200
        assert [one["probability"] for one in said["answers"]] == answer["probability"].to_pylist()
        assert call(address, "/health", Host="evil.example")[0] == 400
        assert call(address, "/nothing")[0] == 404
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        assert process.returncode == 143


def _of(root):
    from flows.predictor import open_predictor

    predictor = open_predictor(root / "_dlflow" / "models", "returns")
    return predictor, *answer_table(predictor, root, "sales", at=None, limit=20)


def test_a_port_that_is_taken_is_told(shop):
    with serving(shop) as (_, address):
        port = address.rpartition(":")[2]
        said = projects.command(shop, "score-server", "returns", "--port", port)

    assert said.returncode == 3
    assert f"127.0.0.1:{port}: cannot listen" in " ".join(said.stderr.split())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_flow_scores_and_refuses_a_table_of_the_file(shop, prefect_server):
    from flows.parameters import Parameters
    from flows.score import score as flow

    run = Parameters(file=str(shop / "pipeline.toml"), workers=0)

    flow(run, "returns", "sales", "nightly")
    flow(run, "returns", "sales", "nightly")

    assert len(warehouse.history(str(shop / "warehouse" / "nightly"))) == 1
    with pytest.raises(SpecError, match="table 'sales' is built by the pipeline file"):
        flow.fn(run, "returns", "features", "sales")


def test_a_runner_without_workers_is_this_process():
    with runner_of(Options(workers=0)) as runner:
        assert isinstance(runner, InProcess)


def test_the_command_line_says_what_a_deployed_scoring_needs(shop):
    said = projects.command(Path(shop), "deploy", "--flow", "score")

    assert said.returncode == 2
    assert "--flow score needs --score MODEL TABLE INTO" in said.stderr
