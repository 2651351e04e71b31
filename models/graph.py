"""ModelGraph: a network as validated plain data, a closed subset of ONNX (opset 17 semantics).

Nothing here runs code of a user's: engines interpret the nodes by an operator table. A device gets
this structure as MessagePack; only the coordinator and the command line read ONNX files
(`models/onnx_file.py`). What each operator accepts, and the shape it makes, is in
`models/operators.py`; `validate` recomputes every shape, so that `ModelGraph.shapes` cannot lie.

In a sub-network the weights' shapes decide every size. The nodes name no channel count but one:
`group` of a depthwise Conv, which follows the channels that are kept. An engine uses
`channels of x // weight.shape[1]` groups, which is `group` itself at full width.
"""

from __future__ import annotations

import hashlib
import math
import re

import msgspec

from firmware_profiles.errors import PeerError, UserError
from models import operators
from models.operators import Operand

Attribute = int | float | str | tuple[int, ...]

OPERATORS: dict[str, tuple[str, ...]] = {
    # operator -> its canonical attributes, all of them always present after import
    # Conv: x, weight [out, in / group, *kernel][, bias]; 1-D or 2-D; pads as ONNX: begins, then ends
    "Conv": ("kernel_shape", "strides", "pads", "dilations", "group"),
    "Gemm": (),  # y = x @ weight.T [+ bias]; x is [N, in], weight is [out, in]
    "MatMul": (),  # x @ parameter [in, out], or of two activations of equal rank
    "Add": (),  # Add to Div: at least one activation; others broadcast as in NumPy, the batch axis excepted
    "Sub": (),
    "Mul": (),
    "Div": (),
    "Relu": (),
    "LeakyRelu": ("alpha",),
    "Clip": ("min", "max"),
    "Sigmoid": (),
    "Tanh": (),
    "HardSwish": (),
    # pools: ceil_mode is 1 only where the last window begins inside the input (AveragePool: always 0)
    "MaxPool": ("kernel_shape", "strides", "pads", "ceil_mode"),
    "AveragePool": ("kernel_shape", "strides", "pads", "ceil_mode", "count_include_pad"),
    "GlobalAveragePool": (),
    "BatchNormalization": ("epsilon",),  # x, scale, bias, mean, var (the last two are statistics)
    "ReduceMean": ("axes", "keepdims"),  # axes: a tuple, positive, the batch axis counted (and never reduced)
    "ReduceSum": ("axes", "keepdims"),
    # Reshape: 0 copies a dimension, -1 infers one; shape[0] is 0; shape[1] is 0 where channels stay
    "Reshape": ("shape",),
    "Flatten": (),  # axis 1: [N, C, ...] -> [N, C * ...], whatever the widths
    "Transpose": ("perm",),  # perm[0] == 0
    "Concat": ("axis",),  # axis >= 1, the batch axis counted
    "Softmax": ("axis",),  # as above
}


class Constant(msgspec.Struct, frozen=True):
    """A float32 constant of the graph.

    Attributes:
        shape: its dimensions; () for a scalar.
        values: row-major values.
    """

    shape: tuple[int, ...]
    values: tuple[float, ...]


class Node(msgspec.Struct, frozen=True):
    """One operator application.

    Attributes:
        op: a key of OPERATORS.
        inputs: names of values, parameters, statistics or constants, in ONNX order.
        output: the name of the one value it makes.
        attributes: exactly the canonical attributes of the operator.
        place: where it stands in the user's code or module tree, for error messages; "" if unknown.
    """

    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Attribute]
    place: str = ""


