"""What the codec lets through and what it refuses."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.wire import codec, messages
from device_agent.wire.messages import (
    SCHEMA_VERSION,
    Ack,
    BlobRef,
    Chunk,
    Envelope,
    Rollout,
    Tensor,
    Tensors,
    Update,
)
from firmware_profiles.errors import PeerError

UP = "edgetide/v1/barn/pi-1/up"
FOLDER = Path(__file__).parents[2] / "fixtures" / "wire"
GOLDEN = [path.read_bytes() for path in sorted(FOLDER.glob("*.msgpack")) if path.name != "tensors.msgpack"]
GOLDEN_TENSORS = (FOLDER / "tensors.msgpack").read_bytes()
GOLDEN_JSON = [path.read_bytes() for path in sorted(FOLDER.glob("*.json"))]


def envelope(body, **changes):
    plain = {"schema": SCHEMA_VERSION, "run": "run-1", "sender": "pi-1", "boot_epoch": 1, "sequence": 1}
    return Envelope(**{**plain, **changes}, body=body)


def raw(body, **changes):
    """The bytes of an envelope that our own encoder would refuse to write."""
    return msgspec.msgpack.encode(envelope(body, **changes))


ACK = Ack(boot_epoch=1, sequence=1, outcome="applied")


@st.composite
def damaged(draw, originals):
    """Golden bytes, cut short, with bytes changed, and with bytes put in."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    place = draw(st.integers(0, len(data)))
    data[place:place] = draw(st.binary(max_size=6))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@settings(deadline=None, max_examples=400)
@given(damaged(GOLDEN))
def test_damaged_messages_are_read_or_refused_as_the_peers_fault(data):
    try:
        message = codec.decode(data, UP)
    except PeerError:
        return
    assert codec.decode(codec.encode(message), UP) == message


@settings(deadline=None, max_examples=300)
@given(damaged([GOLDEN_TENSORS]))
def test_damaged_tensors_are_read_or_refused_as_the_peers_fault(data):
    try:
        tensors = codec.decode_tensors(data, 10_000)
    except PeerError:
        return
    assert codec.decode_tensors(codec.encode_tensors(tensors), 10_000) == tensors


@settings(deadline=None, max_examples=300)
@given(damaged(GOLDEN_JSON), st.sampled_from(["status", "hello", "telemetry", "run"]))
def test_damaged_json_is_read_or_refused_as_the_peers_fault(data, kind):
    try:
        message = getattr(codec, f"decode_{kind}")(data)
    except PeerError:
        return
    assert codec.encode_public(message)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300), st.text(max_size=60))
def test_any_bytes_on_any_topic_are_at_most_the_peers_fault(data, topic):
    with pytest.raises(PeerError):
        codec.decode(data, topic)


@pytest.mark.parametrize(
    ("topic", "sender"),
    [
        ("edgetide/v1/barn/pi-1/up", "pi-1"),
        ("edgetide/v1/barn/pi-1/up/bulk", "pi-1"),
        ("edgetide/v1/barn/pi-1/peer/pi-2", "pi-1"),
        ("edgetide/v1/barn/pi-1/down", "coordinator"),
        ("edgetide/v1/barn/pi-1/down/bulk", "coordinator"),
        ("edgetide/v1/barn/coordinator/run", "coordinator"),
    ],
)
def test_each_topic_has_one_sender(topic, sender):
    assert codec.decode(raw(ACK, sender=sender), topic).sender == sender
    with pytest.raises(PeerError, match="only"):
        codec.decode(raw(ACK, sender="mallory"), topic)


def test_another_schema_version_is_named_before_the_body_is_looked_at():
    future = msgspec.msgpack.encode({"schema": 99, "sender": "pi-1", "body": {"type": "from-the-future"}})
    with pytest.raises(PeerError, match="speaks schema 99"):
        codec.decode(future, UP)


