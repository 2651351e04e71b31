"""A small fleet to plan for: two fast boards, two slow ones that alone hold two of ten classes."""

import pytest

from coordinator.comparing.summary import RunOutcome
from coordinator.twins.scenario import load_scenario
from tests.fixtures.squares import write_squares

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
    folder = tmp_path_factory.mktemp("planning")
    write_squares(folder / "data.npz", 100, 10)
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
