"""The densely connected network for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.zoo import check_input_shape

GROWTH = 12


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1 to 4 x growth, norm, ReLU, 3x3 to growth; the result joins the input."""

    def __init__(self, num_in: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(num_in)
        self.conv1 = nn.Conv2d(num_in, 4 * GROWTH, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * GROWTH)
        self.conv2 = nn.Conv2d(4 * GROWTH, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] to [N, in + growth, H, W]."""
        y = self.conv1(functional.relu(self.norm1(x)))
        y = self.conv2(functional.relu(self.norm2(y)))
        return torch.cat([x, y], dim=1)


def densenet_40(input_shape: tuple[int, ...] = (3, 32, 32), num_classes: int = 10) -> nn.Module:
    """DenseNet-BC of 40 layers, growth 12, compression 1/2: 176 thousand parameters, 72 MMAC at (3, 32, 32).

    Args:
        input_shape: (channels, height, width), at least 4 high and wide.
        num_classes: class scores that come out.

    References:
        Huang et al., Densely connected convolutional networks, arXiv 1608.06993.
    """
    check_input_shape("densenet-40", input_shape)
    channels = 2 * GROWTH
    layers: list[nn.Module] = [nn.Conv2d(input_shape[0], channels, 3, padding=1, bias=False)]
    for block in range(3):
        for _ in range(6):
            layers.append(DenseLayer(channels))
            channels += GROWTH
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        if block < 2:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
