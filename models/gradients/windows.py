"""Windows of convolutions and pools as gathers: which pixel each tap of each window reads.

A table holds positions in the flattened space of a value [C, positions, N]; the position after the last
one stands for the padding. Tables are emitted as arithmetic on the windows' few numbers, which the runtime
folds once, when the session is made: the file stays small, whatever the size of the maps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from models.gradients.emitter import Emitter
from models.gradients.rule import Site

Ints = tuple[int, ...]

_INT32 = 6  # onnx.TensorProto.INT32


class Window(NamedTuple):
    """How windows slide over one or two spatial axes.

    Attributes:
        sizes: pixels of the input along each axis. counts: windows along each axis.
        kernel: taps along each axis. strides, dilations: steps of windows and of taps, in pixels.
        begins: padding before the first pixel.
    """

    sizes: Ints
    counts: Ints
    kernel: Ints
    strides: Ints
    dilations: Ints
    begins: Ints

    @property
    def num_taps(self) -> int:
        """Pixels a window reads."""
        return math.prod(self.kernel)

    @property
    def num_pixels(self) -> int:
        """Pixels of the input."""
        return math.prod(self.sizes)

    @property
    def num_windows(self) -> int:
        """Windows over the input."""
        return math.prod(self.counts)

    @property
    def is_pointwise(self) -> bool:
        """Whether window i reads just pixel i."""
        return max(self.kernel) == 1 and max(self.strides) == 1 and self.sizes == self.counts

    @property
    def is_dense(self) -> bool:
        """Whether the windows are as close as the pixels."""
        return max(self.strides) == 1

    @property
    def reads_padding(self) -> bool:
        """Whether some tap of some window lies outside the input."""
        last = (
            (count - 1) * stride + (taps - 1) * dilation - begin
            for count, stride, taps, dilation, begin in zip(
                self.counts, self.strides, self.kernel, self.dilations, self.begins, strict=True
            )
        )
        return any(self.begins) or any(end >= size for end, size in zip(last, self.sizes, strict=True))


def sliding_window(site: Site) -> Window:
    """The windows of a Conv or pooling node."""
    kernel = site.ints("kernel_shape")
    return Window(
        sizes=site.operands[0].shape[1:],
        counts=site.shape[1:],
        kernel=kernel,
        strides=site.ints("strides"),
        dilations=site.ints("dilations") if "dilations" in site.attributes else (1,) * len(kernel),
        begins=site.ints("pads")[: len(kernel)],
    )


def reads(e: Emitter, window: Window) -> str:
    """Table [taps, windows]: the pixel that each tap of each window reads."""
    axes = []
    for axis, count in enumerate(window.counts):
        taps = e.constant(np.arange(window.kernel[axis], dtype=np.int64)[:, None] * window.dilations[axis])
        starts = _arithmetic(e, count, window.strides[axis], -window.begins[axis])
        found = e.op("Add", taps, starts)
        axes.append((found, _within(e, found, window.sizes[axis])))
    return _table(e, axes, window.sizes[1:], window.num_taps, window.num_pixels)


def read_by(e: Emitter, window: Window) -> str:
    """Table [taps, pixels]: the window that reads each pixel by this tap (the transposed windows)."""
    axes = []
    for axis in range(len(window.sizes)):
        taps = np.arange(window.kernel[axis], dtype=np.int64)[:, None] * window.dilations[axis]
        axes.append(_readers_along(e, window, axis, e.constant(taps)))
    return _table(e, axes, window.counts[1:], window.num_taps, window.num_windows)


def part_of(e: Emitter, table: str, positions: range) -> str:
    """Those columns of a table [taps, positions]."""
    return e.op("Slice", table, e.integers(positions.start), e.integers(positions.stop), e.integers(1))


def readers(e: Emitter, window: Window, *, with_tap: bool) -> tuple[str, int]:
    """Table [readers, pixels]: every pair of tap and window that reads a pixel; and the number of readers.

    Args:
        e: where to emit.
        window: the windows.
        with_tap: positions are tap * num_windows + window, else the window alone.
    """
    axes, most = [], 1
    for axis, size in enumerate(window.sizes):
        kernel, stride, dilation = window.kernel[axis], window.strides[axis], window.dilations[axis]
        pixels = _arithmetic(e, size, 1, window.begins[axis])
        if dilation == 1:
            # of `kernel` taps only those congruent to the pixel modulo the stride can reach it
            num_readers = -(-kernel // stride)
            first = e.op("Mod", pixels, e.integers(stride))
            steps = e.constant(np.arange(num_readers, dtype=np.int64)[:, None] * stride)
            taps = e.op("Add", first, steps)
        else:
            num_readers = kernel
            taps = e.constant(np.arange(kernel, dtype=np.int64)[:, None])
        most *= num_readers
        offsets = e.op("Mul", taps, e.integers(dilation))
        found, inside = _readers_along(e, window, axis, offsets)
        inside = e.op("And", inside, e.op("Less", taps, e.integers(kernel)))
        if with_tap:
            found = e.op(
                "Add", e.op("Mul", taps, e.integers(_tap_step(window, axis))), _weigh(e, window, axis, found)
            )
        axes.append((found, inside))
    if with_tap:
        padding, inner = window.num_taps * window.num_windows, (1,) * (len(window.sizes) - 1)
    else:
        padding, inner = window.num_windows, window.counts[1:]
    return _table(e, axes, inner, most, padding), most


def has_idle_pixels(window: Window) -> bool:
    """Whether the readers' table has gaps: a pixel read less often than another, or never."""
    return (
        window.kernel != window.strides
        or max(window.dilations) > 1
        or any(window.begins)
        or any(
            count * stride != size
            for count, stride, size in zip(window.counts, window.strides, window.sizes, strict=True)
        )
    )


