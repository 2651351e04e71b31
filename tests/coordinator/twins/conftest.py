"""A small world: cnn-tiny-28 on a few dozen easy images, boards slow enough that resources matter."""

import numpy as np
import pytest

from coordinator.twins.scenario import load_scenario

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
    rng = np.random.default_rng(0)

    def part(num_samples):
        labels = np.arange(num_samples) % 10
        images = rng.integers(0, 60, (num_samples, 1, 28, 28))
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 4)
            image[0, 8 * row : 8 * row + 6, 7 * column : 7 * column + 6] += 180
        return images.astype(np.uint8), labels

    folder = tmp_path_factory.mktemp("world")
    (x_train, y_train), (x_test, y_test) = part(80), part(40)
    np.savez(folder / "data.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return folder


@pytest.fixture
def make_scenario(world):
    """A function of overrides that loads the small scenario."""
    path = world / "small.yaml"
    path.write_text(SMALL)
    return lambda *overrides: load_scenario(path, list(overrides))
