"""The peer of ours in step time: a plain torch module of a given width, trained the usual way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.subnet import Array

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class SubsampledConv(nn.Module):
    """A strided 1x1 convolution as the stride-1 convolution of the subsampled input.

    torch 2.13 crashes on x86 in the weight gradient of the former in channels_last below 8 input channels.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.stride = int(conv.stride[0])

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] to [N, out, H / stride, W / stride]."""
        return functional.conv2d(x[:, :, :: self.stride, :: self.stride], self.weight, self.bias)


def narrowed(module: nn.Module, weights: Mapping[str, Array]) -> nn.Module:
    """A copy of a module with the widths of these weights, as if its author had written it so narrow.

    Args:
        module: made of Conv, BatchNorm and Linear layers whose widths its `forward` does not repeat.
        weights: parameter name -> values in the wanted shapes.
    """
    made = copy.deepcopy(module)
    for name, values in weights.items():
        path, _, last = name.rpartition(".")
        layer = made.get_submodule(path)
        if last in layer._parameters:  # noqa: SLF001  # replaced by another shape, which torch has no call for
            setattr(layer, last, nn.Parameter(torch.from_numpy(values.copy())))
    for layer in made.modules():
        if isinstance(layer, nn.modules.conv._ConvNd):  # noqa: SLF001  # the common base of Conv1d and Conv2d
            depthwise = layer.groups > 1
            layer.out_channels = layer.weight.shape[0]
            layer.groups = layer.out_channels if depthwise else 1
            layer.in_channels = layer.weight.shape[1] * layer.groups
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001  # likewise
            layer.num_features = len(layer.weight)
            layer.running_mean, layer.running_var = (
                torch.zeros(len(layer.weight)),
                torch.ones(len(layer.weight)),
            )
        elif isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
    return made


def training_run(
    module: nn.Module,
    memory_format: str,
    learning_rate: float,
    momentum: float,
    inputs: Array,
    labels: NDArray,
) -> Callable[[], object]:
    """One training step of a plain module, as a function to time.

    Args:
        module: of the wanted width; it is trained.
        memory_format: a key of FORMATS.
        learning_rate: of `torch.optim.SGD`, here its fused form, the fastest on a CPU.
        momentum: likewise.
        inputs: float32 [N, *input_shape].
        labels: int64 [N].
    """
    module, x, y = _laid_out(module, memory_format, inputs, labels)
    optimizer = torch.optim.SGD(module.parameters(), lr=learning_rate, momentum=momentum, fused=True)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(module(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def gradients_run(
    module: nn.Module, memory_format: str, inputs: Array, labels: NDArray
) -> Callable[[], object]:
    """Forward and backward pass of a plain module, as a function to time.

    Args:
        module: of the wanted width.
        memory_format: a key of FORMATS.
        inputs: float32 [N, *input_shape].
        labels: int64 [N].
    """
    module, x, y = _laid_out(module, memory_format, inputs, labels)

    def gradients() -> float:
        module.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(module(x), y)
        loss.backward()
        return loss.item()

    return gradients


def _laid_out(
    module: nn.Module, memory_format: str, inputs: Array, labels: NDArray
) -> tuple[nn.Module, Tensor, Tensor]:
    module = _without_crash(module) if memory_format == "channels_last" else module
    module = module.to(memory_format=FORMATS[memory_format]).train()  # pyright: ignore[reportCallIssue]  # torch documents it
    x = torch.from_numpy(np.ascontiguousarray(inputs))
    if x.ndim == 4:
        x = x.to(memory_format=FORMATS[memory_format])
    return module, x, torch.from_numpy(labels)


def _without_crash(module: nn.Module) -> nn.Module:
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride != (1, 1):
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, SubsampledConv(layer))
    return module
