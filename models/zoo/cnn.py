"""A small convolutional network for small grey images."""

from __future__ import annotations

from torch import nn

from models.zoo import check_input_shape


def cnn_28(input_shape: tuple[int, ...] = (1, 28, 28), num_classes: int = 10) -> nn.Module:
    """Three 3x3 convolutions (32, 64, 64), each with ReLU and a 2x2 max pool, then one linear layer.

    5.65 MMAC a sample of (1, 28, 28).

    Args:
        input_shape: (channels, height, width), at least 8 high and wide.
        num_classes: class scores that come out.
    """
    check_input_shape("cnn-28", input_shape)
    return pooled_convolutions(input_shape, num_classes, (32, 64, 64))


def pooled_convolutions(input_shape: tuple[int, ...], num_classes: int, widths: tuple[int, ...]) -> nn.Module:
    """3x3 convolutions of these widths, each with ReLU and a 2x2 max pool, then one linear layer."""
    layers: list[nn.Module] = []
    channels, height, width = input_shape
    for made in widths:
        layers += [nn.Conv2d(channels, made, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels, height, width = made, height // 2, width // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, num_classes))