class ModelGraph(msgspec.Struct, frozen=True):
    """A network: structure only, no weights.

    Attributes:
        name: `[a-z0-9-]{1,64}`.
        input_name: the one input value.
        input_shape: shape of one sample, the batch axis left out, such as (1, 28, 28).
        output_name: the logits, [N, classes].
        nodes: in topological order.
        parameters: trained tensors, name -> full shape.
        statistics: batch-norm moments, name -> full shape; `<scale's prefix>.mean` and `.var`.
        constants: name -> constant.
        shapes: every value's shape of one sample at full width, the batch axis left out.
    """

    name: str
    input_name: str
    input_shape: tuple[int, ...]
    output_name: str
    nodes: tuple[Node, ...]
    parameters: dict[str, tuple[int, ...]]
    statistics: dict[str, tuple[int, ...]]
    constants: dict[str, Constant]
    shapes: dict[str, tuple[int, ...]]

    @property
    def num_classes(self) -> int:
        """Number of class outputs."""
        return self.shapes[self.output_name][-1]


MAX_ENCODED_BYTES = 4 * 2**20
MAX_NODES = 8192
MAX_CONSTANT_VALUES = 65536

_GRAPH_NAME = re.compile(r"[a-z0-9-]{1,64}")
_TENSOR_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:-]{0,199}")
_PLACE = re.compile(r"[^\x00-\x1f\x7f]{0,300}")


def validate(graph: ModelGraph) -> ModelGraph:
    """Check everything an engine relies on, and recompute the shapes.

    Args:
        graph: a graph from anywhere; `shapes` may be empty, then it is filled in.

    Returns:
        The graph with its dicts in order of first use, so that equal graphs have equal order.

    Raises:
        UserError: names the node, its operator and its place, and what is wrong.
    """
    _check_names(graph)
    operands = _sources(graph)
    used: list[str] = []
    for index, node in enumerate(graph.nodes):
        try:
            inputs = [_operand(name, operands) for name in node.inputs]
            _check_operator(node)
            shape = operators.output_shape(node.op, inputs, node.attributes)
            _check_name(node.output, operands)
        except operators.OperatorError as error:
            raise UserError(_at(graph, index, node, str(error))) from None
        operands[node.output] = Operand("value", shape)
        used += node.inputs
    _check_uses(graph, operands, used)
    shapes = {name: operand.shape for name, operand in operands.items() if operand.kind == "value"}
    if graph.shapes and graph.shapes != shapes:
        raise UserError(f"model {graph.name}: the shapes it states are not those its nodes make")
    order = dict.fromkeys(used)
    return msgspec.structs.replace(
        graph,
        parameters={name: graph.parameters[name] for name in order if name in graph.parameters},
        statistics={name: graph.statistics[name] for name in order if name in graph.statistics},
        constants={name: graph.constants[name] for name in order if name in graph.constants},
        shapes=shapes,
    )


def encode(graph: ModelGraph) -> bytes:
    """A graph as MessagePack."""
    return msgspec.msgpack.encode(graph)


def decode(data: bytes) -> ModelGraph:
    """The graph in MessagePack bytes of a peer, validated.

    Raises:
        PeerError: the bytes are too many, are no graph, or the graph is not valid.
    """
    if len(data) > MAX_ENCODED_BYTES:
        raise PeerError(f"a model graph of {len(data)} bytes was sent; at most {MAX_ENCODED_BYTES} are read")
    try:
        return validate(msgspec.msgpack.decode(data, type=ModelGraph))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"{len(data)} bytes are not a model graph: {error}") from None
    except UserError as error:
        raise PeerError(f"a model graph was sent that is not valid: {error}") from None


def digest(graph: ModelGraph) -> str:
    """SHA-256 of a valid graph's canonical encoding, in hex; names and structure count, places don't."""
    nodes = tuple(msgspec.structs.replace(node, place="") for node in graph.nodes)
    plain = msgspec.structs.replace(graph, nodes=nodes)
    return hashlib.sha256(msgspec.msgpack.encode(plain, order="sorted")).hexdigest()


def _at(graph: ModelGraph, index: int, node: Node, problem: str) -> str:
    place = f" at {node.place}" if node.place else ""
    return f"model {graph.name}, node {index} ({node.op}, makes {node.output}){place}: {problem}"


