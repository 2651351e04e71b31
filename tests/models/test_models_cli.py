"""`edgetide models`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from firmware_profiles.errors import UserError
from models import weights as weight_files
from models.cli import app
from models.graph import encode
from models.onnx_file import from_onnx, to_onnx
from models.zoo import ZOO, initial_weights, load_model

USER_FILE = Path(__file__).parents[1] / "fixtures" / "user_networks.py"


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def report(*arguments):
    """The one JSON object on the last line of standard output."""
    done = invoke(*arguments, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    assert len(done.stdout.strip().splitlines()) == 1
    return json.loads(done.stdout)


def run(path, x):
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    assert len(session.get_inputs()) == 1
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def trained(tmp_path, name):
    """A safetensors file of some weights, and of moments."""
    graph = load_model(name)[0]
    weights = initial_weights(graph, 3)
    weights |= {key: np.ones(shape, np.float32) for key, shape in graph.statistics.items()}
    weight_files.save(tmp_path / "w.safetensors", weights)
    return graph, weights, tmp_path / "w.safetensors"


def test_importing_the_commands_loads_nothing_heavy():
    heavy = ("torch", "onnx", "numpy", "onnxruntime")
    code = f"import sys, models.cli; print([name for name in {heavy} if name in sys.modules])"
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_list_has_every_network_of_the_zoo():
    rows = report("list")["models"]
    assert [row["name"] for row in rows] == list(ZOO)
    assert rows[0]["macs_forward"] == 5_650_560


def test_the_list_is_a_table_for_people():
    assert "resnet-20" in invoke("list").stdout


def test_a_check_tells_groups_and_costs(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(to_onnx(load_model("cnn-28")[0]).SerializeToString())
    found = report("check", path)
    assert [group["num_channels"] for group in found["groups"]] == [32, 64, 64]
    assert [row["vector"] for row in found["keeps"]] == [
        [32, 64, 64],
        [24, 48, 48],
        [16, 32, 32],
        [8, 16, 16],
    ]
    assert found["keeps"][2]["macs_fraction"] == pytest.approx(0.257, abs=1e-3)
    assert not found["has_weights"]


def test_a_check_of_what_is_no_model_fails_with_one_clear_error(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"not a model")
    done = invoke("check", path)
    assert done.exit_code == 1
    assert isinstance(done.exception, UserError)


def test_a_trace_writes_a_file_that_is_read_again(tmp_path):
    found = report("trace", f"{USER_FILE}:Tiny", "--input", "1,6,6", "--output", tmp_path)
    assert found["output"] == str(tmp_path / "tiny.onnx")
    graph, weights = from_onnx(tmp_path / "tiny.onnx", "tiny")
    assert set(weights) == set(graph.parameters)


@pytest.mark.parametrize("shape", ["", "1,a", "1,0,3", "1,-2"])
def test_an_input_shape_that_is_none_is_wrong_usage(shape):
    assert invoke("trace", f"{USER_FILE}:Tiny", "--input", shape).exit_code == 2


def test_an_export_of_the_full_width_runs_and_agrees(tmp_path):
    graph, weights, path = trained(tmp_path, "cnn-28")
    found = report("export", tmp_path / "out.onnx", "--model", "cnn-28", "--weights", path)
    assert found["vector"] == [32, 64, 64]
    assert from_onnx(tmp_path / "out.onnx", "cnn-28")[0].parameters == graph.parameters
    x = np.ones((2, 1, 28, 28), np.float32)
    (tmp_path / "plain.onnx").write_bytes(to_onnx(graph, weights).SerializeToString())
    np.testing.assert_array_equal(run(tmp_path / "out.onnx", x), run(tmp_path / "plain.onnx", x))


@pytest.mark.parametrize(
    ("options", "vector"), [(["--width", "0.5"], [16, 32, 32]), (["--vector", "3,5,7"], [3, 5, 7])]
)
def test_an_export_of_a_width_runs(tmp_path, options, vector):
    _, _, path = trained(tmp_path, "cnn-28")
    found = report("export", tmp_path / "out.onnx", "--model", "cnn-28", "--weights", path, *options)
    assert found["vector"] == vector
    assert run(tmp_path / "out.onnx", np.zeros((3, 1, 28, 28), np.float32)).shape == (3, 10)


def test_a_narrow_export_says_that_its_moments_are_of_the_full_width(tmp_path):
    _, _, path = trained(tmp_path, "resnet-20")
    done = invoke(
        "export", tmp_path / "out.onnx", "--model", "resnet-20", "--weights", path, "--width", "0.5"
    )
    assert done.exit_code == 0
    assert "--data" in done.stderr


def test_an_export_takes_the_last_model_of_a_state_folder(tmp_path):
    graph, weights, _ = trained(tmp_path, "cnn-28")
    (tmp_path / "models").mkdir()
    weight_files.save(tmp_path / "models" / "0.safetensors", weights)
    (tmp_path / "graph.msgpack").write_bytes(encode(graph))
    assert report("export", tmp_path / "out.onnx", "--state", tmp_path)["model"] == "cnn-28"


def test_moments_are_calibrated_on_data_where_data_is_given(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (24, 28, 28), np.uint8)
    labels = np.arange(24) % 10
    np.savez(tmp_path / "data.npz", x_train=images, y_train=labels, x_test=images[:10], y_test=labels[:10])
    graph = load_model("vgg-8", (1, 28, 28), 10)[0]
    (tmp_path / "net.onnx").write_bytes(to_onnx(graph).SerializeToString())
    weight_files.save(tmp_path / "w.safetensors", initial_weights(graph, 3))
    found = report(
        "export", tmp_path / "out.onnx", "--model", tmp_path / "net.onnx",
        "--weights", tmp_path / "w.safetensors", "--width", "0.1", "--data", tmp_path / "data.npz",
    )  # fmt: skip
    assert found["statistics"] == "calibrated"
    assert np.isfinite(run(tmp_path / "out.onnx", np.ones((1, 1, 28, 28), np.float32))).all()


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--model", "cnn-28", "--width", "0.5", "--vector", "1,1,1"],
        ["--model", "cnn-28", "--vector", "a"],
        ["--model", "cnn-28", "--keep", "weakest"],
        ["--model", "cnn-28", "--state", "x"],
    ],
)
def test_contradicting_options_are_wrong_usage(tmp_path, options):
    _, _, path = trained(tmp_path, "cnn-28")
    assert invoke("export", tmp_path / "out.onnx", "--weights", path, *options).exit_code == 2


def test_a_vector_of_another_length_fails_with_one_clear_error(tmp_path):
    _, _, path = trained(tmp_path, "cnn-28")
    done = invoke("export", tmp_path / "o.onnx", "--model", "cnn-28", "--weights", path, "--vector", "1,2")
    assert done.exit_code == 1
    assert "width groups" in str(done.exception)
