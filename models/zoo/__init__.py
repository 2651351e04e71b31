"""The networks that come with edgetide: by name, for any input shape and number of classes.

Each also lies here as `<name>.onnx` for its default shapes, without weights; for other shapes the ends of
that graph are changed (`models.zoo.refit`). So neither a device nor a coordinator needs torch for them.
After a change to a constructor write the files anew::

    python -m models.zoo.ship
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firmware_profiles.errors import UserError
from models.zoo.initial import initial_weights

if TYPE_CHECKING:
    from models.graph import ModelGraph
    from models.subnet import Array
    from models.table import ParetoTable

__all__ = [
    "FOLDER",
    "ZOO",
    "ZooEntry",
    "check_input_shape",
    "initial_weights",
    "load_model",
    "shipped_table",
    "zoo_entry",
]

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class ZooEntry:
    """A network of the zoo.

    Attributes:
        description: one line for people.
        input_shape: default shape of one sample.
        num_classes: default number of classes.
        least_size: smallest size of each axis of space that it takes.
        constructor: `module:function`; takes (input_shape, num_classes), makes a torch module.
    """

    description: str
    input_shape: tuple[int, ...]
    num_classes: int
    least_size: int
    constructor: str

    def make(self, input_shape: tuple[int, ...], num_classes: int) -> Any:
        """A fresh torch module; imports torch."""
        module, function = self.constructor.split(":")
        return getattr(importlib.import_module(module), function)(input_shape, num_classes)


ZOO: dict[str, ZooEntry] = {
    "cnn-28": ZooEntry(
        "3 convolutions (32, 64, 64), no normalisation; the default of the main job",
        (1, 28, 28),
        10,
        8,
        "models.zoo.cnn:cnn_28",
    ),
    "resnet-20": ZooEntry(
        "residual network for small images, batch norm, 1x1 projection shortcuts",
        (3, 32, 32),
        10,
        4,
        "models.zoo.resnet:resnet_20",
    ),
    "densenet-40": ZooEntry(
        "densely connected network (BC, growth 12, compression 2)",
        (3, 32, 32),
        10,
        4,
        "models.zoo.densenet:densenet_40",
    ),
    "vgg-8": ZooEntry(
        "5 plain convolutions with batch norm, 64 to 512 channels",
        (3, 32, 32),
        10,
        16,
        "models.zoo.vgg:vgg_8",
    ),
    "dscnn-1d": ZooEntry(
        "depthwise-separable 1-D network for audio or inertial windows",
        (1, 4000),
        10,
        16,
        "models.zoo.dscnn:dscnn_1d",
    ),
    "cnn-tiny-28": ZooEntry(
        "cnn-28 with 12, 24 and 32 channels, for simulations of many devices",
        (1, 28, 28),
        10,
        8,
        "models.zoo.tiny:cnn_tiny_28",
    ),
    "cnn-tiny-32": ZooEntry(
        "cnn-28 with 16, 24 and 48 channels, for simulations of many devices",
        (3, 32, 32),
        10,
        8,
        "models.zoo.tiny:cnn_tiny_32",
    ),
    "cnn-tiny-1d": ZooEntry(
        "3 1-D convolutions (16, 24, 32) over mel bands, for simulations of many devices",
        (32, 47),
        10,
        8,
        "models.zoo.tiny:cnn_tiny_1d",
    ),
}


def zoo_entry(name: str) -> ZooEntry:
    """The zoo's entry of this name.

    Raises:
        UserError: there is none; the nearest name is offered.
    """
    if name not in ZOO:
        nearest = difflib.get_close_matches(name, ZOO, n=1, cutoff=0.3)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise UserError(
            f"{name!r} is neither a network of the zoo nor a file; {hint}the zoo has {', '.join(ZOO)}"
        )
    return ZOO[name]


def load_model(
    name_or_path: str | Path, input_shape: tuple[int, ...] | None = None, num_classes: int | None = None
) -> tuple[ModelGraph, dict[str, Array] | None]:
    """A network of the zoo, or one in an ONNX file.

    Args:
        name_or_path: a name of the zoo, or a path that ends in `.onnx` or is a file.
        input_shape: shape of one sample of the data; None takes the network's default.
        num_classes: classes of the data; None takes the network's default.

    Returns:
        The graph; the weights and statistics a file holds, None where it holds none (start with
        `initial_weights` then).

    Raises:
        UserError: there is no such network, it cannot be read, it does not fit the data, or the package
            onnx is not installed.
    """
    try:
        from models.onnx_file import from_onnx  # noqa: PLC0415 (imports onnx, which is optional)
    except ImportError as error:
        raise UserError(
            f"networks are read with the package onnx: install edgetide[coordinator] ({error})"
        ) from error
    from models.zoo.refit import refit  # noqa: PLC0415 (only where a graph is wanted)

    text = str(name_or_path)
    if text not in ZOO and (text.endswith(".onnx") or Path(text).is_file()):
        from models.trace import slug  # noqa: PLC0415 (not needed for the zoo)

        graph, weights = from_onnx(Path(text), slug(Path(text).stem))
        if input_shape not in (None, graph.input_shape) or num_classes not in (None, graph.num_classes):
            raise UserError(
                f"{text} takes samples of {graph.input_shape} and tells {graph.num_classes} classes; data "
                f"has {input_shape or 'any shape'} and {num_classes or 'any number of'} classes. "
                "Choose another --model"
            )
        return graph, weights or None
    entry = zoo_entry(text)
    shape, classes = input_shape or entry.input_shape, num_classes or entry.num_classes
    check_input_shape(text, shape)
    return refit(from_onnx(FOLDER / f"{text}.onnx", text)[0], shape, classes), None


def shipped_table(name: str) -> ParetoTable | None:
    """The Pareto table that comes with a network of the zoo; None if none does."""
    from models.table import load_table  # noqa: PLC0415 (only where a table is wanted)

    path = FOLDER / f"{name}.yaml"
    return load_table(path) if name in ZOO and path.exists() else None


def check_input_shape(name: str, input_shape: tuple[int, ...]) -> None:
    """Refuse inputs that a network of the zoo cannot take.

    Raises:
        UserError: the rank is wrong, or the space is smaller than the network's pools need.
    """
    entry = ZOO[name]
    wanted = "channels, " + ("height, width" if len(entry.input_shape) == 3 else "length")
    if len(input_shape) != len(entry.input_shape):
        raise UserError(
            f"{name} takes samples of ({wanted}); the data has {input_shape}. Choose another --model"
        )
    if min(input_shape[1:]) < entry.least_size or input_shape[0] < 1:
        raise UserError(
            f"{name} takes samples of at least {entry.least_size} along each axis; the data has {input_shape}"
        )
