"""Export of models as ONNX files. Requires onnx."""

from rnnx.convert.onnx.models import save_onnx, to_onnx

__all__ = ["save_onnx", "to_onnx"]
