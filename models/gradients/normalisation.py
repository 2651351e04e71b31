"""The rules of BatchNormalization and Softmax.

Batch norm with batch statistics (Ioffe and Szegedy 2015), xc = x - mean, r = 1 / sqrt(var + epsilon):

    y = scale r xc + bias        dx = scale r (dy - mean(dy) - xc r^2 mean(dy xc))
"""

from __future__ import annotations

from models.gradients.emitter import Emitter
from models.gradients.rule import Emitted, Site


def normalise(e: Emitter, site: Site) -> Emitted:
    """BatchNormalization: the mini-batch's moments in training, else the given ones."""
    return _normalise_by_batch(e, site) if site.training else _normalise_by_given(e, site)


def _normalise_by_given(e: Emitter, site: Site) -> Emitted:
    x, scale, bias, mean, variance = site.inputs
    spread = e.op("Sqrt", e.op("Add", variance, e.number(site.float("epsilon"))))
    slope = e.op("Div", scale, spread)
    offset = e.op("Sub", bias, e.op("Mul", mean, slope))
    axes = e.integers(*range(1, len(site.shape) + 1))
    scaled = e.op("Mul", x, e.op("Unsqueeze", slope, axes))

    def pullback(_: str) -> tuple[str | None, ...]:
        raise AssertionError("batch norm with given moments is for evaluation, which takes no gradients")

    return Emitted(e.op("Add", scaled, e.op("Unsqueeze", offset, axes)), pullback)


def _normalise_by_batch(e: Emitter, site: Site) -> Emitted:
    x, scale, bias = site.inputs[:3]
    one = e.integers(1)
    flat = e.op("Flatten", x, axis=1)
    mean = e.op("ReduceMean", flat, axes=(1,), keepdims=1)
    centred = e.op("Sub", flat, mean)
    variance = e.op("ReduceMean", e.op("Mul", centred, centred), axes=(1,), keepdims=1)
    spread = e.op("Sqrt", e.op("Add", variance, e.number(site.float("epsilon"))))
    slope = e.op("Div", e.op("Unsqueeze", scale, one), spread)
    output = e.op("Add", e.op("Mul", centred, slope), e.op("Unsqueeze", bias, one))
    sizes = (0, *site.shape[1:], -1)

    def pullback(gradient: str) -> tuple[str | None, ...]:
        d = e.op("Flatten", gradient, axis=1)
        mean_d = e.op("ReduceMean", d, axes=(1,), keepdims=1)
        mean_dx = e.op("ReduceMean", e.op("Mul", d, centred), axes=(1,), keepdims=1)
        count = e.as_float(e.size(flat, 1))
        d_scale = e.op("Div", e.op("Mul", mean_dx, count), spread)
        d_bias = e.op("Mul", mean_d, count)
        made = None
        if site.wanted[0]:
            pull = e.op("Div", mean_dx, e.op("Mul", spread, spread))
            inner = e.op("Sub", e.op("Sub", d, mean_d), e.op("Mul", centred, pull))
            made = e.reshape_to(e.op("Mul", inner, slope), sizes)
        return made, e.op("Squeeze", d_scale, one), e.op("Squeeze", d_bias, one), None, None

    statistics = (
        (site.names[3], e.op("Squeeze", mean, one)),
        (site.names[4], e.op("Squeeze", variance, one)),
    )
    return Emitted(e.reshape_to(output, sizes), pullback, statistics)


def softmax(e: Emitter, site: Site) -> Emitted:
    """Softmax along one axis: dx = y (dy - sum(y dy))."""
    axis = site.int("axis") - 1
    y = e.op("Softmax", site.inputs[0], axis=axis)

    def pullback(gradient: str) -> tuple[str | None, ...]:
        weighted = e.op("Mul", gradient, y)
        return (e.op("Sub", weighted, e.op("Mul", y, e.sum(weighted, (axis,)))),)

    return Emitted(y, pullback)
