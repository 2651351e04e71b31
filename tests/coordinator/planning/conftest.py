"""A small fleet to plan for: two fast boards, two slow ones that alone hold two of ten classes."""

import numpy as np
import pytest

from coordinator.twins.compare_summary import RunOutcome
from coordinator.twins.scenario import load_scenario

FLEET = """\
name: boards
model: cnn-tiny-28
data: data.npz
engine: onnx
rounds: 40
round_s: 0.02
batch_size: 4
num_validation: 20
learning_rate: 0.1
optimizer: {momentum: 0.0, schedule: cosine}
devices:
  - {id: fast, profile: raspberry-pi-4, count: 2, speed: {core_seconds_per_mac: 1.0e-9}}
  - {id: slow, profile: raspberry-pi-4, count: 2, speed: {core_seconds_per_mac: 4.0e-9}, labels: [8, 9]}
"""
"""A full mini-batch takes 4 x 2.3 MMAC x 1e-9 s = 9 ms of a fast board's core, 36 ms of a slow one's."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Has fleet.yaml and data.npz: ten classes, each a bright square in another place."""
    rng = np.random.default_rng(0)

    def part(num_samples):
        labels = np.arange(num_samples) % 10
        images = rng.integers(0, 60, (num_samples, 1, 28, 28))
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 4)
            image[0, 8 * row : 8 * row + 6, 7 * column : 7 * column + 6] += 180
        return images.astype(np.uint8), labels

    folder = tmp_path_factory.mktemp("planning")
    (x_train, y_train), (x_test, y_test) = part(100), part(10)
    np.savez(folder / "data.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    (folder / "fleet.yaml").write_text(FLEET)
    return folder


@pytest.fixture
def make_fleet(folder):
    """A function of overrides that loads the fleet's scenario."""
    return lambda *overrides: load_scenario(folder / "fleet.yaml", list(overrides))


@pytest.fixture
def make_outcome():
    """A function that makes what is read of a simulation."""

    def make(accuracy, macs=10**9, class_accuracy=()):
        return RunOutcome(
            accuracy=accuracy,
            accuracy_curve=((0.0, 0.1), (1.0, accuracy)),
            virtual_s=1.0,
            macs=macs,
            bytes_sent=0,
            engine="onnx",
            class_accuracy=class_accuracy,
            wall_s=2.0,
        )

    return make
