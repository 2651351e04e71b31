"""The onnx engine against torch: whole networks at any width, all losses, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
import threading

import msgspec
import numpy as np
import onnx
import pytest

from firmware_profiles.errors import UserError
from models.engines.choose import make_engine
from models.engines.onnx import OnnxEngine
from models.gradients.build import build_artifacts
from models.losses import LossSettings
from models.subnet import cut, full_subnet, sample, uniform_vector
from models.widths import plan_widths
from models.zoo import ZOO, load_model
from models.zoo.initial import initial_weights
from tests.fixtures.operator_graphs import worst_error

LOSS = LossSettings()


def batch(graph, num, seed):
    random = np.random.default_rng(seed)
    x = random.standard_normal((num, *graph.input_shape)).astype(np.float32)
    return x, {"labels": random.integers(0, graph.num_classes, num)}


@pytest.fixture(scope="module")
def cnn():
    graph, _ = load_model("cnn-28")
    return graph, initial_weights(graph, 0)


@pytest.fixture(scope="module")
def resnet():
    graph, _ = load_model("resnet-20")
    return graph, initial_weights(graph, 0)


@pytest.mark.parametrize("network", ZOO)
def test_a_network_of_any_width_gets_the_gradients_of_torch_from_one_session(network):
    graph, _ = load_model(network)
    weights, plan = initial_weights(graph, 0), plan_widths(graph)
    engines = [make_engine(kind, graph, LOSS, 1) for kind in ("torch", "onnx")]
    for keep in (1.0, 0.75, 0.5, 0.3, 0.1):
        errors = []
        # Where the input of a ReLU is 0 but for rounding, two right engines take different sides of it. One
        # mini-batch without such a value is enough: a wrong rule is wrong on all of them.
        for seed in range(6):
            sub = cut(plan, weights, sample(plan, uniform_vector(plan, keep), 7, seed))
            x, targets = batch(graph, 2, seed)
            wanted, found = (engine.gradients(sub, x, targets) for engine in engines)
            assert found.loss == pytest.approx(wanted.loss, rel=1e-4)
            assert worst_error(found.statistics, wanted.statistics) <= 1e-4
            errors.append(worst_error(found.gradients, wanted.gradients))
            if errors[-1] <= 1e-4:
                break
        else:
            pytest.fail(f"keep {keep}: relative errors {errors}")


LOSSES = [
    LossSettings(),
    LossSettings(name="mean-squared-error"),
    LossSettings(name="distillation", temperature=3.0, label_weight=0.3, distillation_weight=0.7),
    LossSettings(name="distillation", label_weight=0.0),
    LossSettings(name="feature-matching", label_weight=0.5, feature_weight=2.0),
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss.name}-{loss.label_weight}")
@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_every_loss_gets_the_gradients_of_torch(cnn, loss, keep):
    graph, weights = cnn
    plan = plan_widths(graph)
    sub = cut(plan, weights, sample(plan, uniform_vector(plan, keep), 3, 0))
    x, targets = batch(graph, 6, 1)
    random = np.random.default_rng(5)
    for name in ("values", "teacher_logits"):
        targets[name] = random.standard_normal((6, graph.num_classes)).astype(np.float32)
    width = next(sub[node.inputs[1]].shape[1] for node in graph.nodes if node.op == "Gemm")
    targets["teacher_features"] = random.standard_normal((6, width)).astype(np.float32)
    wanted, found = (
        make_engine(kind, graph, loss, 1).gradients(sub, x, targets) for kind in ("torch", "onnx")
    )
    assert found.loss == pytest.approx(wanted.loss, rel=1e-4)
    assert worst_error(found.gradients, wanted.gradients) <= 1e-4


@pytest.mark.parametrize("network", ["cnn-28", "resnet-20", "dscnn-1d"])
def test_outputs_and_moments_are_those_of_torch(network):
    graph, _ = load_model(network)
    weights = initial_weights(graph, 0)
    engines = [make_engine(kind, graph, LOSS, 1) for kind in ("torch", "onnx")]
    x, _ = batch(graph, 5, 2)
    wanted, found = (engine.statistics(weights, x) for engine in engines)
    assert worst_error(found, wanted) <= 1e-4
    wanted, found = (engine.outputs(weights | wanted, x) for engine in engines)
    assert worst_error(found, wanted) <= 1e-4


def test_mini_batches_of_every_size_are_taken_by_one_session(cnn):
    graph, weights = cnn
    engines = [make_engine(kind, graph, LOSS, 1) for kind in ("torch", "onnx")]
    for num in (1, 2, 7, 64):
        x, targets = batch(graph, num, num)
        wanted, found = (engine.gradients(weights, x, targets) for engine in engines)
        assert worst_error(found.gradients, wanted.gradients) <= 1e-3


def test_gradients_belong_to_the_caller(cnn):
    graph, weights = cnn
    engine = make_engine("onnx", graph, LOSS, 1)
    x, targets = batch(graph, 3, 0)
    first = engine.gradients(weights, x, targets).gradients
    kept = {name: array.copy() for name, array in first.items()}
    for array in engine.gradients(weights, x[::-1], targets).gradients.values():
        assert array.flags.writeable
        assert array.flags.c_contiguous
        array.fill(np.nan)
    assert all(np.array_equal(first[name], kept[name]) for name in kept)


def test_weights_and_inputs_of_any_memory_layout_are_taken_and_left_alone(cnn):
    graph, weights = cnn
    engine = make_engine("onnx", graph, LOSS, 1)
    x, targets = batch(graph, 4, 0)
    odd = {name: np.asfortranarray(array) for name, array in weights.items()}
    for array in (x, *odd.values()):
        array.setflags(write=False)
    wanted = engine.gradients(weights, x.copy(), targets)
    found = engine.gradients(odd, np.asfortranarray(x), targets)
    assert worst_error(found.gradients, wanted.gradients) == 0.0


def test_the_same_mini_batch_gives_the_same_bits_in_every_thread(resnet):
    graph, weights = resnet
    engine = make_engine("onnx", graph, LOSS, 2)
    x, targets = batch(graph, 8, 0)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(engine.gradients(weights, x, targets))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = found
    assert first.loss == second.loss
    assert all(np.array_equal(first.gradients[name], second.gradients[name]) for name in first.gradients)


def test_targets_that_do_not_fit_are_refused(cnn):
    graph, weights = cnn
    engine = make_engine("onnx", graph, LOSS, 1)
    x, targets = batch(graph, 4, 0)
    with pytest.raises(UserError, match="labels"):
        engine.gradients(weights, x, {})
    with pytest.raises(UserError, match="labels"):
        engine.gradients(weights, x, {"labels": targets["labels"][:3]})
    with pytest.raises(UserError, match="label"):
        engine.gradients(weights, x, {"labels": targets["labels"] + 100})


def test_artifacts_of_another_network_are_refused(cnn, resnet):
    with pytest.raises(UserError, match="not that of model resnet-20"):
        OnnxEngine(resnet[0], LOSS, 1, build_artifacts(cnn[0], LOSS))
    with pytest.raises(UserError, match="not that of model cnn-28 with loss 'mean-squared-error'"):
        OnnxEngine(cnn[0], LossSettings(name="mean-squared-error"), 1, build_artifacts(cnn[0], LOSS))


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"\x08" * 99]
)
def test_a_damaged_training_graph_is_refused_by_name(cnn, damage):
    made = build_artifacts(cnn[0], LOSS)
    damaged = msgspec.structs.replace(made, training=damage(made.training))
    with pytest.raises(UserError, match="cnn-28"):
        OnnxEngine(cnn[0], LOSS, 1, damaged)


def test_a_damaged_evaluation_graph_is_refused_as_such_when_it_is_wanted(cnn):
    graph, weights = cnn
    damaged = msgspec.structs.replace(build_artifacts(graph, LOSS), evaluation=b"")
    engine = OnnxEngine(graph, LOSS, 1, damaged)
    with pytest.raises(UserError, match="the evaluation graph of model cnn-28"):
        engine.outputs(weights, batch(graph, 1, 0)[0])


@pytest.mark.parametrize("network", ZOO)
def test_training_graphs_are_small_and_of_standard_operators(network):
    graph, _ = load_model(network)
    made = build_artifacts(graph, LOSS)
    assert len(made.training) < 200_000
    for data in (made.training, made.evaluation):
        model = onnx.load_from_string(data)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
        assert model.ir_version <= 10
        assert {node.domain for node in model.graph.node} == {""}
        assert not model.functions


def test_equal_networks_make_equal_training_graphs(cnn):
    assert build_artifacts(cnn[0], LOSS) == build_artifacts(load_model("cnn-28")[0], LOSS)


def test_it_trains_where_neither_torch_nor_onnx_can_be_imported(cnn, tmp_path):
    graph, weights = cnn
    artifacts = tmp_path / "artifacts"
    artifacts.write_bytes(msgspec.msgpack.encode((graph, build_artifacts(graph, LOSS))))
    plan = plan_widths(graph)
    np.savez(tmp_path / "weights.npz", **cut(plan, weights, full_subnet(plan)))
    program = """
import sys
sys.modules |= {"torch": None, "onnx": None}
import msgspec, numpy as np
from models.engines.choose import make_engine
from models.gradients.artifacts import Artifacts
from models.graph import ModelGraph
from models.losses import LossSettings
graph, artifacts = msgspec.msgpack.decode(open(sys.argv[1], "rb").read(), type=tuple[ModelGraph, Artifacts])
engine = make_engine("onnx", graph, LossSettings(), 1, artifacts)
weights = dict(np.load(sys.argv[2]))
labels = np.arange(4)
print(engine.gradients(weights, np.ones((4, 1, 28, 28), np.float32), {"labels": labels}).loss)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, artifacts, tmp_path / "weights.npz"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) > 0


def test_a_loss_that_is_not_finite_is_reported_and_not_raised(cnn):
    graph, weights = cnn
    engine = make_engine("onnx", graph, LOSS, 1)
    x, targets = batch(graph, 4, 0)
    assert not np.isfinite(engine.gradients(weights, x * np.float32(np.inf), targets).loss)
