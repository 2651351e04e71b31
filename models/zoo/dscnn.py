"""A depthwise-separable 1-D network for windows of audio or of inertial sensors."""

from __future__ import annotations

from torch import nn

from models.zoo import check_input_shape
from models.zoo.refit import first_window


def dscnn_1d(
    input_shape: tuple[int, ...] = (1, 4000), num_classes: int = 10, width: int = 64, num_blocks: int = 4
) -> nn.Module:
    """A strided convolution, depthwise-separable blocks, mean over time, one linear layer.

    The first stride follows the window's length, so that about 250 steps of time remain.

    Args:
        input_shape: (channels, length), at least 16 long.
        num_classes: class scores that come out.
        width: channels of every block.
        num_blocks: depthwise-separable blocks; each second one halves the time.

    References:
        Zhang et al., Hello edge: keyword spotting on microcontrollers, arXiv 1711.07128 (there in 2-D).
    """
    check_input_shape("dscnn-1d", input_shape)
    stride, kernel = first_window(input_shape[1])
    layers: list[nn.Module] = [
        nn.Conv1d(input_shape[0], width, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(),
    ]
    for block in range(num_blocks):
        layers += [
            nn.Conv1d(width, width, 9, 1 + block % 2, padding=4, groups=width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 1, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, num_classes))
