"""Train on an emulated 64-bit ARM board: scripts/emulated_training.py FOLDER [options].

scripts/emulate-aarch64 prepares the folder: `root`, a Debian arm64 root file system, and `site`, the
agent with [onnx] from aarch64 wheels. Then

1. the same bundle trains here and on the emulated board, and the losses must agree;
2. a coordinator here and a real agent there, over a real broker, train for one round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from coordinator.broker import start_broker
from models.bundle import Bundle, TrainingSettings, encode
from models.gradients.build import build_artifacts
from models.widths import plan_widths
from models.zoo import load_model, shipped_table

ROOT = Path(__file__).resolve().parent.parent
STEPS, AGENT = ROOT / "scripts/emulated_steps.py", ROOT / "scripts/emulated_agent.py"
EMULATOR = "/usr/bin/qemu-aarch64-static"
NETWORK = "cnn-28"
NUM_TRAINING_SAMPLES = 8000
MAX_DIFFERENCE = 1e-3
"""Relative, of two losses: other instructions round otherwise."""

ROUND_S = 1800


def write_bundle(path: Path) -> None:
    """What a device gets of the default network."""
    graph, _ = load_model(NETWORK)
    table, settings = shipped_table(NETWORK), TrainingSettings()
    assert table is not None
    bundle = Bundle(
        graph=graph,
        plan=plan_widths(graph),
        table=table,
        settings=settings,
        artifacts=build_artifacts(graph, settings.loss),
    )
    path.write_bytes(encode(bundle))


def on_board(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The command that runs Python on the emulated board, and its environment."""
    python = next((folder / "root/usr/bin").glob("python3.??"))
    environment = {
        **os.environ,
        "QEMU_LD_PREFIX": str(folder / "root"),
        "EMULATOR": EMULATOR,
        "PYTHONPATH": str(folder / "site"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return [EMULATOR, str(python)], environment


def compare_steps(folder: Path, num_steps: int) -> bool:
    """Train here and there; whether the losses agree."""
    bundle = folder / "network.bundle"
    write_bundle(bundle)
    losses = []
    for python, environment in (([sys.executable], None), on_board(folder)):
        argv = [*python, str(STEPS), str(bundle), str(num_steps)]
        done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, env=environment, cwd=folder)
        losses.append(json.loads(done.stdout.splitlines()[-1]))
    difference = max(abs(ours - theirs) / abs(ours) for ours, theirs in zip(*losses, strict=True))
    print(f"{num_steps} mini-batches: largest relative difference of the losses {difference:.2e}")
    return difference <= MAX_DIFFERENCE


@contextlib.contextmanager
def agent(folder: Path, broker: str) -> Iterator[None]:
    """A real agent on the emulated board, for as long as the block lasts; its log is agent.log."""
    python, environment = on_board(folder)
    argv = [*python, str(AGENT), "--broker", broker, "--id", "emulated", "--engine", "onnx"]
    argv += ["--state", str(folder / "agent")]
    with (folder / "agent.log").open("wb") as log:
        process = subprocess.Popen(argv, env=environment, cwd=folder, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def train_one_round(folder: Path, num_batches: int) -> bool:
    """A coordinator here, an agent there; whether the agent's update was applied."""
    argv = [
        sys.executable,
        "-m",
        "coordinator.cli",
        "coordinator",
        "run",
        "--engine",
        "onnx",
        "--rounds",
        "1",
    ]
    argv += ["--passes", str(num_batches * TrainingSettings().batch_size / NUM_TRAINING_SAMPLES)]
    argv += ["--round-seconds", str(ROUND_S), "--state", str(folder / "coordinator"), "--port", "0"]
    with start_broker("auto", folder / "broker") as broker, agent(folder, broker.url):
        argv += ["--fresh", "--exit", "--json", "--broker", broker.url]
        done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, cwd=ROOT)
    report = json.loads(done.stdout.splitlines()[-1])
    print((folder / "agent.log").read_text())
    shown = (
        "broker",
        "engine",
        "rounds",
        "updates_applied",
        "updates_expired",
        "accuracy",
        "wall_s",
        "devices",
    )
    print(json.dumps({key: report[key] for key in shown}))
    return report["updates_applied"] == 1


def main() -> int:
    """Train, and say whether it worked."""
    made = argparse.ArgumentParser(description="Trains on an emulated 64-bit ARM board.")
    made.add_argument("folder", type=Path, help="prepared by scripts/emulate-aarch64")
    made.add_argument("--steps", type=int, default=10, help="mini-batches to compare")
    made.add_argument("--agent-batches", type=int, default=5, help="mini-batches of the agent's round")
    options = made.parse_args()
    print(f"this machine: {platform.machine()}")
    folder = options.folder.resolve()
    worked = compare_steps(folder, options.steps) and train_one_round(folder, options.agent_batches)
    print("The agent trains on aarch64." if worked else "The agent does NOT train as it should on aarch64.")
    return 0 if worked else 1


if __name__ == "__main__":
    raise SystemExit(main())
