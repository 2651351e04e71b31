"""ONNX files in and out."""

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from firmware_profiles.errors import UserError
from models.graph import digest, validate
from models.onnx_file import from_onnx, to_onnx
from models.zoo import ZOO, initial_weights, load_model

RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


def model(nodes, weights, shape=("n", 2, 6, 6), opset=17, *, as_inputs=False, output="y"):
    """An ONNX file: nodes as (op, inputs, outputs, attributes), weights as arrays."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    if as_inputs:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    made = helper.make_graph(
        [
            helper.make_node(op, ins, outs, name=f"/part/{op}", **attributes)
            for op, ins, outs, attributes in nodes
        ],
        "g",
        inputs,
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [] if as_inputs else tensors,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(proto, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def ops(graph):
    return [node.op for node in graph.nodes]


def read(proto):
    return from_onnx(proto.SerializeToString(), "net")


def check_same(proto, x=None):
    """What we read and write computes what the file computes; returns the graph."""
    graph, weights = read(proto)
    x = random(3, *graph.input_shape) if x is None else x
    np.testing.assert_allclose(run(to_onnx(graph, weights), x), run(proto, x), rtol=1e-5, atol=1e-5)
    return graph


HEAD = ("Gemm", ["v", "f"], ["y"], {"transB": 1})


def test_a_gemm_with_weights_in_any_layout_has_weight_out_in():
    for trans, weight in ((0, random(72, 3)), (1, random(3, 72))):
        proto = model(
            [("Flatten", ["x"], ["v"], {}), ("Gemm", ["v", "f", "b"], ["y"], {"transB": trans})],
            {"f": weight, "b": random(3)},
        )
        assert check_same(proto).parameters == {"f": (3, 72), "b": (3,)}


@pytest.mark.parametrize("bias_first", [True, False])
def test_a_product_plus_bias_becomes_gemm(bias_first):
    sum_inputs = ["b", "m"] if bias_first else ["m", "b"]
    proto = model(
        [
            ("Flatten", ["x"], ["v"], {}),
            ("Transpose", ["f"], ["ft"], {"perm": [1, 0]}),
            ("MatMul", ["v", "ft"], ["m"], {}),
            ("Add", sum_inputs, ["y"], {}),
        ],
        {"f": random(3, 72), "b": random(3)},
    )
    assert ops(check_same(proto)) == ["Flatten", "Gemm"]


@pytest.mark.parametrize(
    ("nodes", "extra"),
    [
        ([("Reshape", ["x", "s"], ["v"], {})], {"s": ints(-1, 72)}),
        ([("Reshape", ["x", "s"], ["v"], {})], {"s": ints(0, -1)}),
        (
            [
                ("Shape", ["x"], ["a"], {}),
                ("Gather", ["a", "zero"], ["b"], {"axis": 0}),
                ("Unsqueeze", ["b", "axis"], ["c"], {}),
                ("Concat", ["c", "rest"], ["s"], {"axis": 0}),
                ("Reshape", ["x", "s"], ["v"], {}),
            ],
            {"zero": np.array(0, np.int64), "axis": ints(0), "rest": ints(-1)},
        ),
        ([("Flatten", ["x"], ["v"], {"axis": -3})], {}),
    ],
)
def test_reshapes_that_flatten_become_flatten(nodes, extra):
    proto = model([*nodes, HEAD], {"f": random(3, 72), **extra})
    assert ops(check_same(proto)) == ["Flatten", "Gemm"]


def test_a_file_for_one_batch_size_becomes_free_of_it():
    proto = model(
        [("Reshape", ["x", "s"], ["v"], {}), HEAD], {"f": random(3, 72), "s": ints(4, 72)}, shape=(4, 2, 6, 6)
    )
    graph, weights = read(proto)
    assert run(to_onnx(graph, weights), random(7, 2, 6, 6)).shape == (7, 3)


@pytest.mark.parametrize("shape", [(1, -1), (-1, 36), (2, -1)])
def test_a_reshape_that_mixes_samples_is_refused(shape):
    proto = model([("Reshape", ["x", "s"], ["v"], {}), HEAD], {"f": random(3, 72), "s": ints(*shape)})
    with pytest.raises(UserError, match="mix"):
        read(proto)


@pytest.mark.parametrize(
    "nodes",
    [
        [("HardSigmoid", ["x"], ["g"], {"alpha": 1 / 6}), ("Mul", ["x", "g"], ["h"], {})],
        [
            ("Add", ["x", "three"], ["a"], {}),
            ("Clip", ["a", "low", "six"], ["c"], {}),
            ("Mul", ["c", "x"], ["m"], {}),
            ("Div", ["m", "six"], ["h"], {}),
        ],
        [
            ("Add", ["x", "three"], ["a"], {}),
            ("Clip", ["a", "low", "six"], ["c"], {}),
            ("Div", ["c", "six"], ["d"], {}),
            ("Mul", ["x", "d"], ["h"], {}),
        ],
        [("HardSwish", ["x"], ["h"], {})],
    ],
)
def test_hard_swish_is_found_in_its_decomposed_forms(nodes):
    numbers = {"three": np.float32(3), "low": np.float32(0), "six": np.float32(6)}
    proto = model([*nodes, ("Flatten", ["h"], ["v"], {}), HEAD], {"f": random(3, 72), **numbers})
    assert ops(check_same(proto, 4 * random(3, 2, 6, 6))) == ["HardSwish", "Flatten", "Gemm"]


def test_a_swish_of_other_numbers_stays_as_it_is():
    numbers = {"three": np.float32(2), "low": np.float32(0), "six": np.float32(6)}
    nodes = [
        ("Add", ["x", "three"], ["a"], {}),
        ("Clip", ["a", "low", "six"], ["c"], {}),
        ("Mul", ["c", "x"], ["m"], {}),
        ("Div", ["m", "six"], ["h"], {}),
    ]
    proto = model([*nodes, ("Flatten", ["h"], ["v"], {}), HEAD], {"f": random(3, 72), **numbers})
    assert "HardSwish" not in ops(check_same(proto))


@pytest.mark.parametrize(
    ("opset", "reduce", "extra"),
    [
        (13, ("ReduceMean", ["x"], ["v"], {"axes": [2, 3], "keepdims": 0}), {}),
        (18, ("ReduceMean", ["x", "a"], ["v"], {"keepdims": 0}), {"a": ints(-1, -2)}),
    ],
)
def test_a_mean_over_space_is_a_global_pool(opset, reduce, extra):
    graph = check_same(model([reduce, HEAD], {"f": random(3, 2), **extra}, opset=opset))
    assert ops(graph) == ["GlobalAveragePool", "Flatten", "Gemm"]


def test_zeros_around_space_move_into_the_convolution():
    proto = model(
        [
            ("Pad", ["x", "p"], ["a"], {}),
            ("Conv", ["a", "w"], ["c"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 0, 1]}),
            ("GlobalAveragePool", ["c"], ["g"], {}),
            ("Flatten", ["g"], ["v"], {}),
            HEAD,
        ],
        {"p": ints(0, 0, 1, 0, 0, 0, 2, 1), "w": random(4, 2, 3, 3), "f": random(3, 4)},
    )
    graph = check_same(proto)
    assert graph.nodes[0].attributes["pads"] == (2, 0, 2, 2)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (2, 2), (4, 3)])
def test_automatic_padding_becomes_explicit(auto_pad, kernel, stride):
    proto = model(
        [
            ("Conv", ["x", "w"], ["c"], {"strides": [stride, stride], "auto_pad": auto_pad}),
            ("GlobalAveragePool", ["c"], ["g"], {}),
            ("Flatten", ["g"], ["v"], {}),
            HEAD,
        ],
        {"w": random(4, 2, kernel, kernel), "f": random(3, 4)},
        shape=("n", 2, 7, 7),
    )
    check_same(proto)


def test_identity_and_dropout_go_and_constants_fold():
    proto = model(
        [
            ("Identity", ["x"], ["a"], {}),
            ("Dropout", ["a"], ["b"], {}),
            ("Constant", [], ["two"], {"value": numpy_helper.from_array(np.float32(2))}),
            ("Add", ["two", "two"], ["four"], {}),
            ("Mul", ["b", "four"], ["m"], {}),
            ("Flatten", ["m"], ["v"], {}),
            HEAD,
        ],
        {"f": random(3, 72)},
    )
    graph = check_same(proto)
    assert ops(graph) == ["Mul", "Flatten", "Gemm"]
    assert [constant.values for constant in graph.constants.values()] == [(4.0,)]


def test_moments_become_statistics():
    norm = ("BatchNormalization", ["x", "n.weight", "n.bias", "n.running_mean", "n.running_var"], ["b"], {})
    arrays = {
        "n.weight": random(2), "n.bias": random(2), "n.running_mean": random(2),
        "n.running_var": np.float32([1, 2]), "f": random(3, 72),
    }  # fmt: skip
    proto = model([norm, ("Flatten", ["b"], ["v"], {}), HEAD], arrays)
    graph = check_same(proto)
    assert graph.statistics == {"n.mean": (2,), "n.var": (2,)}
    np.testing.assert_array_equal(read(proto)[1]["n.mean"], arrays["n.running_mean"])


@pytest.mark.parametrize("name", ZOO)
def test_writing_and_reading_gives_the_same_graph(name):
    graph = load_model(name)[0]
    weights = initial_weights(graph, 0)
    weights |= {key: np.ones(shape, np.float32) for key, shape in graph.statistics.items()}
    again, read_weights = from_onnx(to_onnx(graph, weights).SerializeToString(), name)
    assert digest(again) == digest(graph)
    assert set(read_weights) == set(weights)
    assert all(np.array_equal(read_weights[key], weights[key]) for key in weights)


def test_weights_may_be_inputs_of_the_file():
    nodes = [("Flatten", ["x"], ["v"], {}), HEAD]
    as_inputs = read(model(nodes, {"f": random(3, 72)}, as_inputs=True))
    assert as_inputs[1] == {}
    assert digest(as_inputs[0]) == digest(read(model(nodes, {"f": random(3, 72)}))[0])


def test_files_that_leave_have_an_old_enough_version():
    proto = to_onnx(load_model("resnet-20")[0])
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version <= 10
    assert [entry.version for entry in proto.opset_import] == [17]


def test_missing_statistics_are_named():
    graph = load_model("resnet-20")[0]
    with pytest.raises(UserError, match="calibrate"):
        to_onnx(graph, initial_weights(graph, 0))


@pytest.mark.parametrize(
    ("node", "advice"),
    [
        (("Erf", ["x"], ["u"], {}), r"Erf at part: .*ReLU"),
        (("LayerNormalization", ["x", "w"], ["u"], {}), "BatchNorm"),
        (("Slice", ["x", "w", "w"], ["u"], {}), "1x1 convolution"),
        (("Pad", ["x", "p"], ["u"], {}), "channels"),
        (("Frobnicate", ["x"], ["u"], {}), "Frobnicate is not supported"),
        (("Relu", ["nothing"], ["u"], {}), "nothing"),
        (("Relu", [], ["u"], {}), "no input"),
        (("Reshape", ["x", "x"], ["u"], {}), "depends on data"),
        (("ReduceMean", ["x"], ["u"], {"axes": [0]}), "batch"),
        (("Transpose", ["x"], ["u"], {"perm": [1, 0, 2, 3]}), "batch"),
        (("MaxPool", ["x"], ["u"], {"kernel_shape": [2, 2], "dilations": [2, 2]}), "dilat"),
        (("Mul", ["w", "w"], ["u"], {}), "weights from weights"),
        (("Conv", ["x", "x"], ["u"], {}), "not a trained weight"),
    ],
)
def test_what_is_outside_the_set_is_refused_with_advice(node, advice):
    proto = model([node, ("Flatten", ["u"], ["v"], {}), HEAD],
                  {"f": random(3, 72), "w": random(2, 1, 1), "p": ints(0, 1, 0, 0, 0, 0, 0, 0)})  # fmt: skip
    with pytest.raises(UserError, match=advice):
        read(proto)


def test_tensors_in_other_files_are_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4 * 3 * 72))
    proto = model([("Flatten", ["x"], ["v"], {}), HEAD], {"f": random(3, 72)})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    path = tmp_path / "deep" / "net.onnx"
    path.parent.mkdir()
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(UserError, match="another file"):
        from_onnx(path, "net")


@pytest.mark.parametrize("data", [b"", b"not protobuf at all", b"\x08\x08"])
def test_what_is_no_onnx_file_is_refused(tmp_path, data):
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"net\.onnx is not an ONNX file"):
        from_onnx(path, "net")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*absent\.onnx"):
        from_onnx(tmp_path / "absent.onnx", "net")


def test_weights_that_are_not_finite_are_refused():
    weight = random(3, 72)
    weight[1, 1] = np.nan
    with pytest.raises(UserError, match="'f' holds NaN"):
        read(model([("Flatten", ["x"], ["v"], {}), HEAD], {"f": weight}))


def test_a_weight_whose_bytes_are_too_few_is_refused():
    proto = model([("Flatten", ["x"], ["v"], {}), HEAD], {"f": random(3, 72)})
    proto.graph.initializer[0].raw_data = b"1234"
    with pytest.raises(UserError, match="malformed"):
        read(proto)


def test_two_data_inputs_are_refused():
    proto = model([("Flatten", ["x"], ["v"], {}), HEAD], {"f": random(3, 72)})
    proto.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 3]))
    with pytest.raises(UserError, match="second input 'z'"):
        read(proto)


def test_a_constant_too_large_to_fold_is_refused():
    proto = model(
        [
            ("ConstantOfShape", ["s"], ["u"], {}),
            ("Add", ["x", "u"], ["w"], {}),
            ("Flatten", ["w"], ["v"], {}),
            HEAD,
        ],
        {"f": random(3, 72), "s": ints(2**31, 2**20)},
    )
    with pytest.raises(UserError, match="too large"):
        read(proto)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_mutated_file_is_read_or_refused_but_never_crashes(data):
    good = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        graph, _ = from_onnx(bytes(good), "net")
    except UserError:
        return
    assert validate(graph) == graph


GOOD = to_onnx(load_model("cnn-28")[0]).SerializeToString()


@pytest.mark.parametrize(("ceil", "size"), list(itertools.product([0, 1], [5, 6, 7])))
def test_pools_have_the_sizes_the_runtime_gives(ceil, size):
    pool = ("MaxPool", ["x"], ["p"], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": ceil})
    proto = model(
        [pool, ("GlobalAveragePool", ["p"], ["g"], {}), ("Flatten", ["g"], ["v"], {}), HEAD],
        {"f": random(3, 2)},
        shape=("n", 2, size, size),
    )
    check_same(proto)
