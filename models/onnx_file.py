"""ONNX files of networks in and out (training graphs are made in `models.gradients.build`).

In: any opset from 7 to 22, weights as initializers or as inputs, canonicalised to a ModelGraph.
Out: plain inference ONNX, opset 17, IR version 8, so that Python 3.10's onnxruntime 1.23 loads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, helper, numpy_helper

from firmware_profiles.errors import UserError
from models import onnx_operators
from models.canonical import Canonical, FileNode, Parameter, Value
from models.folding import BATCH_MARK
from models.graph import ModelGraph, Node, validate
from models.rewrites import rewrite
from models.subnet import Array

OPSET = 17
IR_VERSION = 8
MAX_FILE_BYTES = 1 << 30
_METADATA_KEY = "edgetide"
# What a file may say; anything else is refused before an operator reads it.
_ATTRIBUTE_KINDS: dict[type | tuple[type, ...], tuple[str, ...]] = {
    tuple: ("kernel_shape", "strides", "dilations", "pads", "axes", "perm", "shape", "starts", "ends"),
    int: ("group", "axis", "ceil_mode", "count_include_pad", "keepdims", "transA", "transB", "allowzero"),
    (int, float): ("alpha", "beta", "epsilon", "min", "max"),
    str: ("auto_pad", "mode"),
}
_KIND_OF = {name: kind for kind, names in _ATTRIBUTE_KINDS.items() for name in names}
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}


def from_onnx(
    source: Path | str | bytes, name: str, trained: Iterable[str] | None = None
) -> tuple[ModelGraph, dict[str, Array]]:
    """Read an ONNX file as a ModelGraph, in its canonical form.

    Identity and Dropout go, constants are folded, Linear layers become Gemm with weight [out, in],
    batch-norm moments become statistics, reshapes that flatten become Flatten.

    Args:
        source: a path, or the file's bytes.
        name: of the model, `[a-z0-9-]{1,64}`.
        trained: names of the weights that are trained; None takes what the file says, else all that
            are not single numbers.

    Returns:
        The validated graph, and the float32 weights and statistics the file holds: all of them, or
        {} if weights are inputs of the file.

    Raises:
        UserError: the file cannot be read, keeps tensors in other files, or has an operator outside
            the set; names the operator, its place, and what to use instead.
    """
    model = _parse(source)
    where = "the ONNX model" if isinstance(source, bytes) else str(source)
    arrays = _initializers(model, where)
    input_name, input_shape, batch_size, weight_shapes = _inputs(model, arrays, where)
    shapes = {**weight_shapes, **{key: array.shape for key, array in arrays.items()}}
    graph = Canonical(_frozen(model, arrays, trained), batch_size)
    graph.known[input_name] = Value("input", input_shape)
    for key, shape in shapes.items():
        array = arrays.get(key)
        is_number = array is not None and (
            array.dtype != np.float32 or (array.ndim == 0 and key in graph.frozen)
        )
        graph.known[key] = array if is_number else Parameter(key, shape)
    for node in model.graph.node:
        onnx_operators.add(graph, _file_node(node))
    if len(model.graph.output) != 1:
        raise UserError(f"{where} has {len(model.graph.output)} outputs; give out the class scores only")
    output = graph.known.get(model.graph.output[0].name)
    if not isinstance(output, Value):
        raise UserError(f"{where}: its output {model.graph.output[0].name!r} does not depend on its input")
    return _finish(graph, name, input_shape, output.name, arrays)


def to_onnx(graph: ModelGraph, weights: Mapping[str, Array] | None = None) -> onnx.ModelProto:
    """A graph as plain ONNX for inference: dynamic batch, batch norm with the given statistics.

    Args:
        graph: a valid graph.
        weights: parameters and statistics, at full width or of one sub-network (`subnet.cut`); their
            shapes decide the size. None makes them inputs of the model, full width.

    Raises:
        UserError: weights are missing, or batch-norm statistics are.
    """
    tensors = {**graph.parameters, **graph.statistics}
    if weights is not None:
        _check_weights(graph, weights)
        tensors = {key: np.shape(weights[key]) for key in tensors}
    nodes = [_constant_node(key, item.shape, item.values) for key, item in graph.constants.items()]
    for node in graph.nodes:
        nodes += _onnx_nodes(graph, node, tensors)
    inputs = [
        helper.make_tensor_value_info(graph.input_name, TensorProto.FLOAT, ["batch", *graph.input_shape])
    ]
    if weights is None:
        inputs += [
            helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in tensors.items()
        ]
    else:
        weights = {key: np.ascontiguousarray(weights[key], np.float32) for key in tensors}
    output = helper.make_tensor_value_info(graph.output_name, TensorProto.FLOAT, ["batch", graph.num_classes])
    stored = (
        [] if weights is None else [numpy_helper.from_array(array, key) for key, array in weights.items()]
    )
    made = helper.make_graph(nodes, graph.name, inputs, [output], stored)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="edgetide")
    model.ir_version = IR_VERSION
    helper.set_model_props(model, {_METADATA_KEY: json.dumps({"parameters": list(graph.parameters)})})
    return model


def replace_tensors(data: bytes, arrays: Mapping[str, Array]) -> bytes:
    """An ONNX file with other values for some of its initializers."""
    model = onnx.load_model_from_string(data)
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(arrays[tensor.name], np.float32), tensor.name))
    return model.SerializeToString()


def _parse(source: Path | str | bytes) -> onnx.ModelProto:
    if isinstance(source, bytes):
        data, where = source, "the ONNX model"
    else:
        where = str(source)
        try:
            if Path(source).stat().st_size > MAX_FILE_BYTES:
                raise UserError(f"{where} is over {MAX_FILE_BYTES >> 20} MiB; an edge model is smaller")
            data = Path(source).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {where}: {error.strerror or error}") from None
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError, TypeError) as error:
        raise UserError(f"{where} is not an ONNX file: {error}") from None
    _check_text(model, where)
    if not model.graph.node:
        raise UserError(f"{where} is not an ONNX file with a network in it")
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if not 7 <= opset <= 22:
        raise UserError(f"{where} has opset {opset}; 7 to 22 are read. Export it with opset_version={OPSET}")
    return model


def _check_text(message: Message, where: str) -> None:
    """Every string is one: protobuf hands out bytes where the file's are not UTF-8."""
    for field, value in message.ListFields():
        for item in value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else (value,):
            if isinstance(item, Message):
                _check_text(item, where)
            elif field.type == field.TYPE_STRING and not isinstance(item, str):
                raise UserError(f"{where} is not an ONNX file: its {field.name} {item[:40]!r} is not text")


