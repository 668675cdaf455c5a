"""A model answers the same however it is asked: batch table, HTTP, ONNX, and a file that needs NumPy alone."""

import asyncio
import json
import subprocess
import sys

import httpx
import numpy as np
import pyarrow as pa
import pytest
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from dlflow import fitted
from dlflow.errors import ModelError, ModelFileError
from flows.answers import answer_file, export_model, write_inputs
from flows.predictor import open_predictor
from flows.scoring import score_table
from flows.scoring_server import Limits, application
from pipelines import warehouse
from pipelines.engine import InProcess
from pipelines.recipes import conform
from pipelines.tensors import numbers_of
from tests import models


def outputs_of(predictor, table):
    """All scores of a table of answers. Shapes: (n, K)."""
    if "outputs" in table.column_names:
        return numbers_of(table, "outputs")[0].reshape(table.num_rows, -1)
    name = "probability" if predictor.task == "binary" else "predicted"
    return table[name].to_numpy().reshape(-1, 1)


def as_json(table, predictor):
    """Rows as a client sends them."""
    made = []
    for row in table.select(predictor.schema.names).to_pylist():
        if "image" in row:
            row["image"] = np.frombuffer(row["image"], np.uint8).reshape(4, 4, 1).tolist()
        made.append({name: value.isoformat() if name == "at" else value for name, value in row.items()})
    return made


def ask(predictor, body, *, path="/predict", limits=None, method="POST", **headers):
    """The answer of the application, without a port."""

    async def call():
        app = application(predictor, limits or Limits())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers.setdefault("content-type", "application/json")
            return await client.request(method, path, content=content, headers=headers)

    return asyncio.run(call())