def test_an_unknown_message_type_is_refused():
    with pytest.raises(PeerError, match="malformed"):
        codec.decode(GOLDEN[0].replace(b"\xa3ack", b"\xa3hug"), UP)


@pytest.mark.parametrize("identity", ["Pi", "pi/1", "", "a" * 65, "pi-1\n", "pi+"])
def test_an_illegal_run_id_is_refused(identity):
    with pytest.raises(PeerError):
        codec.decode(raw(ACK, run=identity), UP)


def test_a_message_over_the_limit_is_refused_unread():
    with pytest.raises(PeerError, match="larger than 196608"):
        codec.decode(bytes(codec.MAX_MESSAGE_BYTES + 1), UP)


@pytest.mark.parametrize("prefix", [b"", b"\x81\xa2zz"])
def test_nesting_without_end_is_refused(prefix):
    with pytest.raises(PeerError):
        codec.decode(prefix + b"\x91" * 190_000, UP)


def test_json_nesting_without_end_is_refused():
    with pytest.raises(PeerError):
        codec.decode_status(b'{"zz":' + b"[" * 60_000)


@pytest.mark.parametrize(
    "header", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
)
def test_a_claimed_count_reserves_no_memory(header):
    for field in (b"\xa2zz", b"\xa4body", b"\xa7tensors"):
        tracemalloc.start()
        with pytest.raises(PeerError):
            codec.decode_tensors(b"\x81" + field + header, 10_000)
        with pytest.raises(PeerError):
            codec.decode(b"\x81" + field + header, UP)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak_bytes < 1_000_000


def test_a_text_that_is_not_utf8_is_refused():
    with pytest.raises(PeerError, match="malformed"):
        codec.decode(GOLDEN[0].replace(b"run-1", b"\xff\xff\xff\xff\xff"), UP)


UPDATE = {
    "order": 1,
    "round": 1,
    "num_samples": 1,
    "vectors": ((1,),),
    "step_vectors": (0,),
    "seed": 1,
    "delta": BlobRef(digest="0" * 64, size_bytes=1),
    "macs": 1,
    "loss_sum": 1.0,
    "busy_s": 1.0,
    "wall_s": 1.0,
}


