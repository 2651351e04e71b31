"""A network of your own: any torch module that takes samples and gives class scores.

    edgetide models trace examples/custom_model/net.py:Net --input 1,28,28 --output net.onnx
    edgetide up --model net.onnx

Nothing here mentions edgetide. Its width groups (which layers shrink together) are found from the
traced graph: the residual sum ties the stem and the second convolution of the block, for instance.
"""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    """Two convolutions and a shortcut around them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, hidden, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(hidden)
        self.second = nn.Conv2d(hidden, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """From [batch, channels, height, width] to the same shape."""
        hidden = torch.relu(self.first_norm(self.first(inputs)))
        return torch.relu(inputs + self.second_norm(self.second(hidden)))


class Net(nn.Module):
    """A small residual network for 28 x 28 grey images and 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 24, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()
        )
        self.block = Block(24, 48)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(24, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From images [batch, 1, 28, 28] to class scores [batch, 10]."""
        features = self.pool(self.block(self.stem(images)))
        return self.head(torch.flatten(features, 1))
