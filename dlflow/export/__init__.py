"""Models for other runtimes: ONNX, layer by layer (pip install "dlflow[onnx]")."""

from dlflow.export.model import difference, save_onnx

__all__ = ["difference", "save_onnx"]
