"""From a ModelGraph and a loss to ONNX graphs that train it in standard operators."""
