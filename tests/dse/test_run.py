"""A whole search on a tiny network: from data to a table that devices can read."""

import json
from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs
from typer.testing import CliRunner

from dse.cli import app
from dse.costs import make_price
from dse.objectives import gain, make_bench
from dse.run import run, write_table
from dse.settings import SearchSettings
from dse.site import Run, load_site, warm_folder
from dse.study import finished, quiet
from dse.warm import checksum, warm_starts
from firmware_profiles.errors import UserError
from models.data.dataset import load_data
from models.engines.choose import make_engine
from models.graph import digest as graph_digest
from models.losses import LossSettings
from models.optim.settings import OptimizerSettings
from models.table import find_fault, load_table
from models.widths import plan_widths
from tests.fixtures.two_layers import TWO_LAYERS

PLAN = plan_widths(TWO_LAYERS)
SETTINGS = SearchSettings(
    stages=(4, 12),
    num_steps=6,
    num_devices=2,
    num_repeats=2,
    num_held_out=60,
    batch_size=10,
    optimizer=OptimizerSettings(learning_rate=0.1, momentum=0.0),
    seed=3,
)


def initial():
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in TWO_LAYERS.parameters.items()
    }


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(1)
    centres = rng.normal(0, 1.5, (3, 6))
    labels = np.arange(260) % 3
    samples = (centres[labels] + rng.normal(0, 1.0, (260, 6))).astype(np.float32)
    path = tmp_path / "blobs.npz"
    np.savez(path, x_train=samples[:200], y_train=labels[:200], x_test=samples[200:], y_test=labels[200:])
    return path


@pytest.fixture
def bench(data):
    engine = make_engine("torch", TWO_LAYERS, LossSettings(), 1)
    return make_bench(TWO_LAYERS, PLAN, engine, initial(), load_data(str(data)).train, SETTINGS)


def a_run(data, tmp_path, trials=8, **changes):
    fields = {
        "model": "tiny",
        "data": str(data),
        "url": f"sqlite:///{tmp_path}/study.db",
        "name": "s",
        "num_trials": trials,
        "engine": "torch",
        "settings": SETTINGS,
        "command": "edgetide dse run …",
    }
    return Run(**{**fields, **changes})


def search(plan_of_run):
    return run(plan_of_run, TWO_LAYERS, initial(), load_data(plan_of_run.data))


def test_training_everything_from_the_warm_start_brings_accuracy(bench):
    early, late = warm_starts(bench, range(1))
    assert gain(bench, early, (12,)) > 0.05
    assert late.accuracy > early.accuracy


def test_a_measurement_is_the_same_whatever_was_measured_before(bench):
    start, _ = warm_starts(bench, range(1))
    first = gain(bench, start, (7,))
    gain(bench, start, (12,))
    assert gain(bench, start, (7,)) == first
    assert checksum(warm_starts(bench, range(1))) == checksum(warm_starts(bench, range(1)))


@pytest.mark.parametrize("draw", ["ordered", "rolling", "importance", "random-per-order"])
def test_vectors_can_be_measured_with_another_draw_of_channels(bench, draw):
    start, _ = warm_starts(bench, range(1))
    other = replace(bench, settings=structs.replace(SETTINGS, draw=draw))
    assert gain(other, start, (7,)) != gain(bench, start, (7,))
    assert gain(other, start, (12,)) == gain(bench, start, (12,))


def test_repeats_start_from_networks_that_learned_differently(bench):
    one, _, other, _ = warm_starts(bench, range(2))
    assert not np.array_equal(one.weights["first.weight"], other.weights["first.weight"])


def test_kept_warm_starts_are_those_that_would_be_trained(bench, tmp_path):
    trained = warm_starts(bench, range(2), tmp_path / "warm", "key")
    assert len(list((tmp_path / "warm").iterdir())) == 4
    untrained = {name: np.zeros_like(values) for name, values in bench.initial.items()}
    assert checksum(warm_starts(bench, range(2), tmp_path / "warm", "key")) == checksum(trained)
    assert checksum(warm_starts(replace(bench, initial=untrained), range(2), tmp_path / "warm", "key")) != (
        checksum(trained)
    )


def test_a_damaged_warm_start_is_trained_anew(bench, tmp_path):
    trained = warm_starts(bench, range(1), tmp_path, "key")
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-8])
    assert checksum(warm_starts(bench, range(1), tmp_path, "key")) == checksum(trained)


def test_held_out_samples_are_not_trained_on_and_the_test_part_is_not_touched(bench, data):
    split = load_data(str(data))
    trained = {sample.tobytes() for sample in bench.data.samples}
    held_out = {sample.tobytes() for sample in bench.held_out_inputs}
    tested = {sample.tobytes() for sample in split.test.samples}
    assert len(trained) + len(held_out) == 200
    assert not trained & held_out
    assert not tested & (trained | held_out)


def test_too_few_samples_to_hold_out_are_refused(data):
    engine = make_engine("torch", TWO_LAYERS, LossSettings(), 1)
    settings = SearchSettings(num_held_out=195, batch_size=10)
    with pytest.raises(UserError, match="200 training samples are too few"):
        make_bench(TWO_LAYERS, PLAN, engine, initial(), load_data(str(data)).train, settings)


