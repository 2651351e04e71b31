"""Where a sliding window's taps lie: the geometry of convolutions and pools in one or two dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from models.engines.numpy.rule import Attributes


@dataclass(frozen=True)
class Slide:
    """A window along one axis.

    Attributes:
        num_taps: inputs it reads.
        stride: between neighbouring outputs.
        begin: padding before the first input; negative where the input is cut instead.
        end: padding after the last.
        dilation: between neighbouring taps.
        ceil_mode: whether a last window that is not full counts.
    """

    num_taps: int
    stride: int = 1
    begin: int = 0
    end: int = 0
    dilation: int = 1
    ceil_mode: bool = False

    def output_size(self, size: int) -> int:
        """Outputs of `size` inputs."""
        room = size + self.begin + self.end - self.dilation * (self.num_taps - 1) - 1
        return (-(-room // self.stride) if self.ceil_mode else room // self.stride) + 1

    def taps(self, size: int, output_size: int) -> Iterator[tuple[int, slice, slice]]:
        """For each tap: its number, the outputs for which it lies inside the input, what they read there."""
        for tap in range(self.num_taps):
            yield tap, *overlap(size, output_size, tap * self.dilation - self.begin, self.stride)

    def transposed(self) -> Slide:
        """The window that slides over the output's gradient for the input's, where the stride is 1."""
        reach = self.dilation * (self.num_taps - 1)
        return Slide(self.num_taps, 1, reach - self.begin, reach - self.end, self.dilation)


class Window(NamedTuple):
    """A window over rows and columns."""

    rows: Slide
    columns: Slide

    @property
    def is_point(self) -> bool:
        """Whether each output is of the one input in its place."""
        return self == _POINT

    @property
    def is_dense(self) -> bool:
        """Whether the stride is 1 along both axes."""
        return self.rows.stride == self.columns.stride == 1

    def transposed(self) -> Window:
        """See `Slide.transposed`."""
        return Window(self.rows.transposed(), self.columns.transposed())


_POINT = Window(Slide(1), Slide(1))


def slides_of(attributes: Attributes) -> list[Slide]:
    """The window of a Conv or a pool along each spatial axis."""
    rank = len(attributes["strides"])
    dilations = attributes.get("dilations", (1,) * rank)
    return [
        Slide(
            num_taps=attributes["kernel_shape"][axis],
            stride=attributes["strides"][axis],
            begin=attributes["pads"][axis],
            end=attributes["pads"][axis + rank],
            dilation=dilations[axis],
            ceil_mode=bool(attributes.get("ceil_mode", 0)),
        )
        for axis in range(rank)
    ]


def window_of(attributes: Attributes) -> Window:
    """The window of a Conv; a one-dimensional one slides over the columns of a single row."""
    slides = slides_of(attributes)
    return Window(*slides) if len(slides) == 2 else Window(Slide(1), slides[0])


def overlap(size: int, output_size: int, offset: int, stride: int) -> tuple[slice, slice]:
    """Outputs o with o * stride + offset inside 0..size-1, as a slice, and the slice of what they read."""
    first = max(0, -(offset // stride))
    stop = min(output_size, (size - 1 - offset) // stride + 1)
    if stop <= first:
        return slice(0, 0), slice(0, 0)
    start = first * stride + offset
    return slice(first, stop), slice(start, (stop - 1) * stride + offset + 1, stride)