def _initializers(model: onnx.ModelProto, where: str) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for tensor in model.graph.initializer:
        array = _array(tensor, where)
        arrays[tensor.name] = array.astype(np.float32) if tensor.data_type in _FLOATS else array
        if tensor.data_type in _FLOATS and not np.isfinite(arrays[tensor.name]).all():
            raise UserError(f"{where}: the weight {tensor.name!r} holds NaN or infinity")
    if model.graph.sparse_initializer:
        raise UserError(f"{where} has sparse weights; export it with dense ones")
    return arrays


def _array(tensor: onnx.TensorProto, where: str) -> np.ndarray:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise UserError(
            f"{where} keeps the tensor {tensor.name!r} in another file; save the model as one file "
            "(onnx.save with save_as_external_data=False)"
        )
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(f"{where}: the tensor {tensor.name!r} is malformed: {error}") from None


def _inputs(
    model: onnx.ModelProto, arrays: Mapping[str, Any], where: str
) -> tuple[str, tuple[int, ...], int, dict[str, tuple[int, ...]]]:
    """The data input (the first that is no weight), its sample shape and batch; weights among the inputs."""
    given = [(item.name, _dims(item)) for item in model.graph.input if item.name not in arrays]
    if not given:
        raise UserError(f"{where} has no input")
    (name, dims), *rest = given
    if dims is None or len(dims) < 2 or None in dims[1:]:
        raise UserError(
            f"{where}: its input {name!r} must have the shape [batch, ...] with all but the batch fixed"
        )
    weights = {}
    for key, shape in rest:
        if not shape or None in shape:
            raise UserError(
                f"{where} has a second input {key!r}; a network takes one (weights need fixed shapes)"
            )
        weights[key] = tuple(size for size in shape if size is not None)
    return name, tuple(size or 0 for size in dims[1:]), dims[0] or BATCH_MARK, weights


def _dims(item: onnx.ValueInfoProto) -> list[int | None] | None:
    kind = item.type.tensor_type
    if kind.elem_type not in _FLOATS or not kind.HasField("shape"):
        return None
    return [dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim]


def _frozen(
    model: onnx.ModelProto, arrays: Mapping[str, np.ndarray], trained: Iterable[str] | None
) -> dict[str, np.ndarray]:
    if trained is None:
        for entry in model.metadata_props:
            if entry.key == _METADATA_KEY:
                trained = _stated_parameters(entry.value)
    floats = {key: array for key, array in arrays.items() if array.dtype == np.float32}
    if trained is not None:
        names = set(trained)
        return {key: array for key, array in floats.items() if key not in names}
    layers = [
        node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul", "BatchNormalization")
    ]
    weights = {key for node in layers for key in node.input}
    return {key: array for key, array in floats.items() if array.size == 1 and key not in weights}


