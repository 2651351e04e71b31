"""Loading data: every kind of source, and what is said of one that cannot be used."""

import gzip
import struct
import subprocess
import sys
import wave
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_profiles.errors import UserError
from models.data.dataset import Dataset, fingerprint, load_data, match


def write_idx(path, values):
    content = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def idx_folder(tmp_path):
    for part, num in {"train": 6, "t10k": 4}.items():
        images = np.arange(num * 4, dtype=np.uint8).reshape(num, 2, 2)
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", np.arange(num, dtype=np.uint8) % 3)
    return tmp_path


def arrays(**changes):
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (8, 4, 4), dtype=np.uint8),
        "y_train": np.array([0, 1] * 4),
        "x_test": rng.integers(0, 256, (4, 4, 4), dtype=np.uint8),
        "y_test": np.array([0, 1, 0, 1]),
        **changes,
    }


def write_wav(path, values, rate_hz=8000, width=2):
    """Values [frames, channels] in -1..1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(values.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate_hz)
        if width == 1:
            file.writeframes(np.clip(values * 128 + 128, 0, 255).astype(np.uint8).tobytes())
        else:
            wide = (values * (2**31 - 1)).astype("<i4").view(np.uint8).reshape(*values.shape, 4)
            file.writeframes(wide[..., 4 - width :].tobytes())


def refused(source, *words):
    with pytest.raises(UserError) as caught:
        load_data(str(source))
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


def test_the_shipped_data_is_balanced_and_small():
    data = load_data("fashion-mnist-small")
    assert data.train.shape == (1, 28, 28)
    assert np.bincount(data.train.labels).tolist() == [800] * 10
    assert np.bincount(data.test.labels).tolist() == [200] * 10
    assert data.train.samples.nbytes == 8000 * 784


def test_shipped_training_images_are_not_in_the_test_part():
    data = load_data("fashion-mnist-small")
    trained = {image.tobytes() for image in data.train.samples}
    assert not any(image.tobytes() in trained for image in data.test.samples)


def test_a_batch_is_normalised_float32_of_the_samples_asked_for(idx_folder):
    train = load_data(str(idx_folder)).train
    inputs, labels = train.batch(np.array([2, 0]))
    assert inputs.dtype == np.float32
    assert inputs.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(inputs[0, 0], np.array([[8, 9], [10, 11]]) / 127.5 - 1, atol=1e-6)
    assert labels.tolist() == [2, 0]


def test_a_shard_does_not_hold_on_to_the_whole(idx_folder):
    shard = load_data(str(idx_folder)).train.take(np.array([1, 3]))
    assert len(shard) == 2
    assert shard.samples.base is None
    assert shard.num_classes == 3


def test_one_idx_file_leads_to_the_other_three(idx_folder):
    assert len(load_data(str(idx_folder / "t10k-labels-idx1-ubyte")).test) == 4


def test_a_truncated_idx_file_is_named(idx_folder):
    path = idx_folder / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    refused(idx_folder, str(path), "promises [4]", "Download it again")


def test_an_idx_file_cut_within_its_compression_is_named(idx_folder):
    path = idx_folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-12])
    refused(idx_folder, str(path), "truncated")


def test_an_idx_header_that_promises_terabytes_is_refused_before_reading(idx_folder):
    path = idx_folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">HBBIII", 0, 8, 3, 2**31, 1000, 1000)))
    refused(idx_folder, "GiB")


def test_a_missing_idx_file_is_named(idx_folder):
    (idx_folder / "train-labels-idx1-ubyte").unlink()
    refused(idx_folder, "train-labels", "belong together")


@settings(deadline=None, max_examples=60)
@given(content=st.binary(max_size=60))
def test_an_idx_file_of_any_bytes_ends_in_a_clear_error_or_data(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("idx")
    for part in ("train", "t10k"):
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.array([0, 1], np.uint8))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(UserError):
        load_data(str(folder))


def test_npz_images_keep_their_owners(tmp_path):
    np.savez(tmp_path / "d.npz", **arrays(owner_train=np.repeat([7, 9], 4)))
    data = load_data(str(tmp_path / "d.npz"))
    assert data.train.shape == (1, 4, 4)
    assert data.train.owner is not None
    assert data.train.owner.tolist() == [7] * 4 + [9] * 4


def test_npz_colour_images_are_turned_to_channels_first(tmp_path):
    x = np.zeros((8, 5, 6, 3), np.uint8)
    x[:, 1, 2, 0] = 255
    np.savez(tmp_path / "d.npz", **arrays(x_train=x, x_test=x[:4]))
    inputs, _ = load_data(str(tmp_path / "d.npz")).train.batch(slice(0, 1))
    assert inputs.shape == (1, 3, 5, 6)
    assert inputs[0, 0, 1, 2] == pytest.approx(1.0)


def test_npz_floats_are_taken_as_they_are(tmp_path):
    x = np.linspace(-3, 3, 24).reshape(8, 3)
    np.savez(tmp_path / "d.npz", **arrays(x_train=x, x_test=x[:4]))
    inputs, _ = load_data(str(tmp_path / "d.npz")).train.batch(slice(None))
    np.testing.assert_allclose(inputs, x, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_train": np.arange(7) % 2}, ["8 samples have 7 labels"]),
        ({"y_train": np.array([0, 1, 2, -1] * 2)}, ["labels go from -1"]),
        ({"y_train": np.array([0, 10**9] * 4)}, ["1000000000", "0..65535"]),
        ({"y_train": np.zeros(8, int)}, ["nothing to tell apart"]),
        ({"y_train": np.full(8, np.nan)}, ["fractions or NaN"]),
        ({"y_train": np.array(["cat", "dog"] * 4)}, ["class numbers"]),
        ({"y_train": np.zeros((8, 2), int)}, ["one class number a sample"]),
        (
            {"x_train": np.full((8, 4, 4), np.nan, np.float32), "x_test": np.zeros((4, 4, 4), np.float32)},
            ["sample 0"],
        ),
        ({"x_test": np.zeros((4, 5, 5), np.uint8)}, ["[1, 5, 5]", "[1, 4, 4]"]),
        ({"x_test": np.zeros((4, 4, 4), np.float32)}, ["x_test is float32"]),
        ({"x_train": np.zeros((0, 4, 4), np.uint8), "y_train": np.zeros(0, int)}, ["no samples"]),
        ({"x_train": np.array([{}] * 8)}, ["Python objects"]),
        ({"x_train": np.uint8(3)}, ["single number"]),
        ({"x_train": np.full((8, 2), 1e300), "x_test": np.zeros((4, 2))}, ["finite float32"]),
        ({"x_train": np.full((8, 2), 1j), "x_test": np.full((4, 2), 1j)}, ["complex128"]),
        ({"owner_train": np.zeros(3, int)}, ["3 owners"]),
        ({"owner_train": np.array(["ann"] * 8)}, ["owner_train"]),
    ],
)
def test_an_npz_file_that_is_no_data_set_says_why(tmp_path, changes, words):
    path = tmp_path / "d.npz"
    np.savez(path, **arrays(**changes))
    refused(path, str(path), *words)


def test_a_missing_npz_array_is_named_with_those_present(tmp_path):
    np.savez(tmp_path / "d.npz", x_train=np.zeros((2, 2)), labels=np.zeros(2))
    refused(tmp_path / "d.npz", "'y_train'", "labels, x_train")


def test_an_npz_header_that_promises_more_than_the_file_is_refused(tmp_path):
    header = (
        b"\x93NUMPY\x01\x00\x46\x00"
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999,), }".ljust(69)
        + b"\n"
    )
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for key in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{key}.npy", header + b"\0" * 8)
    refused(path, "x_train", "shorter than its header")


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_damaged_npz_file_never_ends_in_anything_but_a_clear_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("npz") / "d.npz"
    np.savez_compressed(path, **arrays())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        load_data(str(path))
    except UserError as error:
        assert str(path) in str(error)  # noqa: PT017 - a change that hurts nothing loads


def test_csv_rows_are_windowed_in_time_order_and_the_last_part_is_the_test(tmp_path):
    path = tmp_path / "walk.csv"
    path.write_text("a,b,label\n" + "".join(f"{t},{t % 3},{t // 3 % 2}\n" for t in range(20)))
    data = load_data(f"{path}?window=4&stride=2&test=0.3")
    assert data.train.shape == (2, 4)
    assert len(data.train) == 6  # rows 0..13
    assert len(data.test) == 2  # rows 14..19
    assert data.train.labels.tolist() == [(3 + 2 * i) // 3 % 2 for i in range(6)]
    inputs, _ = data.train.batch(slice(None))
    steps = np.diff(inputs[:, 0], axis=1)
    assert np.all(steps > 0)
    assert inputs[1, 0, 0] == inputs[0, 0, 2]


def test_csv_features_are_standardised_by_the_training_part_alone(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("".join(f"{value},{t % 2}\n" for t, value in enumerate([1, 3] * 4 + [1001, 1003])))
    data = load_data(str(path))
    inputs, _ = data.train.batch(slice(None))
    assert inputs.mean() == pytest.approx(0, abs=1e-6)
    assert inputs.std() == pytest.approx(1, abs=1e-6)
    assert data.test.batch(slice(None))[0].min() == pytest.approx(999)


def test_csv_label_column_is_found_by_name_and_class_names_are_numbered(tmp_path):
    path = tmp_path / "d.csv.gz"
    path.write_bytes(gzip.compress(b"move,x,y\nup,1,2\ndown,2,1\n" * 1 + b"up,1,1\ndown,0,0\nup,2,2\n"))
    data = load_data(f"{path}?label=move")
    assert data.class_names == ("down", "up")
    assert data.train.labels.tolist() == [1, 0, 1, 0]
    assert load_data(f"{path}?label=move&classes=up,still,down").train.labels.tolist() == [0, 2, 0, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2,0\n1,0\n", ["line 2", "2 columns"]),
        ("1,2,0\n1,,0\n", ["line 2", "''"]),
        ("1,2,0\n1,nan,0\n", ["line 2", "'nan'"]),
        ("1,2,0\n1,1e39,0\n", ["line 2", "'1e39'"]),
        ("1,2,0\n1,2,\n", ["line 2", "label is empty"]),
        ("", ["no rows"]),
        ("a,b,label\n", ["no rows"]),
        ("7\n8\n", ["one column"]),
        ("1,2,0\n", ["1 rows"]),
        ("1,2,0\n1,2,0\n3,4,0\n", ["nothing to tell apart"]),
    ],
)
def test_a_csv_file_that_is_no_data_set_says_line_and_reason(tmp_path, text, words):
    path = tmp_path / "d.csv"
    path.write_text(text)
    refused(path, str(path), *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("window=0", ["window=0"]),
        ("windwo=3", ["'windwo'", "did you mean 'window'"]),
        ("label=z", ["'z'", "a, label"]),
        ("test=1", ["between 0 and 1"]),
        ("window", ["?key=value"]),
        ("classes=0", ["class '1'"]),
    ],
)
def test_a_wrong_data_option_says_what_is_known(tmp_path, options, words):
    path = tmp_path / "d.csv"
    path.write_text("a,label\n" + "1,0\n2,1\n" * 5)
    refused(f"{path}?{options}", *words)


@pytest.mark.parametrize(("width", "tolerance"), [(1, 0.02), (2, 1e-3), (3, 1e-3), (4, 1e-3)])
def test_wav_clips_of_every_depth_sound_the_same(tmp_path, width, tolerance):
    tone = 0.5 * np.sin(2 * np.pi * 200 * np.arange(4000) / 8000)[:, None]
    for name in ("a", "b"):
        for clip in range(8):
            write_wav(tmp_path / name / f"{clip}.wav", tone, width=width)
    inputs, _ = load_data(str(tmp_path)).train.batch(slice(0, 1))
    assert inputs.shape == (1, 1, 8000)
    np.testing.assert_allclose(inputs[0, 0, :4000], tone[:, 0], atol=tolerance)
    assert not inputs[0, 0, 4000:].any()


def test_wav_clips_are_brought_to_one_rate_without_folding_high_tones_back(tmp_path):
    seconds = np.arange(16000) / 16000
    low, high = np.sin(2 * np.pi * 500 * seconds), np.sin(2 * np.pi * 7500 * seconds)
    for name, values in {"a": low, "b": high}.items():
        for clip in range(8):
            write_wav(tmp_path / name / f"{clip}.wav", 0.5 * np.stack([values, values], 1), rate_hz=16000)
    train = load_data(f"{tmp_path}?rate_hz=8000&seconds=0.5").train
    inputs, labels = train.batch(slice(None))
    assert inputs.shape[1:] == (1, 4000)
    expected = 0.5 * np.sin(2 * np.pi * 500 * np.arange(4000) / 8000)
    middle = slice(200, 3800)
    np.testing.assert_allclose(inputs[labels == 0][0, 0, middle], expected[middle], atol=0.02)
    assert np.abs(inputs[labels == 1][0, 0, middle]).max() < 0.02


def test_a_wav_file_that_is_none_is_named(tmp_path):
    for clip in range(6):
        write_wav(tmp_path / "a" / f"{clip}.wav", np.zeros((10, 1)))
    path = tmp_path / "b" / "0.wav"
    path.parent.mkdir()
    path.write_bytes(b"RIFF\xff\xff\xff\xffWAVEnonsense")
    refused(tmp_path, str(path), "16-bit PCM")


def test_a_wav_file_without_sound_is_named(tmp_path):
    for clip in range(6):
        write_wav(tmp_path / "a" / f"{clip}.wav", np.zeros((10, 1)))
    write_wav(tmp_path / "b" / "0.wav", np.zeros((0, 1)))
    refused(tmp_path, "0.wav", "no sound")


@pytest.fixture
def image_folder(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for number, name in enumerate(["cat", "dog"]):
        (tmp_path / name).mkdir()
        for shot in range(10):
            pixels = np.full((4, 6, 3), 40 * number + shot, np.uint8)
            image.fromarray(pixels).save(tmp_path / name / f"{shot}.png")
    return tmp_path


def test_images_by_class_become_channels_first_bytes(image_folder):
    data = load_data(str(image_folder))
    assert data.class_names == ("cat", "dog")
    assert data.train.samples.dtype == np.uint8
    assert data.train.shape == (3, 4, 6)
    assert len(data.train) + len(data.test) == 20
    assert np.all((data.train.samples[:, 0, 0, 0] >= 40) == data.train.labels)


def test_a_file_stays_in_its_part_when_others_are_added(image_folder):
    image = pytest.importorskip("PIL.Image")
    tested = {sample.tobytes() for sample in load_data(str(image_folder)).test.samples}
    for shot in range(10, 30):
        image.fromarray(np.full((4, 6, 3), 100 + shot, np.uint8)).save(image_folder / "cat" / f"{shot}.png")
    trained = {sample.tobytes() for sample in load_data(str(image_folder)).train.samples}
    assert not tested & trained


def test_a_list_of_classes_numbers_them_alike_where_one_is_missing(image_folder):
    (image_folder / "classes.txt").write_text("bird\ndog\ncat\n")
    data = load_data(str(image_folder))
    assert set(data.train.labels.tolist()) == {1, 2}
    assert data.train.num_classes == 3


def test_train_and_test_folders_are_kept_apart(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for part, shade in {"train": 10, "test": 200}.items():
        for name in ("0", "1"):
            (tmp_path / part / name).mkdir(parents=True)
            image.fromarray(np.full((4, 4), shade, np.uint8)).save(tmp_path / part / name / "a.png")
    data = load_data(str(tmp_path))
    assert data.class_names is None
    assert set(data.train.samples.ravel()) == {10}
    assert set(data.test.samples.ravel()) == {200}


def test_images_of_different_sizes_ask_for_a_size(image_folder):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(image_folder / "cat" / "odd.png")
    refused(image_folder, "?size=")
    assert load_data(f"{image_folder}?size=8&colour=grey").train.shape == (1, 8, 8)


def test_a_damaged_image_is_named(image_folder):
    path = image_folder / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:40])
    refused(image_folder, str(path), "Replace the file")


def test_without_pillow_the_extra_is_named(image_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    refused(image_folder, "edgetide[images]")


def test_what_is_not_there_is_said_with_the_nearest_name():
    refused("fashion-mnist-smal", "Did you mean 'fashion-mnist-small'?")


@pytest.mark.parametrize("path", ["\0", "x" * 5000, "~nosuchuser/x", "", "no/such?window=3"])
def test_a_path_that_cannot_be_is_not_there(path):
    refused(path, "There is no data")


def test_an_empty_folder_says_how_to_sort_the_files(tmp_path):
    refused(tmp_path, "<class>/<file>")


def test_a_file_of_another_kind_says_what_is_read(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    refused(tmp_path / "a.txt", ".npz")


def test_a_data_set_with_a_label_out_of_range_cannot_be_made():
    with pytest.raises(ValueError, match="label 3 of sample 1"):
        Dataset(np.zeros((2, 3), np.float32), np.array([0, 3]), 3)


def test_matching_adds_axes_of_length_one(idx_folder):
    data = load_data(str(idx_folder))
    assert match(data, (1, 1, 2, 2), 10).train.shape == (1, 1, 2, 2)
    assert match(data, (1, 2, 2), 10).test.num_classes == 10


def test_matching_refuses_another_shape_or_too_few_outputs(idx_folder):
    data = load_data(str(idx_folder))
    with pytest.raises(UserError, match=r"\[1, 2, 2\].*\[4, 1\]"):
        match(data, (4, 1), 10)
    with pytest.raises(UserError, match="3 classes"):
        match(data, (1, 2, 2), 2)


def test_a_fingerprint_changes_when_a_file_comes_and_not_otherwise(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"1")
    before = fingerprint(str(tmp_path))
    assert fingerprint(str(tmp_path)) == before
    (tmp_path / "cat" / "2.png").write_bytes(b"2")
    assert fingerprint(str(tmp_path)) != before


def test_loading_numbers_does_not_load_pillow_or_torch():
    code = "import sys, models.data.dataset; print({'PIL', 'torch', 'optuna'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
