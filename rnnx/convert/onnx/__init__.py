"""Models to and from ONNX files. Requires onnx."""

from rnnx.convert.onnx.importing import from_onnx
from rnnx.convert.onnx.models import save_onnx, to_onnx

__all__ = ["from_onnx", "save_onnx", "to_onnx"]
