"""A network as one ONNX file that can be trusted."""