@pytest.mark.parametrize("name", ["loss_sum", "busy_s", "wall_s"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused(name, value):
    with pytest.raises(PeerError, match=name):
        codec.decode(raw(Update(**{**UPDATE, name: value})), UP)


def test_our_own_nan_is_our_own_error():
    with pytest.raises(ValueError, match="loss_sum is nan"):
        codec.encode(envelope(Update(**{**UPDATE, "loss_sum": math.nan})))


def test_a_step_that_names_a_missing_vector_is_refused():
    with pytest.raises(PeerError, match="names vector 1 of 1"):
        codec.decode(raw(Update(**{**UPDATE, "step_vectors": (0, 1)})), UP)


def test_a_nan_in_telemetry_is_not_silently_turned_into_null():
    with pytest.raises(ValueError, match=r"telemetry\.loss is nan"):
        codec.encode_public(messages.Telemetry(device="a", boot_epoch=1, state="idle", loss=math.nan))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", '"1"'])
def test_json_numbers_that_are_none_are_refused(number):
    with pytest.raises(PeerError):
        codec.decode_telemetry(f'{{"device":"a","boot_epoch":1,"state":"idle","loss":{number}}}'.encode())


def test_no_container_of_a_message_holds_floats_which_the_check_for_nan_would_miss():
    def kinds(kind):
        yield kind
        for name in ("item_type", "key_type", "value_type"):
            if hasattr(kind, name):
                yield from kinds(getattr(kind, name))
        for inner in (*getattr(kind, "types", ()), *getattr(kind, "item_types", ())):
            yield from kinds(inner)

    structs = [Envelope, BlobRef, *messages.Body.__args__, *codec._public_decoders]
    for kind in structs:
        for field in msgspec.inspect.type_info(kind).fields:
            direct = (field.type, *getattr(field.type, "types", ()))
            nested = [inner for outer in direct for inner in kinds(outer) if inner not in direct]
            assert not any(isinstance(inner, msgspec.inspect.FloatType) for inner in nested)


def test_inline_content_must_have_its_digest():
    lie = BlobRef(digest=codec.digest_of(b"good"), size_bytes=4, data=b"evil")
    with pytest.raises(PeerError, match="SHA-256"):
        codec.decode(raw(Rollout(kind="policy", content=lie)), UP)


def test_inline_content_must_have_its_size():
    lie = BlobRef(digest=codec.digest_of(b"evil"), size_bytes=5, data=b"evil")
    with pytest.raises(PeerError, match="says 5 bytes and holds 4"):
        codec.decode(raw(Rollout(kind="policy", content=lie)), UP)


def test_small_content_is_inline_and_large_content_is_not():
    limit = codec.INLINE_BYTES
    assert codec.refer(bytes(limit)).data == bytes(limit)
    assert codec.refer(bytes(limit + 1)).data is None


def test_a_message_too_large_to_send_is_our_own_error():
    chunk = Chunk(digest="0" * 64, index=0, num_chunks=1, data=bytes(codec.MAX_MESSAGE_BYTES))
    with pytest.raises(ValueError, match="larger than"):
        codec.encode(envelope(chunk))


def test_a_device_cannot_speak_for_another_in_public():
    hello = (FOLDER / "hello.json").read_bytes()
    assert codec.decode_hello(hello, "edgetide/v1/barn/pi-1/hello").device == "pi-1"
    with pytest.raises(PeerError, match="claims to come from 'pi-1'"):
        codec.decode_hello(hello, "edgetide/v1/barn/pi-2/hello")


def test_a_cleared_retained_message_is_refused_as_empty():
    with pytest.raises(PeerError, match="status is empty"):
        codec.decode_status(b"")


def tensors_bytes(**changes):
    plain = {"dtype": "float32", "shape": [2, 3], "data": bytes(24)}
    return msgspec.msgpack.encode({"tensors": {"w": {**plain, **changes}}})


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "float64"},
        {"dtype": "object"},
        {"shape": [2, 2]},
        {"shape": [-2, -3]},
        {"shape": [2.0, 3.0]},
        {"shape": [1] * 9},
        {"shape": [0, 2**53], "data": b""},
        {"shape": [2**31, 0], "data": b""},
        {"shape": [2**32, 2**32]},
        {"data": bytes(23)},
        {"data": "text"},
        {"data": None},
    ],
)
def test_a_tensor_whose_parts_disagree_is_refused(changes):
    with pytest.raises(PeerError):
        codec.decode_tensors(tensors_bytes(**changes), 10_000)


def test_a_blob_of_tensors_over_the_callers_limit_is_refused():
    data = tensors_bytes()
    assert codec.decode_tensors(data, len(data)).tensors["w"].shape == (2, 3)
    with pytest.raises(PeerError, match="larger than"):
        codec.decode_tensors(data, len(data) - 1)


@pytest.mark.parametrize("name", ["", "a\nb", "a" * 257])
def test_a_tensor_with_an_unusable_name_is_refused(name):
    tensor = {"dtype": "int8", "shape": [1], "data": b"x"}
    with pytest.raises(PeerError):
        codec.decode_tensors(msgspec.msgpack.encode({"tensors": {name: tensor}}), 10_000)


def test_our_own_wrong_tensor_is_our_own_error():
    wrong = Tensors(tensors={"w": Tensor(dtype="float32", shape=(3,), data=struct.pack("<2f", 1, 2))})
    with pytest.raises(ValueError, match="needs 12 bytes, not 8"):
        codec.encode_tensors(wrong)


def test_the_wire_loads_neither_numpy_nor_torch():
    modules = "codec, dedupe, memory, mqtt, chunks, partial"
    check = (
        f"import sys; from device_agent.wire import {modules}; print({{'numpy', 'torch'}} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "set()"
