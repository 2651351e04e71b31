"""A small world: cnn-tiny-28 on a few dozen easy images, boards slow enough that resources matter."""

import pytest

from coordinator.twins.scenario import load_scenario
from tests.fixtures.squares import write_squares

SMALL = """\
name: small
model: cnn-tiny-28
data: data.npz
rounds: 2
round_s: 40
passes: 1
batch_size: 8
devices:
  - id: one
    profile: raspberry-pi-4
    speed: {core_seconds_per_mac: 6e-8}
  - id: two
    profile: raspberry-pi-4
    speed: {core_seconds_per_mac: 6e-8}
"""
"""The full network's step takes 8 * 2.7 MMAC * 6e-8 s = 1.3 s of a core; 5 steps a round and device."""


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder with data.npz: ten classes, each a bright square in another place."""
    folder = tmp_path_factory.mktemp("world")
    write_squares(folder / "data.npz", 80, 40)
    return folder


@pytest.fixture
def make_scenario(world):
    """A function of overrides that loads the small scenario."""
    path = world / "small.yaml"
    path.write_text(SMALL)
    return lambda *overrides: load_scenario(path, list(overrides))
