"""The rules of Gemm and MatMul: Y = W X, dX = W^T dY, dW = dY X^T, in whatever order the operator has."""

from __future__ import annotations

from models.gradients.emitter import Emitter
from models.gradients.rule import Emitted, Site


def linear(e: Emitter, site: Site) -> Emitted:
    """Gemm, y = x @ weight.T + bias: batch last, weight [out, in] times x [in, N]."""
    x, weight, *biases = site.inputs
    columns = [e.op("Unsqueeze", bias, e.integers(1)) for bias in biases]

    def pullback(d: str) -> tuple[str | None, ...]:
        made: list[str | None] = [e.op("Gemm", weight, d, transA=1) if site.wanted[0] else None]
        made.append(e.op("Gemm", d, x, transB=1))
        made += [e.sum(d, (1,), keepdims=False) for _ in biases]
        return tuple(made)

    return Emitted(e.op("Gemm", weight, x, *columns), pullback)


def multiply_matrices(e: Emitter, site: Site) -> Emitted:
    """MatMul by a parameter [in, out], or of two activations."""
    return _by_parameter(e, site) if site.operands[1].kind == "parameter" else _of_values(e, site)


def _by_parameter(e: Emitter, site: Site) -> Emitted:
    x, weight = site.inputs
    rank = len(site.shape)

    def rows(value: str) -> str:
        """[..., features, N] -> [features, everything else]."""
        order = (rank - 1, *range(rank - 1), rank)
        return e.op("Flatten", e.op("Transpose", value, perm=order) if rank > 1 else value, axis=1)

    def pullback(d: str) -> tuple[str | None, ...]:
        d_input = e.op("MatMul", weight, d) if site.wanted[0] else None
        return d_input, e.op("Gemm", rows(x), rows(d), transB=1)

    return Emitted(e.op("MatMul", e.op("Transpose", weight, perm=(1, 0)), x), pullback)


def _of_values(e: Emitter, site: Site) -> Emitted:
    rank = len(site.shape)
    batch_first, batch_last = (rank, *range(rank)), (*range(1, rank + 1), 0)
    left, right = (e.op("Transpose", name, perm=batch_first) for name in site.inputs)
    swap = (*range(rank - 1), rank, rank - 1)

    def product(a: str, b: str) -> str:
        return e.op("Transpose", e.op("MatMul", a, b), perm=batch_last)

    def pullback(d: str) -> tuple[str | None, ...]:
        d = e.op("Transpose", d, perm=batch_first)
        return (
            product(d, e.op("Transpose", right, perm=swap)) if site.wanted[0] else None,
            product(e.op("Transpose", left, perm=swap), d) if site.wanted[1] else None,
        )

    return Emitted(product(left, right), pullback)
