"""What the DISTREAL study computes and prepares; not what it measures."""

import io

import numpy as np
import pytest

from benchmarks.distreal_cells import Cell, iid_cell, matrix_cells, world_of
from benchmarks.distreal_checks import Measured, checks_of, ordering, time_ratio
from benchmarks.distreal_tuning import OWN_SETTINGS, first_settings, second_settings
from benchmarks.prepare_data import decode_images, digits, log_mel, loudest_window, mel_filters
from coordinator.comparing.summary import RunOutcome, summarise
from firmware_profiles.errors import UserError


def outcome(curve, classes=()):
    return RunOutcome(
        accuracy=curve[-1],
        accuracy_curve=tuple((float(time_s), accuracy) for time_s, accuracy in enumerate(curve)),
        virtual_s=float(len(curve) - 1),
        macs=1,
        bytes_sent=1,
        engine="numpy",
        class_accuracy=classes,
    )


def measured(curves, *, family="time", dataset="cifar", budget=0.2, kind="matrix", classes=None, own=None):
    runs = {
        method: {seed: outcome(curve, (classes or {}).get(method, ())) for seed in (0, 1)}
        for method, curve in curves.items()
    }
    reference = next((name for name in ("planned", "distreal") if name in runs), next(iter(runs)))
    cell = Cell(name=kind, family=family, dataset=dataset, budget=budget, kind=kind, overrides=())
    return Measured(cell, runs, summarise(runs, reference=reference, own_labels=own or {}))


def by_name(measured):
    return {check.name: check for check in checks_of(measured)}