def _stated_parameters(text: str) -> set[str] | None:
    try:
        return {str(key) for key in json.loads(text)["parameters"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _file_node(node: onnx.NodeProto) -> FileNode:
    place = _place(node)
    op = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    attributes: dict[str, Any] = {}
    for item in node.attribute:
        if item.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            continue
        value: Any = helper.get_attribute_value(item)
        if isinstance(value, TensorProto):
            value = _array(value, place or op)
        elif isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif not isinstance(value, int | float):
            value = tuple(value) if isinstance(value, Iterable) else None
        if not _is_kind(value, _KIND_OF.get(item.name, object)):
            raise UserError(
                f"{op} at {place or 'an unknown place'}: its attribute {item.name!r} is malformed"
            )
        attributes[item.name] = value
    return FileNode(op, tuple(node.input), tuple(node.output), attributes, place)


def _is_kind(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and (kind is not tuple or all(type(part) is int for part in value))


def _place(node: onnx.NodeProto) -> str:
    """The module path (from the exporter's node name) and the user's line (from its recorded stack)."""
    if node.doc_string.startswith("place: "):
        return re.sub(r"[\x00-\x1f\x7f]", " ", node.doc_string[7:300])
    path = ".".join(part for part in node.name.split("/")[:-1] if part)
    lines = [line for line in node.doc_string.split("\n") if re.search(r"\(\d+\): ", line)]
    own = next((line for line in lines if not re.search(r"[/\\](torch|models[/\\]trace\.py)\b", line)), "")
    found = re.match(r"(.*)\((\d+)\): ", own)
    line = f"{Path(found[1]).name}:{found[2]}" if found else ""
    place = f"{path} ({line})" if path and line else path or line or node.name
    return re.sub(r"[\x00-\x1f\x7f]", " ", place[:300])


def _finish(
    graph: Canonical, name: str, input_shape: tuple[int, ...], output: str, arrays: Mapping[str, np.ndarray]
) -> tuple[ModelGraph, dict[str, Array]]:
    """Drop what the output does not need, give canonical names, collect the weights."""
    nodes = rewrite(graph.nodes, graph.constants, output)
    names = {node.output: f"{node.op.lower()}_{place}" for place, node in enumerate(nodes)}
    names[output] = "logits"
    tensors = {key: re.sub(r"[^A-Za-z0-9_.]", "_", key) for key in graph.stored}
    if len(set(tensors.values()) | set(graph.statistics)) < len(tensors) + len(graph.statistics):
        raise UserError(
            "names of weights become equal when signs other than letters, digits, _ and . are replaced"
        )
    used = {key for node in nodes for key in node.inputs}
    constants = {
        key: f"constant_{place}" for place, key in enumerate(key for key in graph.constants if key in used)
    }
    names |= {**tensors, **constants}
    renamed = tuple(
        Node(
            node.op,
            tuple(names.get(key, key) for key in node.inputs),
            names[node.output],
            node.attributes,
            node.place,
        )
        for node in nodes
    )
    made = ModelGraph(
        name=name,
        input_name="input",
        input_shape=input_shape,
        output_name="logits",
        nodes=renamed,
        parameters={tensors[key]: shape for key, (shape, _) in graph.stored.items() if key in used},
        statistics={key: shape for key, (_, shape) in graph.statistics.items() if key in used},
        constants={constants[key]: constant for key, constant in graph.constants.items() if key in used},
        shapes={},
    )
    weights: dict[str, Array] = {}
    for key, (shape, is_transposed) in graph.stored.items():
        if key in arrays and key in used:
            array = arrays[key].T if is_transposed else arrays[key]
            weights[tensors[key]] = np.array(array.reshape(shape), np.float32, order="C")
    for key, (source, shape) in graph.statistics.items():
        if source in arrays and key in used:
            weights[key] = np.array(arrays[source].reshape(shape), np.float32, order="C")
    return validate(made), weights


def _check_weights(graph: ModelGraph, weights: Mapping[str, Array]) -> None:
    missing = [key for key in graph.parameters if key not in weights]
    if missing:
        raise UserError(
            f"weights of {graph.name} lack {', '.join(missing[:3])}; give all {len(graph.parameters)}"
        )
    missing = [key for key in graph.statistics if key not in weights]
    if missing:
        raise UserError(
            f"weights of {graph.name} lack batch-norm statistics {', '.join(missing[:3])}; calibrate first"
        )


def _constant_node(name: str, shape: tuple[int, ...], values: Iterable[float]) -> onnx.NodeProto:
    array = np.array(tuple(values), np.float32).reshape(shape)
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))


def _onnx_nodes(
    graph: ModelGraph, node: Node, tensors: Mapping[str, tuple[int, ...]]
) -> list[onnx.NodeProto]:
    attributes: dict[str, Any] = dict(node.attributes)
    inputs = list(node.inputs)
    before: list[onnx.NodeProto] = []

    def constant(suffix: str, array: np.ndarray) -> None:
        inputs.append(f"{node.output}.{suffix}")
        before.append(helper.make_node("Constant", [], [inputs[-1]], value=numpy_helper.from_array(array)))

    if node.op == "Conv":
        weight = tensors[node.inputs[1]]
        per_group = graph.parameters[node.inputs[1]][0] // int(attributes["group"])
        if weight[1] == 1 and attributes["group"] > 1:
            attributes["group"] = weight[0] // per_group  # depthwise follows the channels that are kept
    elif node.op == "Gemm":
        attributes["transB"] = 1
    elif node.op == "Clip":
        for key in ("min", "max"):
            constant(key, np.array(attributes.pop(key), np.float32))
    elif node.op == "Reshape":
        constant("shape", np.array(attributes.pop("shape"), np.int64))
    elif node.op == "ReduceSum":
        constant("axes", np.array(attributes.pop("axes"), np.int64))
    doc = f"place: {node.place}" if node.place else ""
    return [*before, helper.make_node(node.op, inputs, [node.output], doc_string=doc, **attributes)]
