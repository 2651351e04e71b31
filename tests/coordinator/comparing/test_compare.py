"""A whole comparison: resumed, reported, drawn; once with real processes."""

import json
import re
import shlex

import pytest
from typer.testing import CliRunner

from coordinator.cli import app
from coordinator.comparing.compare import compare
from coordinator.comparing.plan import plan_comparison
from coordinator.comparing.plots import method_styles, panels
from coordinator.comparing.report import write_reports
from coordinator.twins.result import to_json
from coordinator.twins.simulator import simulate
from firmware_profiles.errors import UserError
from tests.coordinator.conftest import SMALL
from tests.fixtures.comparison import Starts, told

METHODS = {"full": {"strategy": "full"}, "distreal": {}}


@pytest.fixture
def path(world, make_scenario):
    make_scenario()
    return world / "small.yaml"


@pytest.fixture
def run(path, tmp_path):
    """A function that compares two methods with two seeds, by runs that are over at once."""

    def compared(start=None, **options):
        return compare(
            [path],
            **{
                "methods": METHODS,
                "seeds": [0, 1],
                "out": tmp_path / "out",
                "start": start or Starts(),
                **options,
            },
        )

    return compared


def files(tmp_path):
    return sorted((tmp_path / "out" / "small" / "runs").glob("*.json"))


def test_finished_runs_are_not_run_again(run, tmp_path):
    first, second = Starts(), Starts()
    assert run(first).num_ran == 4
    results = run(second)
    assert (results.num_stored, results.num_ran, second.started) == (4, 0, [])
    assert results.scenarios["small"].methods["full"].seeds == (0, 1)
    assert len(files(tmp_path)) == 4


def test_more_seeds_and_methods_run_what_is_missing(run):
    run()
    starts = Starts()
    run(starts, seeds=[0, 1, 2], methods={**METHODS, "slow": {"learning_rate": 0.01}})
    assert sorted(starts.started) == [
        ("small", "distreal", 2),
        ("small", "full", 2),
        ("small", "slow", 0),
        ("small", "slow", 1),
        ("small", "slow", 2),
    ]


def test_only_what_is_there_is_summed_up_where_nothing_is_to_be_run(run):
    run(seeds=[0])
    starts = Starts()
    results = run(starts, seeds=[0, 1], only_stored=True)
    assert (results.num_stored, results.num_ran, starts.started) == (2, 0, [])
    assert results.scenarios["small"].methods["full"].seeds == (0,)


def test_another_value_is_another_run(run):
    run()
    starts = Starts()
    run(starts, overrides=["rounds=1"])
    assert len(starts.started) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda _content: b"",
        lambda _content: b"[]",
        lambda content: content.replace(b'"accuracy": 0.5', b'"accuracy": 0.9'),
        lambda content: content.replace(b"edgetide-run-1", b"edgetide-run-9"),
        lambda _content: b"[" * 100_000,
        lambda _content: b"\xff\xfe",
    ],
    ids=["torn", "empty", "foreign", "edited", "newer", "deep", "binary"],
)
def test_a_file_that_cannot_be_trusted_is_told_and_run_again(run, tmp_path, damage):
    run()
    victim = files(tmp_path)[0]
    victim.write_bytes(damage(victim.read_bytes()))
    starts = Starts()
    results = run(starts)
    assert len(starts.started) == 1
    assert str(victim) in results.complaints[0]
    assert run().num_stored == 4


def test_the_result_of_another_run_is_not_taken(run, tmp_path):
    run()
    one, other, *_ = files(tmp_path)
    one.write_bytes(other.read_bytes())
    assert "seed is" in run().complaints[0]


def test_a_failed_run_is_reported_beside_the_figures_of_the_others(run):
    results = run(Starts(fails=lambda run: "too hot" if (run.method, run.seed) == ("full", 1) else None))
    assert [(str(failure.run), failure.reason) for failure in results.failures] == [
        ("small · full · seed 1", "too hot")
    ]
    assert results.scenarios["small"].methods["full"].seeds == (0,)
    assert results.scenarios["small"].methods["distreal"].differences[-1].num_pairs == 1


def test_a_run_that_says_it_is_over_but_wrote_nothing_has_failed(run):
    class Silent(Starts):
        def __call__(self, run, path):
            process = super().__call__(run, path)
            path.unlink()
            return process

    assert all("was not written" in failure.reason for failure in run(Silent()).failures)


