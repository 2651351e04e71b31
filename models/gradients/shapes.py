"""The rules of operators that move or sum entries: reshapes, transpositions, concatenations, reductions."""

from __future__ import annotations

from models.gradients.emitter import Emitter
from models.gradients.rule import Emitted, Rule, Site


def reshape(e: Emitter, site: Site) -> Emitted:
    """Reshape, where 0 copies a dimension and -1 infers one; widths follow."""
    x = site.inputs[0]
    before = e.op("Shape", x)
    y = e.reshape_to(x, site.ints("shape")[1:], site.batch)
    return Emitted(y, lambda d: (e.op("Reshape", d, before),))


def flatten(e: Emitter, site: Site) -> Emitted:
    """Flatten to [features, N]."""
    x = site.inputs[0]
    before = e.op("Shape", x)
    y = e.op("Flatten", x, axis=len(site.operands[0].shape))
    return Emitted(y, lambda d: (e.op("Reshape", d, before),))


def transpose(e: Emitter, site: Site) -> Emitted:
    """Transpose of the axes behind the batch."""
    order = tuple(axis - 1 for axis in site.ints("perm")[1:])
    back = tuple(order.index(axis) for axis in range(len(order)))
    rank = len(order)
    y = e.op("Transpose", site.inputs[0], perm=(*order, rank))
    return Emitted(y, lambda d: (e.op("Transpose", d, perm=(*back, rank)),))


def concat(e: Emitter, site: Site) -> Emitted:
    """Concat: each input gets its part of the gradient."""
    axis = site.int("axis") - 1
    sizes = [e.size(name, axis) for name in site.inputs]

    def pullback(d: str) -> tuple[str | None, ...]:
        if len(sizes) == 1:
            return (d,)
        parts = e.ops("Split", (d, e.op("Concat", *sizes, axis=0)), len(sizes), axis=axis)
        return tuple(part if wanted else None for part, wanted in zip(parts, site.wanted, strict=True))

    return Emitted(e.op("Concat", *site.inputs, axis=axis), pullback)


def _reduction(*, mean: bool) -> Rule:
    def rule(e: Emitter, site: Site) -> Emitted:
        x = site.inputs[0]
        axes = tuple(axis - 1 for axis in site.ints("axes"))
        shape = e.op("Shape", x)
        sizes = e.op("Gather", shape, e.integers(*axes))
        count = e.as_float(e.op("ReduceProd", sizes, keepdims=0)) if mean else e.number(1.0)
        total = e.op("Div", e.sum(x, axes), count) if mean else e.sum(x, axes)
        y = total if site.int("keepdims") else e.op("Squeeze", total, e.integers(*axes))

        def pullback(d: str) -> tuple[str | None, ...]:
            if mean:
                d = e.op("Div", d, count)
            if not site.int("keepdims"):
                d = e.op("Unsqueeze", d, e.integers(*axes))
            return (e.op("Expand", d, shape),)

        return Emitted(y, pullback)

    return rule


reduce_mean = _reduction(mean=True)
reduce_sum = _reduction(mean=False)
