"""Features that a network makes of images of classes it never learned: what devices can still tell apart.

The default network learns five of the ten classes of the shipped Fashion-MNIST images; the streams are what
it makes of images of the other five.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import DEFAULT_DATA, load_data, match
from models.engines.choose import make_engine
from models.losses import LossSettings
from models.subnet import Array, Indices
from models.zoo import initial_weights, load_model

NETWORK = "cnn-28"
NUM_LEARNED = 5
"""Classes that the network learns, the first of them; the others are in the streams."""

NUM_STEPS, BATCH_SIZE, RATE, MOST_NORM = 100, 32, 0.05, 1.0


@functools.cache
def image_features() -> tuple[Array, Indices]:
    """Features of test images of the other classes, each channel's mean over the image: [n, d] and [n].

    The engine is the one of NumPy, which is everywhere.
    """
    graph, _ = load_model(NETWORK)
    data = match(load_data(DEFAULT_DATA), graph.input_shape, graph.num_classes)
    engine = make_engine("numpy", graph, LossSettings(), 1)
    weights, rng = initial_weights(graph, 0), np.random.default_rng(0)
    known = np.flatnonzero(data.train.labels < NUM_LEARNED)
    for _ in range(NUM_STEPS):
        inputs, labels = data.train.batch(rng.choice(known, BATCH_SIZE, replace=False))
        targets: dict[str, NDArray] = {"labels": labels}
        found = engine.gradients(weights, inputs, targets)
        norm = np.sqrt(sum(float((one**2).sum()) for one in found.gradients.values()))
        rate = RATE * min(1.0, MOST_NORM / norm)
        for name, gradient in found.gradients.items():
            weights[name] = weights[name] - np.float32(rate) * gradient
    others = np.flatnonzero(data.test.labels >= NUM_LEARNED)
    inputs, labels = data.test.batch(others)
    maps = engine.outputs(weights, inputs)["features"]
    channels = graph.shapes["maxpool_8"][0]
    means = maps.reshape(len(others), channels, -1).mean(axis=2)
    return means.astype(np.float32), labels.astype(np.int64) - NUM_LEARNED