def test_a_file_in_the_place_of_the_folder_is_told_before_anything_runs(run, tmp_path):
    (tmp_path / "taken").write_text("")
    starts = Starts()
    with pytest.raises(UserError, match=r"cannot be written to .*--out"):
        run(starts, out=tmp_path / "taken")
    assert starts.started == []


# ---------------------------------------------------------------- reports


def by_method(run):
    final = {"full": 0.5, "distreal": 0.6}[run.method] + 0.001 * run.seed
    return told(0.1, 0.3, final, class_accuracy=(0.25, 0.75), budget_used_fraction=0.8)


def test_reports_hold_the_figures_for_people_and_for_programs(run):
    results = run(Starts(by_method))
    paths = write_reports(results, [results.folder / "accuracy.png"])
    page = (results.folder / "summary.md").read_text()
    assert (
        "| distreal | 2 | +0.00 [+0.00, +0.00] | +0.00 [+0.00, +0.00] | +5.00 [+5.00, +5.00] | yes at 100 % |"
        in page
    )
    assert "![Accuracy over virtual time](accuracy.png)" in page
    told = json.loads((results.folder / "summary.json").read_text())
    method = told["scenarios"]["small"]["methods"]["distreal"]
    assert method["last"]["mean"] == pytest.approx(0.6005)
    assert told["scenarios"]["small"]["better_than_reference"]["1"] == ["distreal"]
    rows = (results.folder / "runs.csv").read_text().splitlines()
    assert len(rows) == 5
    assert rows[0].startswith("scenario,method,seed,accuracy_at_0.25")
    assert set(paths) == {"summary.md", "summary.json", "summary.csv", "runs.csv"}


def test_a_line_is_the_mean_over_seeds_and_its_band_the_spread(run):
    (panel,) = panels(run(Starts(by_method), reference="distreal"))
    line = panel.lines[0]
    assert line.method == "distreal"
    assert line.mean[-1] == pytest.approx(100 * (0.3 + 0.6005) / 2)
    assert line.high[-1] - line.mean[-1] == pytest.approx(line.mean[-1] - line.low[-1])
    assert panel.unit == "s"


def test_methods_look_unlike_each_other_in_every_panel(run):
    many = {f"method {index}": {"learning_rate": 0.01 + index / 100} for index in range(20)}
    styles = method_styles(panels(run(methods=many, seeds=[0])))
    assert len({(style.colour, style.dash) for style in styles.values()}) == 20


# ---------------------------------------------------------------- processes


@pytest.fixture(scope="module")
def spawned(world, tmp_path_factory):
    """A folder where `sim compare` ran, with a module of the user's in it that has a name of ours.

    One of the two methods cannot be run. Beside the folder: what was printed, and the error.
    """
    folder = tmp_path_factory.mktemp("spawned")
    (world / "small.yaml").write_text(SMALL)
    (folder / "models.py").write_text("raise RuntimeError('a module of the user was imported')")
    (folder / "methods.yaml").write_text("full: {strategy: full}\nbad: {data: ./no-such.npz}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        told = CliRunner().invoke(
            app,
            shlex.split(
                f"sim compare {world / 'small.yaml'} --methods methods.yaml --seeds 4 --out out "
                "--set rounds=1 --set engine=numpy --json"
            ),
        )
    return folder, told


def test_a_run_in_its_own_process_has_the_result_that_the_same_scenario_has_here(spawned, world):
    folder, _ = spawned
    (stored,) = files(folder)
    (plan,) = plan_comparison(
        [world / "small.yaml"],
        methods={"full": {"strategy": "full"}},
        seeds=[4],
        overrides=["rounds=1", "engine=numpy"],
    )
    again = json.loads(json.dumps(to_json(simulate(plan.runs[0].settings))))
    for device in again["devices"]:
        del device["pauses"]
    assert json.loads(stored.read_text())["result"] == again


def test_a_process_that_fails_is_told_and_leaves_the_figures_of_the_others(spawned):
    folder, told = spawned
    printed = json.loads(told.stdout.splitlines()[-1])
    assert printed["scenarios"]["small"]["methods"]["full"]["seeds"] == [4]
    assert [failed["method"] for failed in printed["runs"]["failed"]] == ["bad"]
    assert re.search(r"1 of 2 runs failed:\n.* bad · seed 4: .*no-such", str(told.exception))
    assert told.exit_code == 1
    assert not (folder / "out" / "small" / "runs" / "running").exists()


def test_plots_work_offline_and_show_the_methods(spawned):
    page = (spawned[0] / "out" / "accuracy.html").read_text()
    assert not re.search(r"<script[^>]* src=", page)
    assert '"name":"full"' in page
    assert (spawned[0] / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
