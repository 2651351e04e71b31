"""A small VGG."""

from __future__ import annotations

from torch import nn

from models.zoo import check_input_shape


def vgg_8(input_shape: tuple[int, ...] = (3, 32, 32), num_classes: int = 10) -> nn.Module:
    """Five 3x3 convolutions (64, 128, 256, 512, 512) with batch norm, pools between, mean over space.

    Args:
        input_shape: (channels, height, width), at least 16 high and wide.
        num_classes: class scores that come out.

    References:
        The VGG-8 student of Tian et al., Contrastive representation distillation, arXiv 1910.10699.
    """
    check_input_shape("vgg-8", input_shape)
    layers: list[nn.Module] = []
    channels = input_shape[0]
    for made, pools in ((64, True), (128, True), (256, True), (512, True), (512, False)):
        layers += [nn.Conv2d(channels, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pools else []
        channels = made
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
