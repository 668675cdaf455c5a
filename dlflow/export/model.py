"""A whole model as an ONNX file, and how far what onnxruntime makes of it is from what the model says."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from dlflow.errors import ModelError, ModelFileError
from dlflow.export.layers import write_layer
from dlflow.export.writer import Writer
from dlflow.nn import Embedding, Model
from dlflow.nn.door import in_order
from dlflow.nn.files import write_whole

__all__ = ["difference", "save_onnx"]

OPSET, IR = 20, 9  # 20 has Gelu; onnxruntime reads it since 1.17


def save_onnx(path: str | Path, model: Model, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the model for onnxruntime and others: inputs by their names, the output "Y", any number of rows.

    `metadata` is any JSON: names of features and classes, lineage. Dropout does nothing there, as in `predict`.

    Raises: ModelError for a layer or setting without a form in ONNX; ModelFileError if the file cannot be written.
    """
    w, graph = Writer(), model.graph
    if "Y" in model.inputs:
        raise ModelError("an input is called 'Y', expected another name: it is that of the output; rename it")
    names = list(model.inputs)
    shapes = [*model.in_shapes, *model.shapes]
    for number, node in enumerate(graph.nodes):
        try:
            made = write_layer(
                w,
                node.layer,
                model.p[number],
                [names[source] for source in node.sources],
                shapes[node.sources[0]],
                model.shapes[number],
            )
        except ModelError as error:
            raise ModelError(f"layer {number}: {error}") from error
        names.append(made)
    w.nodes.append(helper.make_node("Identity", [names[-1]], ["Y"]))
    proto = helper.make_model(
        helper.make_graph(
            w.nodes,
            "dlflow",
            [
                helper.make_tensor_value_info(name, _type(model, place), ["rows", *shape])
                for place, (name, shape) in enumerate(zip(model.inputs, model.in_shapes, strict=True))
            ],
            [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["rows", *model.out_shape])],
            w.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="dlflow",
    )
    try:
        text = json.dumps(dict(metadata or {}), allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"the metadata are no JSON: {error}; give numbers, texts, lists and dicts"
        ) from error
    helper.set_model_props(proto, {"dlflow": text})
    onnx.checker.check_model(proto, full_check=True)
    try:
        write_whole(path, proto.SerializeToString())
    except OSError as error:
        raise ModelFileError(
            f"{path}: cannot be written ({error}); make room or choose another folder"
        ) from error


def difference(path: str | Path, model: Model, X: Any) -> float:
    """The largest distance between the outputs of the file in onnxruntime and of the model, relative to max(1, |output|).

    Shapes: X as `model.predict` takes it.
    """
    import onnxruntime  # noqa: PLC0415  (only who compares needs it)

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {
        name: np.asarray(each, np.int64 if _type(model, place) == TensorProto.INT64 else np.float32)
        for place, (name, each) in enumerate(zip(model.inputs, in_order(X, model.inputs), strict=True))
    }
    found, expected = session.run(["Y"], given)[0], model.predict(X)
    if found.shape != expected.shape:
        raise ModelFileError(
            f"{path}: outputs of shape {found.shape!r}, those of the model {expected.shape!r}; export it again"
        )
    return float((np.abs(found - expected) / np.maximum(1, np.abs(expected))).max(initial=0))


def _type(model: Model, place: int) -> int:
    return int(TensorProto.INT64 if isinstance(model.first[place], Embedding) else TensorProto.FLOAT)
