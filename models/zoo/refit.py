"""A network of the zoo for data of another shape, from the graph that ships: no torch is needed.

Only the ends of these networks depend on the data: the first convolution on the channels (and on the
length of a 1-D signal), the last linear layer on the classes and on what is left of the space.
"""

from __future__ import annotations

import msgspec

from models.graph import ModelGraph, Node, validate


def refit(graph: ModelGraph, input_shape: tuple[int, ...], num_classes: int) -> ModelGraph:
    """The network that its constructor makes for this shape and these classes.

    Args:
        graph: begins with the network's only convolution of its input and ends with a Gemm.
        input_shape: channels and space of one sample; checked by the caller.
        num_classes: class scores that come out.

    Raises:
        UserError: the space is too small for the network's windows.
    """
    first, last = graph.nodes[0], graph.nodes[-1]
    parameters = dict(graph.parameters)
    num_made, _, *kernel = parameters[first.inputs[1]]
    if len(input_shape) == 2:
        stride, size = first_window(input_shape[1])
        first, kernel = _with_window(first, stride, size), [size]
    parameters[first.inputs[1]] = (num_made, input_shape[0], *kernel)
    body = msgspec.structs.replace(
        graph,
        input_shape=input_shape,
        nodes=(first, *graph.nodes[1:-1]),
        output_name=last.inputs[0],
        parameters={name: shape for name, shape in parameters.items() if name not in last.inputs},
        shapes={},
    )
    (num_features,) = validate(body).shapes[last.inputs[0]]
    parameters[last.inputs[1]] = (num_classes, num_features)
    parameters[last.inputs[2]] = (num_classes,)
    return validate(
        msgspec.structs.replace(
            body, nodes=(*body.nodes, last), output_name=graph.output_name, parameters=parameters
        )
    )


def first_window(length: int) -> tuple[int, int]:
    """(stride, kernel) of a 1-D network's first convolution: about 250 steps of time remain."""
    stride = max(1, length // 250)
    return stride, 2 * stride + 3 | 1  # odd, and wide enough that windows overlap


def _with_window(convolution: Node, stride: int, kernel: int) -> Node:
    window = {"kernel_shape": (kernel,), "strides": (stride,), "pads": (kernel // 2, kernel // 2)}
    return msgspec.structs.replace(convolution, attributes={**convolution.attributes, **window})