@pytest.mark.parametrize("kind", models.KINDS)
def test_batch_http_onnx_and_numpy_alone_give_the_same(tmp_path, kind):
    onnxruntime = pytest.importorskip("onnxruntime")
    root, table = tmp_path / "warehouse", models.rows(40, seed=1)
    predictor = models.registered(root, kind)
    models.committed(root, "rows", table)

    score_table(root, "m", "rows", "answers", runner=InProcess())
    batch = warehouse.open_at(str(root), "answers").read()
    answers = ask(predictor, {"rows": as_json(table, predictor)}).json()["answers"]
    export_model(predictor, onnx=tmp_path / "m.onnx", scorer=tmp_path / "m.pyz")
    write_inputs(predictor, table, tmp_path / "rows.npy")
    X = np.load(tmp_path / "rows.npy")
    onnx = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    given = X.astype(np.int64) if X.dtype == np.int32 else X
    by_onnx = onnx.run(["Y"], {onnx.get_inputs()[0].name: given})[0].reshape(40, -1)
    program = [sys.executable, "-P", str(tmp_path / "m.pyz"), str(tmp_path / "rows.npy")]
    printed = subprocess.run(program, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    by_numpy = np.array([line.split(",") for line in printed.splitlines()], np.float64)

    scores = outputs_of(predictor, batch)
    np.testing.assert_allclose(by_onnx, scores, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(by_numpy, scores, rtol=2e-5, atol=1e-6)
    assert [one["predicted"] for one in answers] == batch["predicted"].to_pylist()
    name = "outputs" if "outputs" in batch.column_names else batch.column_names[-1]
    by_http = np.array([one[name] for one in answers], np.float32).reshape(40, -1)
    assert np.array_equal(by_http, scores)  # bit by bit
    assert (
        json.loads(onnx.get_modelmeta().custom_metadata_map["dlflow"])["classes"]
        == predictor.recipe["classes"]
    )


def test_predicted_are_classes_by_name_and_probability_is_of_what_is_predicted(tmp_path):
    predictor = models.registered(tmp_path, "classes, from logits")
    table = models.rows(20, seed=2)

    found = predictor.predict(table, where="rows")

    outputs = outputs_of(predictor, found)
    np.testing.assert_allclose(outputs.sum(axis=1), 1, rtol=1e-6)
    names = json.loads(found.schema.field("outputs").metadata[b"names"])
    assert names == ["high", "low", "middle"]
    assert found["predicted"].to_pylist() == [names[place] for place in outputs.argmax(axis=1)]
    assert found["probability"].to_numpy().tolist() == outputs.max(axis=1).tolist()


def test_a_row_has_its_answer_whatever_rows_are_beside_it(tmp_path):
    predictor = models.registered(tmp_path)
    table = models.rows(60, seed=3)

    whole = predictor.predict(table, where="rows")

    alone = [predictor.predict(table.slice(row, 1), where="rows") for row in range(60)]
    assert pa.concat_tables(alone).equals(whole)


def test_a_row_without_its_tensor_has_no_answer(tmp_path):
    predictor = models.registered(tmp_path, "classes of an image")
    table = models.rows(3)
    missing = pa.array([None, *table["image"].to_pylist()[1:]], pa.binary(16))
    table = table.set_column(7, table.schema.field("image"), missing)

    found = predictor.predict(table, where="rows")

    assert [value is None for value in found["predicted"].to_pylist()] == [True, False, False]
    assert found["probability"].null_count == found["outputs"].null_count == 1


def test_the_version_in_use_answers_else_the_newest(tmp_path):
    from flows.predictor import FILE

    root = tmp_path / "_dlflow" / "models"
    models.registered(tmp_path, seed=1)
    models.registered(tmp_path, seed=2)

    assert open_predictor(root, "m").version == 2
    (root / "m" / FILE).write_text('{"version": 1}')
    assert open_predictor(root, "m").version == 1
    assert open_predictor(root, "m", 2).version == 2
    with pytest.raises(ModelError, match=r"model 'm' has no version 7; expected one of \[1, 2\]"):
        open_predictor(root, "m", 7)
    with pytest.raises(ModelFileError, match=r"no model 'n' in .*, expected one of \['m'\]"):
        open_predictor(root, "n")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_of_a_file_become_the_same_inputs_as_those_of_a_table(tmp_path, suffix):
    from pyarrow import csv, parquet

    predictor = models.registered(tmp_path)
    table = models.rows(30, seed=4).select(["price", "size", "kind", "fresh", "at"])
    path = tmp_path / f"rows{suffix}"
    match suffix:
        case ".csv":
            csv.write_csv(table, path)
        case ".parquet":
            parquet.write_table(table, path)
        case _:
            path.write_text("\n".join(json.dumps(row) for row in as_json(table, predictor)))

    rows, answer = answer_file(predictor, path)

    assert np.array_equal(
        predictor.encode(rows), predictor.encode(conform(table, predictor.recipe, where="t"))
    )
    assert (
        answer["probability"]
        .combine_chunks()
        .equals(predictor.predict(table, where="t")["probability"].combine_chunks())
    )


ROW = {"price": 1.5, "size": 3, "kind": "a", "fresh": True, "at": "2026-01-05T12:00:00Z"}


@pytest.mark.parametrize(
    ("status", "body", "headers", "said"),
    [
        (400, b"{", {}, "no JSON (Expecting property name"),
        (400, b'{"rows": [NaN]}', {}, "no JSON (NaN is no number; null is a missing value)"),
        (400, [ROW], {}, 'not of the form of a request; expected {"rows": [{...}, ...]}'),
        (400, {"rows": [ROW], "row": 1}, {}, "not of the form of a request"),
        (
            415,
            {"rows": [ROW]},
            {"content-type": "text/plain"},
            "content-type is 'text/plain', expected application/json",
        ),
        (413, {"rows": [ROW] * 3}, {}, "3 rows, expected at most 2; send them in parts"),
        (413, b" " * 2000, {}, "more than 1,000 bytes; send fewer rows at once"),
        (422, {"rows": [ROW, 3]}, {}, "rows[1] is 3, expected an object with price, size, kind, fresh, at"),
        (
            422,
            {"rows": [{**ROW, "prise": 1}]},
            {},
            "rows[0] has 'prise', expected price, size, kind, fresh, at alone; did you mean 'price'?",
        ),
        (
            422,
            {"rows": [{"size": 3}]},
            {},
            "rows[0] has no 'price', expected all of price, size, kind, fresh, at",
        ),
        (422, {"rows": [ROW, {**ROW, "size": "3"}]}, {}, "rows[1]: 'size' is '3', expected int32 or null"),
        (422, {"rows": [{**ROW, "size": True}]}, {}, "rows[0]: 'size' is True, expected int32 or null"),
        (
            422,
            {"rows": [{**ROW, "size": 1 << 40}]},
            {},
            "rows[0]: 'size' is 1099511627776, expected int32 or null",
        ),
        (
            422,
            {"rows": [{**ROW, "at": "soon"}]},
            {},
            "rows[0]: 'at' is 'soon', expected timestamp[us, tz=UTC]",
        ),
    ],
)
def test_a_request_that_does_not_fit_is_told_what_was_expected(tmp_path, status, body, headers, said):
    predictor = models.registered(tmp_path)

    found = ask(predictor, body, limits=Limits(rows=2, bytes=1000), **headers)

    assert found.status_code == status, found.text
    assert said in found.json()["error"]


@pytest.mark.parametrize("kind", models.KINDS)
def test_what_is_missing_may_be_null_and_no_rows_have_no_answers(tmp_path, kind):
    predictor = models.registered(tmp_path, kind)

    (found,) = ask(predictor, {"rows": [dict.fromkeys(predictor.schema.names)]}).json()["answers"]

    assert (found["predicted"] is None) == (predictor.schema.names == ["image"])
    assert ask(predictor, {"rows": []}).json() == {"model": "m", "version": 1, "answers": []}


def test_the_server_says_what_it_expects(tmp_path):
    predictor = models.registered(tmp_path, "classes of an image")

    said = ask(predictor, b"", path="/", method="GET").json()

    assert said["rows"] == {"image": {"dtype": "uint8", "shape": [4, 4, 1], "scale": 1 / 255}}
    assert said["answers"]["outputs"] == {
        "dtype": "float32",
        "shape": [3],
        "names": ["high", "low", "middle"],
    }
    assert ask(predictor, b"", path="/health", method="GET").json() == {
        "status": "ok",
        "model": "m",
        "version": 1,
    }
    assert ask(predictor, b"", path="/predicts").json()["error"].startswith("POST /predicts: expected GET /")


def test_a_tensor_of_a_request_has_its_shape(tmp_path):
    predictor = models.registered(tmp_path, "classes of an image")

    found = ask(predictor, {"rows": [{"image": [[1, 2], [3, 4]]}]})

    assert found.status_code == 422
    assert found.json()["error"] == (
        "rows[0]: 'image' is [[1, 2], [3, 4]], expected uint8 numbers of shape [4, 4, 1] or null"
    )
    wrong = ask(predictor, {"rows": [{"image": [300] * 16}]})
    assert wrong.json()["error"] == (
        "rows[0]: 'image' is a list with a number that is no uint8, expected uint8 numbers of shape [4, 4, 1]"
    )


@pytest.mark.parametrize(
    ("kind", "estimator"),
    [
        ("binary, from logits", DecisionTreeClassifier(max_depth=3, random_state=0)),
        ("classes, from logits", DecisionTreeClassifier(max_depth=3, random_state=0)),
        ("a value", DecisionTreeRegressor(max_depth=3, random_state=0)),
    ],
)
def test_an_estimator_of_scikit_learn_answers_as_a_network_does(tmp_path, kind, estimator):
    network = models.registered(tmp_path, kind)  # for its recipe
    rows = models.rows()
    label = rows[network.recipe["label"]].to_pylist()
    classes = network.recipe["classes"]
    y = np.array(label if classes is None else [classes.index(one) for one in label])
    X = network.encode(rows)
    estimator.fit(X, y)
    metadata = {**network.metadata, "task": network.task, "record": {"weights_sha256": "d"}}
    home = tmp_path / "_dlflow" / "models"
    version, _ = fitted.save_version(home, "m", fitted.dumps(estimator), estimator="a.B", metadata=metadata)

    predictor = open_predictor(home, "m", version)
    answers = predictor.predict(rows, where="rows")

    assert answers.schema == network.answers
    said = estimator.predict(X)
    if kind.startswith("binary"):  # half a chance is label 1 here, and label 0 in scikit-learn
        said = (estimator.predict_proba(X)[:, 1] >= 0.5).astype(int)
    expected = said.astype(np.float32).tolist() if classes is None else [classes[one] for one in said]
    assert answers["predicted"].to_pylist() == expected
    with pytest.raises(ModelError, match=r"model 'm' is DecisionTree\w+ of scikit-learn, expected a network"):
        predictor.single()
