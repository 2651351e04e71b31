"""Whispers as bytes: what goes in comes out, and what cannot be read is the peer's fault.

`python tests/device_agent/wire/test_whispers.py` writes the golden bytes anew, after SCHEMA_VERSION went up.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.wire.codec import MAX_MESSAGE_BYTES
from device_agent.wire.whispers import (
    MAX_BYTES,
    SCHEMA_VERSION,
    Changed,
    Demand,
    Held,
    News,
    Said,
    Whisper,
    Whole,
    decode_whisper,
    encode_whisper,
    mark_of,
)
from firmware_profiles.errors import PeerError
from models.prototypes.packing import pack
from models.prototypes.prototype_set import of_samples
from models.prototypes.units import Units

FOLDER = Path(__file__).parents[2] / "fixtures" / "wire"
TOPIC = "edgetide/v1/barn/pi-1/peer/all"
SAID = {
    "news": News(b"\x10\x01\x00\xff"),
    "whole": Whole(7, b"\x12\x00"),
    "held": Held(7),
    "demand": Demand(wants=False),
    "changed": Changed(7, 9, b"\x01\x00"),
}


def whisper(said, **changes):
    plain = {"schema": SCHEMA_VERSION, "run": mark_of("run-1"), "boot_epoch": 5, "sequence": 10}
    return Whisper(**{**plain, "age_ms": 1500, **changes}, said=said)


def golden(name):
    """A name of their own: the other golden messages have the envelope, which these go without."""
    return FOLDER / f"{name}.whisper"


def test_every_kind_has_golden_bytes():
    assert {kind.__struct_config__.tag for kind in Said.__args__} == {
        said.__struct_config__.tag for said in SAID.values()
    }


@pytest.mark.parametrize("name", SAID)
def test_a_whisper_has_its_golden_bytes(name):
    assert encode_whisper(whisper(SAID[name])) == golden(name).read_bytes()


@pytest.mark.parametrize("name", SAID)
def test_golden_bytes_are_read_as_the_whisper_they_were(name):
    assert decode_whisper(golden(name).read_bytes(), TOPIC) == whisper(SAID[name])


def test_the_mark_of_a_run_is_the_same_everywhere():
    assert mark_of("run-1") == 0x2A6CA8E3


numbers = st.integers(0, 2**53)
versions = st.integers(0, 2**48 - 1)
said = st.one_of(
    st.builds(News, st.binary(max_size=100)),
    st.builds(Whole, versions, st.binary(max_size=100)),
    st.builds(Held, versions),
    st.builds(Demand, st.booleans()),
    st.builds(Changed, versions, versions, st.binary(max_size=100)),
)
whispers = st.builds(
    Whisper, st.just(SCHEMA_VERSION), st.integers(0, 2**32 - 1), numbers, numbers, numbers, said
)


@settings(deadline=None, derandomize=True)
@given(whispers)
def test_what_is_encoded_comes_back(one):
    assert decode_whisper(encode_whisper(one), TOPIC) == one


@st.composite
def damaged(draw):
    """A whisper cut short, with bytes changed, and with bytes put in."""
    data = bytearray(encode_whisper(draw(whispers)))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    place = draw(st.integers(0, len(data)))
    data[place:place] = draw(st.binary(max_size=6))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.one_of(damaged(), st.binary(max_size=64)))
def test_hostile_bytes_are_read_or_refused_as_the_peers_fault(data):
    try:
        found = decode_whisper(data, TOPIC)
    except PeerError:
        return
    assert decode_whisper(encode_whisper(found), TOPIC) == found


@pytest.mark.parametrize(
    "bad",
    [
        whisper(Held(2**48)),
        whisper(Held(-1)),
        whisper(Held(1), run=2**32),
        whisper(Held(1), sequence=-1),
        whisper(Held(1), age_ms=2**53 + 1),
        whisper(News(bytes(MAX_BYTES + 1))),
    ],
)
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(PeerError, match="no message of prototypes"):
        decode_whisper(encode_whisper(bad), TOPIC)


def test_the_largest_whisper_is_a_message_that_may_be_sent():
    last, content = 2**48 - 1, bytes(MAX_BYTES)
    for largest in (Whole(last, content), Changed(last, last, content)):
        found = Whisper(SCHEMA_VERSION, 2**32 - 1, 2**53, 2**53, 2**53, largest)
        assert len(encode_whisper(found)) <= MAX_MESSAGE_BYTES


def test_another_version_of_the_protocol_is_named():
    data = encode_whisper(whisper(Held(1), schema=SCHEMA_VERSION + 1))
    with pytest.raises(PeerError, match=f"version {SCHEMA_VERSION + 1} of the protocol"):
        decode_whisper(data, TOPIC)


def test_fields_of_a_newer_peer_are_ignored():
    plain = msgspec.msgpack.decode(encode_whisper(whisper(Held(7))))
    plain[-1].append("since when")
    plain.append({"colour": "blue"})
    assert decode_whisper(msgspec.msgpack.encode(plain), TOPIC) == whisper(Held(7))


def test_one_prototype_of_six_features_is_told_in_40_bytes_at_most():
    units = Units(np.zeros(6, np.float32), np.ones(6, np.float32))
    packed = pack(
        of_samples(np.ones((1, 6)), [1]),
        2,
        units=units,
        with_units=False,
        with_weights=False,
        with_ages=False,
    )
    assert len(packed) == 18
    late = whisper(News(packed), boot_epoch=1000, sequence=100_000, age_ms=60_000)
    assert len(encode_whisper(late)) <= 40


if __name__ == "__main__":
    for kind, content in SAID.items():
        golden(kind).write_bytes(encode_whisper(whisper(content)))
