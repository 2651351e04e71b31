"""The bytes of every message, frozen: a change here breaks every device in the field.

`python tests/device_agent/wire/test_golden.py` writes the files anew, after SCHEMA_VERSION went up.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from device_agent.wire import codec, messages
from device_agent.wire.messages import BlobRef, Envelope, Tensor, Tensors

FOLDER = Path(__file__).parents[2] / "fixtures" / "wire"
UP = "edgetide/v1/barn/pi-1/up"
DIGEST = "ab" * 32
SMALL = codec.refer(b"small")
LARGE = BlobRef(digest=DIGEST, size_bytes=1_130_000)

BODIES = {
    "order": messages.Order(
        order=7,
        round=3,
        strategy="distreal",
        bundle=SMALL,
        weights=LARGE,
        num_batches=20,
        deadline_s=12.5,
        seed=42,
        peering=messages.Peering(neighbours=(messages.Neighbour(device="pi-2", degree=3),), epoch=4),
    ),
    "update": messages.Update(
        order=7,
        round=3,
        num_samples=640,
        vectors=((8, 16), (4, 8)),
        step_vectors=(0, 1, 1),
        seed=42,
        delta=LARGE,
        macs=123_456_789,
        loss_sum=1.5,
        busy_s=2.0,
        wall_s=4.25,
        peers=messages.PeerReport(
            step=40,
            exchanges={"pi-2": messages.Exchanges(begun=9, completed=7, taken_back=1, one_sided=1)},
            staleness=(3, 1),
            discarded=2,
            sketch=(0.5, -1.0),
            bytes_sent=1000,
        ),
    ),
    "decline": messages.Decline(order=7, round=3, reason="battery 12 % is below min_battery 20 %"),
    "ack": messages.Ack(boot_epoch=5, sequence=9, outcome="applied"),
    "rollout": messages.Rollout(kind="policy", content=SMALL),
    "rolled-out": messages.RolledOut(kind="policy", digest=DIGEST, in_force=False, reason="no such key"),
    "offer": messages.Offer(nonce=17, degree=3, step=40, weights=SMALL),
    "answer": messages.Answer(nonce=17, degree=2, step=38, weights=LARGE),
    "settle": messages.Settle(nonce=17),
    "settled": messages.Settled(nonce=17, applied=True),
    "chunk-request": messages.ChunkRequest(digest=DIGEST, index=3),
    "chunk": messages.Chunk(digest=DIGEST, index=3, num_chunks=18, data=b"\x00\x01\xff"),
}
ENVELOPES = {
    name: Envelope(
        schema=messages.SCHEMA_VERSION,
        run="run-1",
        sender="pi-1",
        boot_epoch=5,
        sequence=10,
        body=body,
        base_version=2,
        base_digest=DIGEST,
        age_ms=1500,
    )
    for name, body in BODIES.items()
}
PUBLIC = {
    "status": messages.Status(online=False, boot_epoch=5, reason="lost"),
    "hello": messages.Hello(
        device="pi-1",
        boot_epoch=5,
        version="0.1.0",
        profile="raspberry-pi-4",
        engine="onnx",
        num_cores=4,
        memory_total_bytes=None,
        num_samples=1000,
        input_shape=(1, 28, 28),
        num_classes=10,
        cpu_share_fraction=0.5,
    ),
    "telemetry": messages.Telemetry(
        device="pi-1", boot_epoch=5, state="training", round=3, vector=(4, 8), macs_fraction=0.25, loss=1.5
    ),
    "run": messages.Run(
        run="run-1", strategy="distreal", state="training", round=3, num_rounds=8, model_version=2
    ),
}
TENSORS = Tensors(
    tensors={
        "conv.weight": Tensor(dtype="float32", shape=(2, 1), data=bytes(range(8))),
        "steps": Tensor(dtype="int64", shape=(), data=bytes(8)),
    }
)
READ_PUBLIC = {
    "status": codec.decode_status,
    "hello": codec.decode_hello,
    "telemetry": codec.decode_telemetry,
    "run": codec.decode_run,
}


def test_every_message_type_has_a_golden_file():
    assert {body.__struct_config__.tag for body in messages.Body.__args__} == set(BODIES)


@pytest.mark.parametrize("name", BODIES)
def test_a_machine_message_has_its_golden_bytes(name):
    assert codec.encode(ENVELOPES[name]) == (FOLDER / f"{name}.msgpack").read_bytes()


@pytest.mark.parametrize("name", BODIES)
def test_golden_bytes_are_read_as_the_message_they_were(name):
    assert codec.decode((FOLDER / f"{name}.msgpack").read_bytes(), UP) == ENVELOPES[name]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_message_has_its_golden_text(name):
    assert codec.encode_public(PUBLIC[name]) == (FOLDER / f"{name}.json").read_bytes()


@pytest.mark.parametrize("name", PUBLIC)
def test_golden_text_is_read_as_the_message_it_was(name):
    assert READ_PUBLIC[name]((FOLDER / f"{name}.json").read_bytes()) == PUBLIC[name]


def test_tensors_have_their_golden_bytes():
    assert codec.encode_tensors(TENSORS) == (FOLDER / "tensors.msgpack").read_bytes()


def test_golden_tensors_are_read_as_they_were():
    assert codec.decode_tensors((FOLDER / "tensors.msgpack").read_bytes(), 1000) == TENSORS


def test_fields_of_a_newer_peer_are_ignored_in_machine_messages():
    assert codec.decode((FOLDER / "newer-ack.msgpack").read_bytes(), UP) == ENVELOPES["ack"]


def test_fields_of_a_newer_peer_are_ignored_in_public_messages():
    assert codec.decode_status((FOLDER / "newer-status.json").read_bytes()) == PUBLIC["status"]


def _files():
    newer = msgspec.to_builtins(ENVELOPES["ack"], builtin_types=(bytes,))
    newer["priority"] = {"class": [1, 2]}
    newer["body"]["colour"] = "blue"
    yield "newer-ack.msgpack", msgspec.msgpack.encode(newer)
    yield "newer-status.json", msgspec.json.encode({**msgspec.to_builtins(PUBLIC["status"]), "uptime_s": 5})
    yield "tensors.msgpack", codec.encode_tensors(TENSORS)
    for name, envelope in ENVELOPES.items():
        yield f"{name}.msgpack", codec.encode(envelope)
    for name, message in PUBLIC.items():
        yield f"{name}.json", codec.encode_public(message)


if __name__ == "__main__":
    for file_name, content in _files():
        (FOLDER / file_name).write_bytes(content)
