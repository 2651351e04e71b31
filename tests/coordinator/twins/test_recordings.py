"""Recorded load and the process that resembles it."""

import io
import zipfile

import numpy as np
import pytest

from coordinator.twins.recordings import even_ranks, recorded_load, synthetic_ranks
from coordinator.twins.trace_kinds import Availability, Vm
from coordinator.twins.traces import Place, make_reading
from firmware_profiles.errors import UserError


@pytest.fixture
def file(tmp_path):
    """Three recordings of four samples: 0, 25, 50, 75 percent, and 10 and 20 percent more."""
    percent = np.array([0.0, 25.0, 50.0, 75.0]) + np.array([[0.0], [10.0], [20.0]])
    path = tmp_path / "util.npz"
    np.savez(path, util=np.stack([percent, 0 * percent], axis=2).astype(np.float32))
    return str(path)


def autocorrelation(samples, lag):
    centred = samples - samples.mean(axis=1, keepdims=True)
    num_pairs = samples.shape[1] - lag
    return (centred[:, lag:] * centred[:, :-lag]).sum() / (centred**2).sum() * samples.shape[1] / num_pairs


def test_each_device_gets_a_recording_of_its_own_and_the_seed_decides_which(file):
    first = [recorded_load(Vm(file=file), device, seed=1)[0] for device in range(3)]
    other = [recorded_load(Vm(file=file), device, seed=2)[0] for device in range(3)]
    assert sorted(first) == sorted(other) == pytest.approx([0.0, 0.1, 0.2])
    assert first != other
    assert recorded_load(Vm(file=file), 3, seed=1)[0] == first[0]


def test_load_is_a_share_within_its_limits(file):
    loads = recorded_load(Vm(file=file, low=0.3, high=0.6), 0, seed=0)
    assert loads.min() == pytest.approx(0.3)
    assert loads.max() == pytest.approx(0.6)


def test_ranks_spread_evenly_and_equal_values_share_theirs(file):
    assert recorded_load(Vm(file=file, rank=True, high=0.9), 0, seed=0) == pytest.approx([0, 0.3, 0.6, 0.9])
    assert even_ranks(np.array([5.0, 1.0, 1.0])) == pytest.approx([1.0, 0.25, 0.25])


def test_a_recording_goes_straight_from_sample_to_sample_and_begins_again(file):
    reading = make_reading(Vm(file=file, rank=True, every_s=10.0), "seed", Place())
    assert [reading(time_s) for time_s in (0.0, 5.0, 30.0, 35.0, 40.0)] == pytest.approx(
        [0.0, 1 / 6, 1.0, 0.5, 0.0]
    )


def test_the_process_resembles_the_recordings_it_was_measured_on():
    availability = 1 - 0.9 * np.array([synthetic_ranks(str(seed)) for seed in range(200)])
    assert availability.mean() == pytest.approx(0.55, abs=1e-3)
    assert availability.std() == pytest.approx(0.26, abs=0.005)
    assert autocorrelation(availability, 1) == pytest.approx(0.61, abs=0.05)
    assert autocorrelation(availability, 6) == pytest.approx(0.56, abs=0.06)
    windows = availability.reshape(200, -1, 12)
    assert (windows.std(axis=2) / windows.mean(axis=2)).mean() == pytest.approx(0.30, abs=0.04)


def test_a_device_s_availability_is_the_same_whatever_is_asked_first():
    for redraw in (None, "step", "round", "never", 7.0):
        one, other = (make_reading(Availability(redraw=redraw, low=0.2, high=0.7), "seed") for _ in range(2))
        values = [one(time_s) for time_s in (0.0, 50.0, 500.0)]
        assert [other(time_s) for time_s in (500.0, 50.0, 0.0)] == values[::-1]
        assert all(0.2 <= value <= 0.7 for value in values)


@pytest.mark.parametrize(
    ("redraw", "num_values"), [("never", 1), ("round", 2), ("step", 20), (4.0, 5)], ids=str
)
def test_availability_is_drawn_anew_as_often_as_it_says(redraw, num_values):
    reading = make_reading(Availability(redraw=redraw), "seed", Place(round_s=10.0, step_s=1.0))
    assert len({reading(time_s + 0.5) for time_s in range(20)}) == num_values


def npz(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def header_only(shape):
    """An archive whose header promises more than there is."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive, archive.open("util.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return content.getvalue()


HOSTILE = {
    "no archive": (b"junk", "cannot be read"),
    "other key": (npz(other=np.zeros((1, 2, 2))), "missing"),
    "Python objects": (npz(util=np.array([[[{}, 1]]], dtype=object)), "numbers"),
    "one axis": (npz(util=np.zeros(5)), "numbers"),
    "three columns": (npz(util=np.zeros((1, 4, 3))), "numbers"),
    "nothing": (npz(util=np.zeros((0, 4, 2))), "numbers"),
    "not a number": (npz(util=np.full((1, 4, 2), np.nan)), "not finite"),
    "a promise": (header_only((4, 4, 2)), "more than there are"),
    "too large": (header_only((2**30, 288, 2)), "more than there are"),
}


@pytest.mark.parametrize(("content", "part"), HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_cannot_be_used_says_why(tmp_path, content, part):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=part):
        recorded_load(Vm(file=str(path)), 0, 0)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        recorded_load(Vm(file=str(tmp_path / "none.npz")), 0, 0)