def _check_names(graph: ModelGraph) -> None:
    if not _GRAPH_NAME.fullmatch(graph.name):
        raise UserError(f"model name {graph.name[:80]!r}: use 1 to 64 of a-z, 0-9 and -")
    if not 1 <= len(graph.nodes) <= MAX_NODES:
        raise UserError(
            f"model {graph.name}: {len(graph.nodes)} nodes; between 1 and {MAX_NODES} are supported"
        )
    for node in graph.nodes:
        if not _PLACE.fullmatch(node.place):
            raise UserError(f"model {graph.name}: the place of a node is over 300 characters or unprintable")


def _sources(graph: ModelGraph) -> dict[str, Operand]:
    """What nodes may read before any of them has run."""
    operands: dict[str, Operand] = {}
    given = [
        ("value", graph.input_name, graph.input_shape),
        *(("parameter", name, shape) for name, shape in graph.parameters.items()),
        *(("statistic", name, shape) for name, shape in graph.statistics.items()),
        *(("constant", name, constant.shape) for name, constant in graph.constants.items()),
    ]
    try:
        for kind, name, shape in given:
            _check_name(name, operands)
            operators.check_shape(shape, 0 if kind == "constant" else 1)
            operands[name] = Operand(kind, shape)
        _check_constants(graph)
    except operators.OperatorError as error:
        raise UserError(f"model {graph.name}: {error}") from None
    return operands


def _check_name(name: str, taken: dict[str, Operand]) -> None:
    if not _TENSOR_NAME.fullmatch(name):
        raise operators.OperatorError(
            f"the name {name[:80]!r} has characters other than A-Z a-z 0-9 _ . / : -"
        )
    if name in taken:
        raise operators.OperatorError(f"the name {name} is given twice")


def _check_constants(graph: ModelGraph) -> None:
    num_values = 0
    for name, constant in graph.constants.items():
        num_values += len(constant.values)
        if math.prod(constant.shape) != len(constant.values):
            raise operators.OperatorError(
                f"constant {name} has {len(constant.values)} values for the shape {list(constant.shape)}"
            )
        if not all(abs(value) <= operators.MAX_FLOAT32 for value in constant.values):
            raise operators.OperatorError(f"constant {name} holds a value that is not a finite float32")
    if num_values > MAX_CONSTANT_VALUES:
        raise operators.OperatorError(
            f"{num_values} values of constants; at most {MAX_CONSTANT_VALUES} are read"
        )


def _operand(name: str, operands: dict[str, Operand]) -> Operand:
    if name not in operands:
        raise operators.OperatorError(f"its input {name[:80]!r} is made by no node before it")
    return operands[name]


def _check_operator(node: Node) -> None:
    if node.op not in OPERATORS:
        raise operators.OperatorError(operators.unsupported(node.op))
    expected = set(OPERATORS[node.op])
    if set(node.attributes) != expected:
        wrong = ", ".join(sorted(expected.symmetric_difference(node.attributes)))[:200]
        raise operators.OperatorError(f"its attributes must be exactly {sorted(expected)}; look at: {wrong}")


def _check_uses(graph: ModelGraph, operands: dict[str, Operand], used: list[str]) -> None:
    """Everything is used, so that every parameter has a gradient; a moment belongs to one node."""
    output = operands.get(graph.output_name)
    if output is None or output.kind != "value" or len(output.shape) != 1:
        raise UserError(
            f"model {graph.name}: the output {graph.output_name[:80]} must be class scores [batch, classes]"
            + (f", it is [batch, {', '.join(map(str, output.shape))}]" if output else ", no node makes it")
        )
    idle = set(operands) - set(used) - {graph.output_name}
    if idle:
        raise UserError(f"model {graph.name}: nothing uses {', '.join(sorted(idle)[:5])}; leave it out")
    for name in graph.statistics:
        if used.count(name) > 1:
            raise UserError(f"model {graph.name}: the statistic {name} belongs to more than one node")