def test_a_run_ends_in_a_table_that_fits_the_network(data, tmp_path):
    outcome = search(a_run(data, tmp_path))
    assert find_fault(outcome.table, graph_digest(TWO_LAYERS), PLAN) is None
    assert outcome.table.entries[-1].vector == (12,)
    assert all(entry.progress > 0 for entry in outcome.table.entries[:-1])


def test_the_same_seed_makes_the_same_table_even_when_resumed(data, tmp_path):
    whole = search(a_run(data, tmp_path, trials=8))
    search(a_run(data, tmp_path, trials=3, name="parts"))
    resumed = search(a_run(data, tmp_path, trials=8, name="parts"))
    assert resumed.table == whole.table


def test_workers_of_one_machine_share_the_work_and_the_warm_starts(model_file, data, tmp_path):
    plan_of_run = a_run(data, tmp_path, trials=6, model=str(model_file), num_workers=2)
    site = load_site(plan_of_run)
    outcome = run(plan_of_run, site.graph, site.bench.initial, load_data(str(data)))
    with quiet():
        trials = finished(site.open_study())
    assert outcome.num_trials == len(trials) == 6
    assert len({trial.user_attrs["worker"]["warm_starts"] for trial in trials}) == 1
    assert warm_folder(plan_of_run).is_dir()
    assert outcome.table.entries[-1].vector == (12,)


def test_seconds_of_an_unmeasured_board_are_searched_with_but_not_written(data, tmp_path):
    price = make_price("seconds", "raspberry-pi-4", "onnx")
    outcome = search(a_run(data, tmp_path, trials=3, price=price))
    assert all(entry.core_seconds is None for entry in outcome.table.entries)
    assert "nobody measured" in outcome.notes[0]


def test_a_study_of_other_data_is_not_gone_on_with(data, tmp_path):
    search(a_run(data, tmp_path, trials=2))
    other = data.with_name("other.npz")
    other.write_bytes(data.read_bytes())
    with pytest.raises(UserError, match=r"begun with data .*blobs"):
        search(a_run(other, tmp_path, trials=2))


def test_data_that_does_not_fit_the_network_is_refused(tmp_path):
    with pytest.raises(UserError, match="takes"):
        search(a_run("fashion-mnist-small", tmp_path))


def test_a_written_table_reads_back_and_names_its_command(data, tmp_path):
    table = search(a_run(data, tmp_path, trials=3)).table
    path = tmp_path / "sub" / "table.yaml"
    write_table(path, table)
    assert load_table(path) == table
    assert path.read_text("utf-8").startswith("# Made by: edgetide dse run")


def test_show_prints_the_table_as_one_json_object(data, tmp_path):
    path = tmp_path / "table.yaml"
    write_table(path, search(a_run(data, tmp_path, trials=3)).table)
    shown = CliRunner().invoke(app, ["show", str(path), "--json"])
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["entries"][-1]["vector"] == [12]
    assert "tiny" in CliRunner().invoke(app, ["show", str(path)]).stdout


@pytest.fixture
def model_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    from models.onnx_file import to_onnx

    path = tmp_path / "tiny.onnx"
    onnx.save(to_onnx(TWO_LAYERS, initial()), path)
    return path


def command(model_file, data, tmp_path):
    options = {
        "--model": model_file,
        "--data": data,
        "--trials": 6,
        "--stages": "4,12",
        "--steps": 6,
        "--devices": 2,
        "--repeats": 1,
        "--held-out": 60,
        "--batch-size": 10,
        "--study": f"sqlite:///{tmp_path}/cli.db",
        "--out": tmp_path / "out.yaml",
    }
    return ["run", *(str(word) for pair in options.items() for word in pair), "--json"]


def test_the_command_line_writes_the_table_and_reports_it_as_one_json_object(model_file, data, tmp_path):
    ended = CliRunner().invoke(app, command(model_file, data, tmp_path), catch_exceptions=False)
    report = json.loads(ended.stdout)
    assert ended.exit_code == 0
    assert report["trials"] == 6
    table = load_table(tmp_path / "out.yaml")
    assert [entry["vector"] for entry in report["table"]["entries"]] == [
        list(e.vector) for e in table.entries
    ]
    assert "--stages 4,12" in table.source


def test_an_interrupted_command_says_that_it_can_go_on(model_file, data, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dse.site.gain", interrupt)
    ended = CliRunner().invoke(app, command(model_file, data, tmp_path))
    assert isinstance(ended.exception, UserError)
    assert "the same command goes on" in str(ended.exception)


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--stages", "60,twenty", "whole numbers"),
        ("--stages", "240,60", "must rise"),
        ("--objectives", "cost,money", "none of"),
        ("--cost", "joules", "needs a board"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(tmp_path, option, value, why):
    ended = CliRunner().invoke(app, ["run", "--out", str(tmp_path / "t.yaml"), option, value])
    assert isinstance(ended.exception, UserError)
    assert why in str(ended.exception)


def test_an_unknown_option_is_wrong_usage():
    assert CliRunner().invoke(app, ["run", "--tirals", "3"]).exit_code == 2


def test_the_shipped_table_fits_the_shipped_network_and_reaches_below_half_of_its_cost():
    pytest.importorskip("onnx")
    from models.zoo import load_model, shipped_table

    graph, _ = load_model("cnn-28")
    table = shipped_table("cnn-28")
    assert table is not None
    assert find_fault(table, graph_digest(graph), plan_widths(graph)) is None
    assert len(table.entries) >= 5
    assert table.entries[0].macs < 0.5 * table.entries[-1].macs
