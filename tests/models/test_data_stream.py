"""Stored data as a stream."""

import numpy as np
import pytest

from firmware_profiles.errors import UserError
from models.data.dataset import load_data
from models.data.stream import load_stream


@pytest.fixture
def walk(tmp_path):
    path = tmp_path / "walk.csv"
    path.write_text("a,b,label\n" + "".join(f"{t * 10},{t % 3},{t // 3 % 2}\n" for t in range(20)))
    return path


def refused(text, *words):
    with pytest.raises(UserError) as caught:
        load_stream(str(text))
    for word in words:
        assert word in str(caught.value)


def test_a_csv_file_gives_all_rows_in_order_in_its_own_units(walk):
    stream = load_stream(str(walk))
    inputs, labels = stream.dataset.batch(slice(None))
    assert inputs.dtype == np.float32
    assert inputs.tolist() == [[t * 10, t % 3] for t in range(20)]
    assert labels.tolist() == [t // 3 % 2 for t in range(20)]
    assert (stream.label_delay, stream.class_names) == (0, None)


def test_windows_of_a_stream_bear_the_label_of_their_last_row(walk):
    stream = load_stream(f"{walk}?window=4&stride=8")
    assert stream.dataset.shape == (2, 4)
    assert stream.dataset.samples[:, 0, 0].tolist() == [0, 80, 160]
    assert stream.dataset.samples[1, 0].tolist() == [80, 90, 100, 110]
    assert stream.dataset.labels.tolist() == [3 // 3 % 2, 11 // 3 % 2, 19 // 3 % 2]


def test_names_of_classes_are_numbered_as_given(tmp_path):
    path = tmp_path / "moves.csv"
    path.write_text("move,x\nup,1\ndown,2\nup,3\n")
    stream = load_stream(f"{path}?label=move&classes=up,still,down")
    assert stream.dataset.labels.tolist() == [0, 2, 0]
    assert stream.dataset.num_classes == 3
    assert stream.class_names == ("up", "still", "down")


def test_the_delay_of_labels_is_an_option_that_training_ignores(walk):
    assert load_stream(f"{walk}?delay=48").label_delay == 48
    np.testing.assert_array_equal(
        load_data(f"{walk}?delay=48").train.samples, load_data(str(walk)).train.samples
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("test=0.2", ["test=", "predicted before it is learned"]),
        ("delay=-1", ["delay=-1", "0 to"]),
        ("delay=soon", ["delay=soon"]),
        ("window=30", ["20 rows", "30"]),
        ("dleay=3", ["did you mean 'delay'"]),
        ("label=c", ["no column 'c'"]),
    ],
)
def test_what_makes_no_stream_is_refused_with_the_reason(walk, options, words):
    refused(f"{walk}?{options}", *words)


def test_a_stream_of_one_class_is_refused(tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("1,0\n2,0\n")
    refused(path, "nothing to tell apart")


def test_a_value_that_no_learner_takes_is_refused(tmp_path):
    path = tmp_path / "large.csv"
    path.write_text("1,0\n1e20,1\n")
    refused(path, "beyond 1e+15")


def test_what_is_not_there_is_said(tmp_path):
    refused(tmp_path / "nowhere.csv", "There is no data", "nowhere.csv")


def test_another_kind_gives_its_training_part_then_its_test_part(tmp_path):
    path = tmp_path / "parts.npz"
    x, y = np.arange(24, dtype=np.uint8).reshape(6, 2, 2), np.array([0, 1, 0, 1, 0, 1])
    np.savez(path, x_train=x[:4], y_train=y[:4], x_test=x[4:], y_test=y[4:])
    stream, data = load_stream(str(path)), load_data(str(path))
    assert stream.dataset.samples.tolist() == x[:, None].tolist()
    assert stream.dataset.labels.tolist() == y.tolist()
    assert (stream.dataset.scale, stream.dataset.offset) == (data.train.scale, data.train.offset)
    assert stream.label_delay == 0


def test_the_shipped_data_is_a_stream_too():
    stream = load_stream("fashion-mnist-small")
    assert len(stream.dataset) == 10_000
    assert stream.dataset.samples.dtype == np.uint8