QUICK = [0.1, 0.6, 0.8, 0.8, 0.8, 0.8]
SLOW = [0.1, 0.2, 0.4, 0.6, 0.8, 0.8]
POOR = [0.1, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_a_baseline_that_is_better_in_every_seed_breaks_the_envelope_and_a_part_of_ours_does_not():
    better = [0.1, 0.9, 0.9, 0.9, 0.9, 0.9]
    with_baseline = by_name([measured({"distreal": QUICK, "full": better, "fjord": POOR})])
    assert with_baseline["matrix: methods better at 100% of the time"].value == 1
    with_part = by_name([measured({"distreal": QUICK, "distreal-fixed-30": better})])
    assert with_part["matrix: methods better at 100% of the time"].value == 0


def test_what_was_planned_is_what_is_held_against_the_others():
    better = [0.1, 0.9, 0.9, 0.9, 0.9, 0.9]
    checks = by_name([measured({"planned": better, "distreal": QUICK, "full": QUICK, "small-65": QUICK})])
    assert checks["matrix: methods better at 100% of the time"].value == 0
    assert checks["matrix: points above the best small network"].value == pytest.approx(10.0)


def test_live_choice_is_compared_with_the_best_vector_that_never_changes():
    checks = by_name([measured({"distreal": QUICK, "distreal-fixed-30": POOR, "distreal-fixed-50": SLOW})])
    ratio = checks["matrix: time to the same accuracy, live / fixed"]
    assert ratio.peer == "distreal-fixed-50"
    assert ratio.value < 0.85
    assert ratio.holds


def test_times_are_taken_to_the_best_accuracy_that_both_reach():
    one = measured({"distreal": [0.1, 0.4, 0.4, 0.4, 0.9], "distreal-fixed-30": [0.1, 0.2, 0.2, 0.4, 0.4]})
    goal_s_ours, goal_s_fixed = 1, 4  # the mean of three versions reaches 1/3 then
    assert time_ratio(one, "distreal", "distreal-fixed-30") == pytest.approx(goal_s_ours / goal_s_fixed)


def test_who_never_reaches_the_target_took_the_whole_time():
    checks = by_name([measured({"distreal": QUICK, "heterofl": POOR})])
    assert checks["matrix: time to 95 % of the best, ours / heterofl"].value == pytest.approx(4 / 5)


def test_capacity_is_asked_for_only_where_it_binds():
    curves = {"distreal": QUICK, "small-20": POOR, "small-65": SLOW}
    name = "matrix: points above the best small network"
    assert by_name([measured(curves)])[name].peer == "small-65"
    assert name not in by_name([measured(curves, budget=0.5)])
    assert name not in by_name([measured(curves, dataset="fashion")])
    assert name in by_name([measured(curves, family="memory", dataset="fashion")])


def test_classes_that_only_some_hold_are_compared_with_the_others_and_with_dropping_them():
    one = measured(
        {"distreal": QUICK, "drop": POOR},
        family="memory",
        classes={"distreal": (0.7, 0.8), "drop": (0.0, 0.9)},
        own={"tight": (0,)},
    )
    checks = by_name([one])
    assert checks["matrix: points behind other classes"].value == pytest.approx(10)
    assert checks["matrix: points above dropping them"].value == pytest.approx(70)


def test_the_unconstrained_full_network_is_what_a_fifth_of_a_pass_is_compared_with():
    free = measured({"full": QUICK}, kind="unconstrained", budget=50.0)
    checks = by_name([measured({"distreal": POOR}), free])
    assert checks["matrix: points below unconstrained training"].value == pytest.approx(30)


def test_methods_are_ordered_by_their_final_accuracy():
    assert ordering(measured({"drop": POOR, "distreal": QUICK})) == ["distreal", "drop"]


def test_every_method_is_tuned_with_as_many_settings():
    assert len(first_settings({})) == 6
    assert {len(second_settings(method, {})) for method in ("full", *OWN_SETTINGS)} == {2}


def test_data_that_is_not_there_is_asked_for(tmp_path):
    with pytest.raises(UserError, match=r"benchmarks\.prepare_data --out"):
        world_of("cifar", tmp_path)


def test_the_matrix_has_three_budgets_of_time_and_one_cell_of_each_other_family(tmp_path):
    (tmp_path / "cifar10.npz").touch()
    cells = matrix_cells(["time", "batch", "memory"], ["cifar"], tmp_path)
    assert [cell.budget for cell in cells] == [0.5, 0.2, 0.07, 0.1, 0.5]
    assert len({cell.name for cell in cells}) == len(cells)


def test_in_the_iid_cell_samples_are_shared_out_evenly_and_nothing_else_differs(tmp_path):
    (tmp_path / "cifar10.npz").touch()
    (same,) = (cell for cell in matrix_cells(["time"], ["cifar"], tmp_path) if cell.budget == 0.2)
    iid = iid_cell("cifar", tmp_path)
    differing = {"partition=iid", f"name={iid.name}", f"name={same.name}"}
    assert set(iid.overrides) ^ set(same.overrides) == differing
    assert iid.overrides.index("partition=iid") > iid.overrides.index("partition=dirichlet:0.3")


def test_recorded_loads_are_taken_where_they_are(tmp_path):
    (tmp_path / "cifar10.npz").touch()
    assert '"kind": "availability"' in world_of("cifar", tmp_path)[-1]
    (tmp_path / "vm_traces.npz").touch()
    assert '"kind": "vm"' in world_of("cifar", tmp_path)[-1]


def test_images_with_a_common_header_are_decoded():
    image_module = pytest.importorskip("PIL.Image")
    files = []
    for grey in (0, 200):
        file = io.BytesIO()
        image_module.new("RGB", (32, 32), (grey, grey, grey)).save(file, "JPEG")
        files.append(file.getvalue())
    header, bodies = files[0][:20], [data[20:] for data in files]
    offsets = np.cumsum([0, *map(len, bodies)])
    images = decode_images(
        np.frombuffer(header, np.uint8), np.frombuffer(b"".join(bodies), np.uint8), offsets
    )
    assert images.shape == (2, 32, 32, 3)
    assert [int(image.mean()) for image in images] == [0, 200]


def test_a_damaged_image_is_named():
    pytest.importorskip("PIL.Image")
    nothing = np.zeros(4, np.uint8)
    with pytest.raises(UserError, match="image 0 is no JPEG"):
        decode_images(nothing, nothing, np.array([0, 4]))


def test_a_long_clip_is_cut_where_it_is_loudest_and_a_short_one_is_centred():
    assert loudest_window(np.array([0, 1, 9, -9, 1], np.int16), 2).tolist() == [9, -9]
    assert loudest_window(np.array([5, 6], np.int16), 5).tolist() == [0, 5, 6, 0, 0]


def test_a_tone_is_loudest_in_the_mel_band_it_lies_in():
    tone = (8000 * np.sin(2 * np.pi * 1000 * np.arange(4000) / 8000)).astype(np.int16)
    bands = log_mel(tone)
    highest = int(bands.mean(axis=1).argmax())
    assert bands.shape == (32, 47)
    assert bands.dtype == np.float32
    assert int(mel_filters(32, 256, 8000)[:, 32].argmax()) == highest  # bin 32 is 1000 Hz


def test_spoken_digits_are_split_by_take_and_owned_by_one_speaker(tmp_path):
    folder = tmp_path / "fsdd"
    folder.mkdir()
    takes = np.tile(np.array([0, 4, 5, 22]), 2)
    np.savez(
        folder / "fsdd_int16_8khz.npz",
        samples=np.ones(8 * 300, np.int16),
        offsets=np.arange(9) * 300,
        label=np.arange(8, dtype=np.uint8),
        speaker=np.repeat(np.arange(2, dtype=np.uint8), 4),
        take=takes,
    )
    made = digits(tmp_path)
    assert made["y_test"].tolist() == [0, 1, 4, 5]
    assert made["x_train"].shape == (4, 32, 47)
    assert made["owner_train"].tolist() == [5, 5, 22, 22]
