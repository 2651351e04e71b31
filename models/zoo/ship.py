"""Write the zoo's graphs as ONNX files without weights, and its bundles: `python -m models.zoo.ship`."""

from __future__ import annotations

from models.onnx_file import to_onnx
from models.trace import trace_module
from models.zoo import FOLDER, ZOO
from models.zoo.bundles import write_bundles


def ship() -> None:
    """Trace every network anew and write its file; then the bundles."""
    for name, entry in ZOO.items():
        graph, _ = trace_module(entry.make(entry.input_shape, entry.num_classes), entry.input_shape, name)
        (FOLDER / f"{name}.onnx").write_bytes(to_onnx(graph).SerializeToString(deterministic=True))
    write_bundles()


if __name__ == "__main__":
    ship()
