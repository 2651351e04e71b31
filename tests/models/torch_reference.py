"""What torch finds for cases in a folder, as a program of its own: `python torch_reference.py FOLDER`.

So an environment without torch can compare itself with it. A case is `NAME.npz`: "graph" and "loss" as
bytes, "x", weights as "w/...", targets as "t/...". Beside it comes `NAME.found.npz`: "loss", gradients as
"g/...", statistics as "s/...", outputs at these statistics as "o/...".
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np

from models.engines.torch import TorchEngine
from models.graph import decode
from models.losses import LossSettings


def reference(case):
    graph = decode(case["graph"].tobytes())
    loss = msgspec.json.decode(case["loss"].tobytes(), type=LossSettings)
    engine = TorchEngine(graph, loss, 1, device="cpu")
    weights, targets = (
        {name[2:]: case[name] for name in case if name.startswith(kind)} for kind in ("w/", "t/")
    )
    found = engine.gradients(weights, case["x"], targets)
    outputs = engine.outputs(weights | found.statistics, case["x"])
    parts = {"g": found.gradients, "s": found.statistics, "o": outputs}
    arrays = {f"{kind}/{name}": array for kind, part in parts.items() for name, array in part.items()}
    return {"loss": np.array(found.loss)} | arrays


if __name__ == "__main__":
    for path in sorted(Path(sys.argv[1]).glob("*.npz")):
        with np.load(path) as case:
            np.savez(path.with_suffix(".found.npz"), **reference(case))
