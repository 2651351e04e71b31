from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.wire.messages import Tensors
from firmware_profiles.errors import PeerError, UserError
from models.weights import check_against, check_finite, digest, load, pack, save, unpack

SHAPES = {"conv.weight": (2, 1, 3, 3), "conv.bias": (2,), "scale": ()}


def random_weights(seed=0):
    random = np.random.default_rng(seed)
    return {name: np.asarray(random.standard_normal(shape), np.float32) for name, shape in SHAPES.items()}


def blob(**changes):
    """A good blob with one tensor's fields changed."""
    raw = msgspec.msgpack.decode(pack(random_weights()))
    raw["tensors"]["conv.bias"].update(changes)
    return msgspec.msgpack.encode(raw)


def test_unpack_gives_back_what_was_packed():
    weights = random_weights()
    found = unpack(pack(weights), SHAPES)
    assert list(found) == list(SHAPES)
    assert all(np.array_equal(found[name], weights[name]) for name in SHAPES)
    assert all(values.dtype == np.float32 and values.flags.writeable for values in found.values())


def test_the_bytes_are_those_of_the_wire():
    weights = random_weights()
    tensors = msgspec.msgpack.decode(pack(weights), type=Tensors)
    assert tensors.tensors["conv.bias"].shape == (2,)
    assert tensors.tensors["conv.bias"].data == weights["conv.bias"].tobytes()
    assert msgspec.msgpack.encode(tensors) == pack(weights)


def test_weights_that_are_not_contiguous_pack_as_their_copies_do():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert pack({"w": values.T}) == pack({"w": values.T.copy()})


def test_only_float32_is_packed():
    with pytest.raises(TypeError, match="float64"):
        pack({"w": np.zeros(2)})


HOSTILE = {
    "too few bytes": ({"data": b"\0" * 7}, "has 7 bytes, shape .2. takes 8"),
    "too many bytes": ({"data": b"\0" * 12}, "has 12 bytes"),
    "another shape": ({"shape": [1, 2]}, r"shape \[1, 2\], \[2\] is expected"),
    "a huge shape": ({"shape": [2**52, 2**52]}, "is expected"),
    "a negative shape": ({"shape": [-2]}, "not readable"),
    "a shape of more axes than there are": ({"shape": [1] * 9}, "not readable"),
    "a shape of text": ({"shape": ["2"]}, "not readable"),
    "objects": ({"dtype": "object"}, "is 'object', float32 is expected"),
    "integers": ({"dtype": "int64"}, "is 'int64', float32 is expected"),
    "a NaN": ({"data": np.array([1.0, np.nan], np.float32).tobytes()}, r"conv.bias' holds nan at \[1\]"),
    "infinity": ({"data": np.array([-np.inf, 1.0], np.float32).tobytes()}, r"conv.bias' holds -inf at \[0\]"),
    "text for data": ({"data": "12345678"}, "not readable"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_tensor_is_refused_by_name(case):
    changes, message = HOSTILE[case]
    with pytest.raises(PeerError, match=message):
        unpack(blob(**changes), SHAPES)


def test_a_missing_tensor_is_named():
    with pytest.raises(PeerError, match=r"'scale' is missing \(1 of 3 are\)"):
        unpack(pack({name: values for name, values in random_weights().items() if name != "scale"}), SHAPES)


def test_a_tensor_too_many_is_named():
    with pytest.raises(PeerError, match="'extra' is not part of the model"):
        unpack(pack({**random_weights(), "extra": np.zeros(1, np.float32)}), SHAPES)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data):
    with pytest.raises(PeerError):
        unpack(data, SHAPES)


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_mutated_blob_is_refused_or_still_has_the_right_shapes_and_finite_values(data):
    mutated = bytearray(pack(random_weights()))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        mutated = mutated[: data.draw(st.integers(0, len(mutated)))]
    try:
        found = unpack(bytes(mutated), SHAPES)
    except PeerError:
        return
    assert {name: values.shape for name, values in found.items()} == SHAPES
    assert all(np.isfinite(values).all() for values in found.values())


def test_a_deeply_nested_blob_is_refused():
    with pytest.raises(PeerError, match="not readable"):
        unpack(b"\x91" * 100_000, SHAPES)


def test_check_finite_names_the_entry():
    with pytest.raises(PeerError, match=r"'w' holds inf at \[1, 0\]"):
        check_finite({"w": np.array([[0.0, 1.0], [np.inf, 2.0]], np.float32)})


def test_check_against_refuses_another_dtype():
    with pytest.raises(PeerError, match="'scale' is float64"):
        check_against({**random_weights(), "scale": np.zeros(())}, SHAPES)


def test_check_against_refuses_another_shape():
    with pytest.raises(PeerError, match=r"'conv.bias' has shape \[3\]"):
        check_against({**random_weights(), "conv.bias": np.zeros(3, np.float32)}, SHAPES)


def test_check_against_accepts_what_is_expected():
    check_against(random_weights(), SHAPES)


def test_the_digest_does_not_depend_on_the_order_of_the_tensors():
    weights = random_weights()
    assert digest(weights) == digest(dict(reversed(weights.items())))


def test_the_digest_does_not_depend_on_the_memory_layout():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert digest({"w": np.asfortranarray(values)}) == digest({"w": values})


@pytest.mark.parametrize(
    "other",
    [
        {"w": np.zeros((2, 3), np.float32)},
        {"w": np.zeros(6, np.int32)},
        {"v": np.zeros(6, np.float32)},
        {"w": np.full(6, -0.0, np.float32)},
    ],
)
def test_the_digest_changes_with_name_shape_dtype_and_values(other):
    assert digest(other) != digest({"w": np.zeros(6, np.float32)})


def test_load_gives_back_what_was_saved(tmp_path):
    weights = random_weights()
    save(tmp_path / "w.safetensors", weights)
    found = load(tmp_path / "w.safetensors")
    assert digest(found) == digest(weights)
    assert all(values.flags.writeable for values in found.values())


def test_saving_leaves_nothing_else_behind(tmp_path):
    for seed in range(2):
        save(tmp_path / "w.safetensors", random_weights(seed))
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_save_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save(path, random_weights(0))

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("models.weights.os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save(path, random_weights(1))
    assert digest(load(path)) == digest(random_weights(0))
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@settings(deadline=None, max_examples=30)
@given(size=st.integers(0, 400))
def test_a_truncated_file_is_refused_with_its_path(tmp_path_factory, size):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save(path, random_weights())
    content = path.read_bytes()
    path.write_bytes(content[: min(size, len(content) - 1)])
    with pytest.raises(UserError, match=r"w\.safetensors cannot be used"):
        load(path)


def test_a_missing_file_is_refused_with_its_path(tmp_path):
    with pytest.raises(UserError, match=r"none.safetensors cannot be used: .*No such file"):
        load(tmp_path / "none.safetensors")


def test_a_file_of_another_dtype_is_refused(tmp_path):
    save(tmp_path / "w.safetensors", {"w": np.zeros(2, np.float64)})
    with pytest.raises(UserError, match="tensor 'w' is float64"):
        load(tmp_path / "w.safetensors")