def _readers_along(e: Emitter, window: Window, axis: int, offsets: str) -> tuple[str, str]:
    """Which window reads a pixel by the taps at `offsets` [taps, 1 or pixels]; and whether there is one."""
    ahead = e.op("Sub", _arithmetic(e, window.sizes[axis], 1, window.begins[axis]), offsets)
    stride = e.integers(window.strides[axis])
    found = e.op("Div", ahead, stride)
    exact = e.op("Equal", e.op("Mul", found, stride), ahead)
    return found, e.op("And", exact, _within(e, found, window.counts[axis]))


def _tap_step(window: Window, axis: int) -> int:
    """How far apart the positions of neighbouring taps along an axis are."""
    return math.prod(window.kernel[axis + 1 :]) * window.num_windows


def _weigh(e: Emitter, window: Window, axis: int, found: str) -> str:
    return e.op("Mul", found, e.integers(math.prod(window.counts[axis + 1 :])))


def _arithmetic(e: Emitter, count: int, factor: int, offset: int) -> str:
    """int64 [count]: factor * step + offset, as a Range that is folded when the session is made."""
    start, stop = (np.array(factor * end + offset, np.int64) for end in (0, count))
    return e.op("Range", e.constant(start), e.constant(stop), e.constant(np.array(factor, np.int64)))


def _within(e: Emitter, found: str, size: int) -> str:
    return e.op("And", e.op("GreaterOrEqual", found, e.integers(0)), e.op("Less", found, e.integers(size)))


def _table(e: Emitter, axes: list[tuple[str, str]], inner: Ints, num_taps: int, padding: int) -> str:
    """int32 [taps, positions] from each axis' coordinates and whether they are inside."""
    found, inside = axes[0]
    if len(axes) == 2:
        (rows, rows_inside), (columns, columns_inside) = axes
        spread = [e.op("Unsqueeze", one, e.integers(1, 3)) for one in (rows, rows_inside)]
        other = [e.op("Unsqueeze", one, e.integers(0, 2)) for one in (columns, columns_inside)]
        found = e.op("Add", e.op("Mul", spread[0], e.integers(*inner)), other[0])
        inside = e.op("And", spread[1], other[1])
    table = e.op("Where", inside, found, e.integers(padding))
    return e.reshape_to(e.op("Cast", table, to=_INT32), (num_taps, -1))
