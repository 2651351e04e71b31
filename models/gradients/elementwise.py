"""The rules of operators that compute each entry by itself: activations, and sums and products of two."""

from __future__ import annotations

from collections.abc import Callable

from models.gradients.emitter import Emitter
from models.gradients.rule import Emitted, Rule, Site


def relu(e: Emitter, site: Site) -> Emitted:
    """Relu: the gradient at 0 is 0."""
    y = e.op("Relu", site.inputs[0])
    return Emitted(y, lambda d: (e.op("Mul", d, e.positive(y)),))


def leaky_relu(e: Emitter, site: Site) -> Emitted:
    """LeakyRelu: the gradient at 0 is alpha."""
    x, alpha = site.inputs[0], site.float("alpha")

    def pullback(d: str) -> tuple[str | None, ...]:
        slope = e.op("Add", e.scale(e.positive(x), 1.0 - alpha), e.number(alpha))
        return (e.op("Mul", d, slope),)

    return Emitted(e.op("LeakyRelu", x, alpha=alpha), pullback)


def clip(e: Emitter, site: Site) -> Emitted:
    """Clip to [min, max]; the gradient at either limit is 0, as of ReLU6."""
    x = site.inputs[0]
    low, high = e.number(site.float("min")), e.number(site.float("max"))

    def pullback(d: str) -> tuple[str | None, ...]:
        above, below = e.positive(e.op("Sub", x, low)), e.positive(e.op("Sub", high, x))
        return (e.op("Mul", d, e.op("Mul", above, below)),)

    return Emitted(e.op("Clip", x, low, high), pullback)


def sigmoid(e: Emitter, site: Site) -> Emitted:
    """Sigmoid: dx = dy y (1 - y)."""
    y = e.op("Sigmoid", site.inputs[0])
    return Emitted(y, lambda d: (e.op("Mul", d, e.op("Mul", y, e.op("Sub", e.number(1.0), y))),))


def tanh(e: Emitter, site: Site) -> Emitted:
    """Tanh: dx = dy (1 - y^2)."""
    y = e.op("Tanh", site.inputs[0])
    return Emitted(y, lambda d: (e.op("Mul", d, e.op("Sub", e.number(1.0), e.op("Mul", y, y))),))


def hard_swish(e: Emitter, site: Site) -> Emitted:
    """HardSwish, x min(1, max(0, x/6 + 1/2)) (Howard et al. 2019); its slope in -3..3 is x/3 + 1/2."""
    x = site.inputs[0]
    gate = e.op("HardSigmoid", x, alpha=1.0 / 6.0, beta=0.5)

    def pullback(d: str) -> tuple[str | None, ...]:
        three = e.number(3.0)
        inside = e.op("Mul", e.positive(e.op("Add", x, three)), e.positive(e.op("Sub", three, x)))
        slope = e.op("Add", gate, e.op("Mul", inside, e.scale(x, 1.0 / 6.0)))
        return (e.op("Mul", d, slope),)

    return Emitted(e.op("Mul", x, gate), pullback)


def _binary(op: str, gradients: Callable[[Emitter, str, str, str], tuple[str, str]]) -> Rule:
    """An operation on two broadcast operands, from what the gradients of both are before broadcasting."""

    def rule(e: Emitter, site: Site) -> Emitted:
        left, right = (_batch_last(e, site, side) for side in (0, 1))

        def pullback(d: str) -> tuple[str | None, ...]:
            found = gradients(e, d, left, right)
            return tuple(
                _unbroadcast(e, site, side, found[side]) if site.wanted[side] else None for side in (0, 1)
            )

        return Emitted(e.op(op, left, right), pullback)

    return rule


def _quotient(e: Emitter, d: str, left: str, right: str) -> tuple[str, str]:
    share = e.op("Div", d, right)
    return share, e.op("Neg", e.op("Mul", share, e.op("Div", left, right)))


add = _binary("Add", lambda _e, d, _left, _right: (d, d))
subtract = _binary("Sub", lambda e, d, _left, _right: (d, e.op("Neg", d)))
multiply = _binary("Mul", lambda e, d, left, right: (e.op("Mul", d, right), e.op("Mul", d, left)))
divide = _binary("Div", _quotient)


def _batch_last(e: Emitter, site: Site, side: int) -> str:
    """An operand as it broadcasts with values whose batch is last."""
    name, (kind, shape) = site.inputs[side], site.operands[side]
    if kind == "value" or not shape:
        return name
    if len(shape) > len(site.shape):
        name = e.op("Squeeze", name, e.integers(0))  # an axis of size 1 in the batch's place
        shape = shape[1:]
    return e.op("Unsqueeze", name, e.integers(len(shape)))


def _unbroadcast(e: Emitter, site: Site, side: int, gradient: str) -> str:
    """Sum a gradient in the output's shape over what the operand was broadcast along."""
    (kind, shape), rank = site.operands[side], len(site.shape)
    own = shape if kind == "value" else shape[max(0, len(shape) - rank) :]
    padded = (1,) * (rank - len(own)) + own
    axes = [axis for axis in range(rank) if padded[axis] == 1 and site.shape[axis] != 1]
    if kind == "value":
        return e.sum(gradient, axes) if axes else gradient
    total = e.sum(gradient, [*axes, rank])
    surplus = [*range(rank - len(own)), rank]
    total = e.op("Squeeze", total, e.integers(*surplus))
    return e.op("Unsqueeze", total, e.integers(0)) if len(shape) > rank else total
