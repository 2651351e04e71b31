"""Networks so small that a hundred simulated devices learn on one core within a minute or two.

Their first convolution keeps the input's resolution: activations, which sub-networks have fewer of, take
most of the memory of training, and a sub-network fits a small part of it.
"""

from __future__ import annotations

from torch import nn

from models.zoo import check_input_shape
from models.zoo.cnn import pooled_convolutions
from models.zoo.refit import first_window


def cnn_tiny_28(input_shape: tuple[int, ...] = (1, 28, 28), num_classes: int = 10) -> nn.Module:
    """`cnn-28` with 12, 24 and 32 channels; 0.93 MMAC a sample of (1, 28, 28).

    Args:
        input_shape: (channels, height, width), at least 8 high and wide.
        num_classes: class scores that come out.
    """
    check_input_shape("cnn-tiny-28", input_shape)
    return pooled_convolutions(input_shape, num_classes, (12, 24, 32))


def cnn_tiny_32(input_shape: tuple[int, ...] = (3, 32, 32), num_classes: int = 10) -> nn.Module:
    """`cnn-28` with 16, 24 and 48 channels; 2.0 MMAC a sample of (3, 32, 32).

    Args:
        input_shape: (channels, height, width), at least 8 high and wide.
        num_classes: class scores that come out.
    """
    check_input_shape("cnn-tiny-32", input_shape)
    return pooled_convolutions(input_shape, num_classes, (16, 24, 48))


def cnn_tiny_1d(input_shape: tuple[int, ...] = (32, 47), num_classes: int = 10) -> nn.Module:
    """1-D convolutions (16, 24, 32), the mean over time, one linear layer; 0.21 MMAC of (32, 47).

    For sound as mel bands over time. Of a long input about 250 steps of time remain after the first
    stride.

    Args:
        input_shape: (channels, length), at least 8 long.
        num_classes: class scores that come out.
    """
    check_input_shape("cnn-tiny-1d", input_shape)
    channels, length = input_shape
    stride, kernel = first_window(length)
    layers: list[nn.Module] = [nn.Conv1d(channels, 16, kernel, stride, kernel // 2), nn.ReLU()]
    for before, after in ((16, 24), (24, 32)):
        layers += [nn.MaxPool1d(2), nn.Conv1d(before, after, 5, padding=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, num_classes))
