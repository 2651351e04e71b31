"""Train a bundle: scripts/emulated_steps.py BUNDLE NUM_STEPS.

scripts/emulated_training.py runs it on an emulated board, and to compare on this machine. It does with a
bundle what an agent's job does; its last line is the losses as JSON.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path

from models.bundle import decode
from models.data.batches import shuffled_batches
from models.data.dataset import DEFAULT_DATA, load_data
from models.engines.choose import make_engine
from models.optim.optimizer import Optimizer
from models.step import training_step
from models.subnet import sample
from models.zoo.initial import initial_weights


def train(bundle_file: Path, num_steps: int) -> list[float]:
    """Train the sub-networks of the bundle's table in turn, widest first, on the data that comes along."""
    bundle = decode(bundle_file.read_bytes())
    entries, plan, settings = bundle.table.entries, bundle.plan, bundle.settings
    engine = make_engine("onnx", bundle.graph, settings.loss, 1, bundle.artifacts)
    say(f"{platform.machine()}, Python {platform.python_version()}, engine {engine.name}")
    weights, optimizer = initial_weights(bundle.graph, 0), Optimizer(settings.optimizer)
    data = load_data(DEFAULT_DATA).train
    batches = shuffled_batches(len(data), settings.batch_size, seed=0)
    losses = []
    for step, batch in zip(range(num_steps), batches, strict=False):
        subnet = sample(plan, entries[-1 - step % len(entries)].vector, 0, step)
        inputs, labels = data.batch(batch)
        inputs = inputs.reshape(len(inputs), *bundle.graph.input_shape)
        began_s = time.monotonic()
        done = training_step(engine, plan, weights, optimizer, subnet, inputs, {"labels": labels})
        took_s = time.monotonic() - began_s
        widths = [len(kept) for kept in subnet.kept]
        say(f"mini-batch {step + 1}: channels {widths}, loss {done.loss:.6f}, {took_s:.3f} s")
        losses.append(done.loss)
    loaded = sorted({"torch", "onnx"} & sys.modules.keys())
    say(f"loaded of torch and onnx: {' and '.join(loaded) or 'none'}")
    return losses


def say(text: str) -> None:
    """For people."""
    print(text, file=sys.stderr)


if __name__ == "__main__":
    print(json.dumps(train(Path(sys.argv[1]), int(sys.argv[2]))))
