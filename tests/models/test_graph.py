"""ModelGraph as data: what is valid, what travels, what is refused."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_profiles.errors import PeerError, UserError
from models.graph import ModelGraph, Node, decode, digest, encode, validate
from models.zoo import ZOO, load_model

CONV = {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1}


def small(**changes):
    """conv 1 -> 2 on 5x5, relu, flatten, gemm to 3 classes."""
    fields = {
        "name": "small",
        "input_name": "input",
        "input_shape": (1, 5, 5),
        "output_name": "logits",
        "nodes": (
            Node("Conv", ("input", "c.weight"), "conv_0", CONV, "stem (net.py:7)"),
            Node("Relu", ("conv_0",), "relu_1", {}),
            Node("Flatten", ("relu_1",), "flatten_2", {}),
            Node("Gemm", ("flatten_2", "f.weight", "f.bias"), "logits", {}),
        ),
        "parameters": {"c.weight": (2, 1, 3, 3), "f.weight": (3, 18), "f.bias": (3,)},
        "statistics": {},
        "constants": {},
        "shapes": {},
    }
    return ModelGraph(**{**fields, **changes})


def with_node(place, node):
    nodes = list(small().nodes)
    nodes[place] = node
    return small(nodes=tuple(nodes))


def test_shapes_are_worked_out_from_the_nodes():
    assert validate(small()).shapes == {
        "input": (1, 5, 5),
        "conv_0": (2, 3, 3),
        "relu_1": (2, 3, 3),
        "flatten_2": (18,),
        "logits": (3,),
    }


def test_shapes_that_lie_are_refused():
    shapes = {**validate(small()).shapes, "conv_0": (2, 1, 1)}
    with pytest.raises(UserError, match="shapes"):
        validate(small(shapes=shapes))


def test_an_error_names_the_node_its_operator_and_its_place():
    with pytest.raises(UserError, match=r"node 0 \(Conv, .*at stem \(net.py:7\).*does not fit"):
        validate(small(parameters={**small().parameters, "c.weight": (2, 4, 3, 3)}))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (small(name="Small!"), "use 1 to 64"),
        (small(nodes=()), "0 nodes"),
        (with_node(1, Node("Gelu", ("conv_0",), "relu_1", {})), "Gelu is not supported"),
        (with_node(1, Node("Relu", ("nowhere",), "relu_1", {})), "made by no node"),
        (with_node(1, Node("Relu", ("conv_0",), "input", {})), "given twice"),
        (with_node(1, Node("Relu", ("conv_0",), "relu_1", {"alpha": 1.0})), "alpha"),
        (with_node(1, Node("LeakyRelu", ("conv_0",), "relu_1", {"alpha": float("nan")})), "finite"),
        (
            with_node(0, Node("Conv", ("input", "c.weight"), "conv_0", {**CONV, "strides": (0, 1)})),
            "positive",
        ),
        (with_node(0, Node("Conv", ("input", "c.weight"), "conv_0", {**CONV, "pads": (0, 0)})), "fit"),
        (with_node(0, Node("Conv", ("input", "input"), "conv_0", CONV)), "must be a parameter"),
        (small(parameters={**small().parameters, "idle": (2,)}), "nothing uses idle"),
        (small(output_name="relu_1"), "class scores"),
        (small(input_shape=(1, 2, 2)), "window is larger"),
        (small(input_shape=(1, 0, 5)), "empty"),
        (small(input_shape=(1, 2**23, 2**23)), "too large"),
    ],
)
def test_an_invalid_graph_is_refused_with_the_reason(graph, message):
    with pytest.raises(UserError, match=message):
        validate(graph)


@pytest.mark.parametrize("name", ZOO)
def test_a_graph_survives_its_journey(name):
    graph = load_model(name)[0]
    assert decode(encode(graph)) == graph


def test_the_digest_ignores_places_and_the_order_of_dicts():
    graph = validate(small())
    moved = with_node(0, msgspec.structs.replace(small().nodes[0], place="elsewhere"))
    turned = small(parameters=dict(reversed(small().parameters.items())))
    assert digest(validate(moved)) == digest(validate(turned)) == digest(graph)


def test_the_digest_tells_structures_apart():
    other = with_node(1, Node("Sigmoid", ("conv_0",), "relu_1", {}))
    assert digest(validate(other)) != digest(validate(small()))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", b"\x93\x01\x02\x03", b"\x00" * 5_000_000])
def test_bytes_that_are_no_graph_are_the_peers_fault(data):
    with pytest.raises(PeerError):
        decode(data)


def test_an_invalid_graph_in_bytes_is_the_peers_fault():
    with pytest.raises(PeerError, match="nothing uses"):
        decode(encode(small(parameters={**small().parameters, "idle": (2,)})))


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_mutated_bytes_give_a_valid_graph_or_the_peers_fault(data):
    good = bytearray(encode(validate(small())))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    try:
        graph = decode(bytes(good[:cut] if data.draw(st.booleans()) else good))
    except PeerError:
        return
    assert validate(graph) == graph


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(field=st.sampled_from(ModelGraph.__struct_fields__), value=values)
def test_a_field_of_any_content_gives_a_valid_graph_or_the_peers_fault(field, value):
    plain = msgspec.to_builtins(validate(small()))
    try:
        graph = decode(msgspec.msgpack.encode({**plain, field: value}))
    except PeerError:
        return
    assert validate(graph) == graph


@settings(deadline=None, max_examples=200)
@given(
    place=st.integers(0, 3),
    key=st.sampled_from(["op", "inputs", "output", "attributes", "place"]),
    value=values,
)
def test_a_node_of_any_content_gives_a_valid_graph_or_the_peers_fault(place, key, value):
    plain = msgspec.to_builtins(validate(small()))
    nodes = [dict(node) for node in plain["nodes"]]
    nodes[place][key] = value
    try:
        graph = decode(msgspec.msgpack.encode({**plain, "nodes": nodes}))
    except PeerError:
        return
    assert validate(graph) == graph
