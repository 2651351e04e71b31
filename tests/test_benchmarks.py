"""What the benchmarks compute from what they measure; not what they measure."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import Report, sample_interleaved

ROOT = Path(__file__).resolve().parent.parent


def test_samples_are_taken_in_turn_and_each_comes_first_once():
    taken = []

    def sampler(name):
        def sample():
            taken.append(name)
            return float(len(taken))

        return sample

    samples = sample_interleaved({name: sampler(name) for name in "abc"}, num_repeats=3)
    assert "".join(taken) == "abcbcacab"
    assert samples == {"a": [1.0, 6.0, 8.0], "b": [2.0, 4.0, 9.0], "c": [3.0, 5.0, 7.0]}


def test_ratios_are_taken_within_a_repeat_and_against_the_faster_layout():
    from benchmarks.engines import times_row

    row = times_row(
        {
            "onnx": [1.0, 4.0, 1.0],
            "torch contiguous": [2.0, 8.0, 2.0],
            "torch channels_last": [1.0, 4.0, 1.5],
        }
    )
    assert row["faster_torch"] == "torch channels_last"
    assert row["ratio_contiguous"] == 0.5
    assert row["ratio_faster"] == 1.0
    assert row["onnx ms"] == 1000.0


def test_the_time_checks_are_geometric_means_over_the_rows_at_one_thread():
    from benchmarks.engines import check_times

    rows = [
        {"num_threads": 1, "ratio_faster": 0.5, "ratio_contiguous": 0.25},
        {"num_threads": 1, "ratio_faster": 2.0, "ratio_contiguous": 1.0},
        {"num_threads": 2, "ratio_faster": 100.0, "ratio_contiguous": 100.0},
    ]
    report = Report("engines", rows=rows)
    check_times(report)
    assert [check.value for check in report.checks] == pytest.approx([1.0, 0.5])
    assert [(check.op, check.target) for check in report.checks] == [("<=", 1.2), ("<=", 1.0)]


def test_losses_are_compared_over_the_first_steps_only():
    from benchmarks.agreement import largest_difference

    assert largest_difference([1.0, 2.2, 9.0], [1.0, 2.0, 1.0], num_steps=2) == pytest.approx(0.1)


def test_a_worker_that_cannot_do_what_is_asked_says_why(tmp_path):
    pytest.importorskip("onnx")
    from benchmarks.engine_worker import TrainAlone
    from benchmarks.workers import started_worker, write_bundles

    with started_worker(write_bundles(tmp_path, ["cnn-28"]), 1) as ask:
        request = TrainAlone(kind="slide-rule", network="cnn-28", num_batches=1)
        with pytest.raises(RuntimeError, match="engine 'slide-rule' is unknown"):
            ask(request)


def test_an_environment_holds_what_its_packages_need_and_no_other_extra():
    from benchmarks.installed import installed_bytes, needed

    plain, with_onnx = needed(["edgetide"]), needed(["edgetide[onnx]"])
    assert {"edgetide", "numpy", "msgspec"} <= plain
    assert "fastapi" not in with_onnx
    assert with_onnx > plain
    assert installed_bytes(with_onnx) > installed_bytes(plain) > installed_bytes(["numpy"]) > 1e6


def test_pip_evaluates_markers_for_the_other_machine(tmp_path):
    # The requirements point at files that are not there: pip names the one that its markers chose.
    markers = {
        "old": "python_version < '3.11'",
        "new": "python_version >= '3.11' and platform_machine == 'aarch64'",
    }
    wanted = tmp_path / "requirements.txt"
    wanted.write_text(
        "".join(
            f"{name} @ file:///nowhere/{name}-1-py3-none-any.whl ; {text}\n" for name, text in markers.items()
        )
    )
    for version, chosen in (("3.10", "old"), ("3.13", "new")):
        pip = [sys.executable, str(ROOT / "scripts/pip_for.py"), version, "aarch64", "download"]
        pip += [
            "--no-index",
            "--no-deps",
            "--disable-pip-version-check",
            "-d",
            str(tmp_path),
            "-r",
            str(wanted),
        ]
        said = subprocess.run(pip, capture_output=True, text=True, check=False).stderr
        assert f"/nowhere/{chosen}-1-py3-none-any.whl" in said


def test_the_books_of_a_fleet_show_what_was_lost_and_what_was_applied_twice():
    from benchmarks.fleet_books import Books

    def books(outcomes, num_updates, num_put, waiting=()):
        return Books(outcomes, num_updates, frozenset(waiting), num_put, (), ())

    first, second = ("a", 1, 1), ("b", 1, 1)
    sound = books({first: ("applied", 1)}, {1: 1}, 2, [second])
    assert (sound.num_lost, sound.num_unexplained(0), sound.num_wrong_versions) == (0, 0, 0)
    assert books({first: ("applied", 1)}, {1: 1}, 2).num_lost == 1
    assert books({first: ("applied", 1), second: ("expired", None)}, {1: 1}, 1).num_unexplained(0) == 1
    assert books({first: ("applied", 1)}, {1: 1, 2: 1}, 1).num_wrong_versions == 1


def test_exchanges_that_ended_without_a_beginning_are_seen():
    from benchmarks.fleet_books import Books

    def report(begun, completed):
        counts = {"begun": begun, "completed": completed, "taken_back": 0, "one_sided": 0}
        return {"device": "a", "exchanges": {"b": counts}}

    late = Books({}, {}, frozenset(), 0, (report(2, 1), report(0, 1)), ())
    assert late.num_overdrawn_pairs() == 0
    assert Books({}, {}, frozenset(), 0, (report(1, 1), report(0, 1)), ()).num_overdrawn_pairs() == 1
