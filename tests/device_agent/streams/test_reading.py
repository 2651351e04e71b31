"""Events of live streams, most of them hostile."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from device_agent.streams.reading import MAX_EVENT_BYTES, GivenIds, read_event
from firmware_profiles.errors import PeerError
from models.data.live import LiveSource

SOURCE = LiveSource("command", "x", 2, ("down", "up"))


def read(payload, source=SOURCE, number=5, ids=None):
    return read_event(payload, source, number, GivenIds() if ids is None else ids)


def told(payload, **options):
    sample = read(payload, **options)
    vector = None if sample.vector is None else sample.vector.tolist()
    return sample.number, vector, sample.label


@pytest.mark.parametrize(
    ("payload", "label"),
    [
        ("1.5,-2,up", 1),
        (b"1.5,-2,up\r\n", 1),
        (" 1.5 , -2 , up ", 1),
        ('"1.5",-2,"up"', 1),
        ("1.5,-2,0", 0),
        ("1.5,-2,1.0", 1),
        ("1.5,-2,", None),
        ("1.5,-2", None),
        ("\ufeff1.5,-2", None),
        ('{"x": [1.5, -2], "y": "up"}', 1),
        ('{"x": [1.5, -2], "y": 0}', 0),
        ('{"x": [1.5, -2], "y": 1.0}', 1),
        ('{"x": [1.5, -2], "y": null, "unit": {"x": "kW"}}', None),
        (b'{"x": [1.5, -2]}', None),
    ],
)
def test_a_line_or_an_object_is_a_sample(payload, label):
    assert told(payload) == (5, [1.5, -2.0], label)


def test_features_are_float32():
    vector = read("1,2").vector
    assert vector is not None
    assert vector.dtype == np.float32


def test_the_label_may_come_first():
    source = LiveSource("mqtt", "x", 2, ("down", "up"), label_first=True)
    assert told("up,1,2", source=source) == (5, [1.0, 2.0], 1)
    assert told(",1,2", source=source) == (5, [1.0, 2.0], None)
    assert told("1,2", source=source) == (5, [1.0, 2.0], None)


def test_a_late_label_finds_its_sample_by_the_id_that_was_given():
    ids = GivenIds()
    read('{"x": [1, 2], "id": 700}', number=3, ids=ids)
    assert told('{"id": 700, "y": "up"}', number=4, ids=ids) == (3, None, 1)


def test_an_id_that_is_given_again_means_the_newer_sample():
    ids = GivenIds()
    for number in (3, 4):
        read('{"x": [1, 2], "id": 0}', number=number, ids=ids)
    assert told('{"id": 0, "y": 1}', ids=ids) == (4, None, 1)


def test_a_sample_that_is_refused_gives_no_id():
    ids = GivenIds()
    with pytest.raises(PeerError):
        read('{"x": [1], "id": 1}', ids=ids)
    assert len(ids) == 0


def test_the_oldest_ids_are_forgotten():
    ids = GivenIds(most=2)
    for given_id in (10, 11, 12):
        ids.give(given_id, given_id - 10)
    assert (ids.number_of(11), ids.number_of(12), len(ids)) == (1, 2, 2)
    with pytest.raises(PeerError, match="id 10"):
        ids.number_of(10)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ("", "empty"),
        (b"  \n", "empty"),
        (b"\xff\xfe1,2", "UTF-8"),
        ("1,2\n3,4", "more than one line"),
        ("1", "1 features instead of 2"),
        ("1,2,up,4", "4 features instead of 2|numbers"),
        ("1,x", "numbers: .*'x'"),
        ("1,", "numbers"),
        ("1,nan", "feature 1 is nan"),
        ("1,inf,up", "feature 1 is inf"),
        ("1e16,2", "beyond 1e"),
        ("1e400,2", "feature 0 is inf"),
        ("1,2,sideways", "'sideways' is none of down, up"),
        ("1,2,2", "'2' is none of"),
        ("1,2,-1", "'-1' is none of"),
        ('1,"2', "comma separated"),
        ("x" * (MAX_EVENT_BYTES + 1), "64 KiB"),
        ("{", "JSON"),
        ('{"x": [1, 2]} {"x": [1, 2]}', "JSON"),
        ('{"x": [1]}', "1 features"),
        ('{"x": [1, NaN]}', "JSON"),
        ('{"x": [1, 1e999]}', "JSON|not finite"),
        ('{"x": [1, 1e300]}', "beyond"),
        ('{"x": [1, null]}', "JSON"),
        ('{"x": [1, "2"]}', "JSON"),
        ('{"x": "1,2"}', "JSON"),
        ('{"x": [1, 2], "y": true}', "JSON"),
        ('{"x": [1, 2], "y": [1]}', "JSON"),
        ('{"x": [1, 2], "y": 1' + "0" * 5000 + "}", "JSON|none of"),
        ('{"x": [1, 1' + "0" * 5000 + "]}", "JSON|beyond"),
        ('{"x": [1, 2], "y": 0.5}', "'0.5' is none of"),
        ('{"x": [1, 2], "y": ""}', "'' is none of"),
        ('{"x": [1, 2], "id": -1}', "JSON"),
        ('{"x": [1, 2], "id": 9223372036854775808}', "JSON"),
        ('{"x": [1, 2], "id": 1.5}', "JSON"),
        ('{"x": [1, 2], "id": "7"}', "JSON"),
        ('{"y": "up"}', '"id" and "y"'),
        ('{"id": 7}', '"id" and "y"'),
        ('{"id": 7, "y": null}', '"id" and "y"'),
        ('{"id": 7, "y": "up"}', "id 7 names no sample"),
        ("{}", '"x", or'),
        ('{"x":' + "[" * 30_000, "JSON"),
        ('{"z":' + "[" * 30_000, "JSON"),
        ('{"x": [1, 2], "y": "\\ud800"}', "JSON"),
    ],
)
def test_what_is_no_event_is_refused_with_the_reason(payload, words):
    with pytest.raises(PeerError, match=words):
        read(payload)


def test_an_error_repeats_little_of_what_is_wrong():
    with pytest.raises(PeerError) as caught:
        read("1,2," + "u" * 60_000)
    assert len(str(caught.value)) < 200


def is_sound(sample, ids):
    if sample.vector is not None:
        assert sample.vector.shape == (2,)
        assert np.isfinite(sample.vector).all()
        assert sample.number == 5
    else:
        assert sample.label is not None
    assert sample.label in {None, 0, 1}
    assert len(ids) <= 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
events = st.fixed_dictionaries(
    {},
    optional={
        "x": st.lists(st.floats() | st.integers(), min_size=1, max_size=3) | json_values,
        "y": st.sampled_from(["up", "down", 0, 1, 2]) | json_values,
        "id": st.integers(-2, 4) | json_values,
    },
)


@settings(deadline=None)
@given(
    st.binary(max_size=80)
    | st.text(max_size=80)
    | st.text(alphabet='0123456789.,-+eE_ninfa"up\0\x1c', max_size=20)
    | events.map(json.dumps)
)
@example("1,2,\x1c")
@example("\x1c")
@example("\u0661,\u0662")
def test_any_payload_is_a_sound_sample_or_refused(payload):
    ids = GivenIds(most=2)
    ids.give(0, 0)
    try:
        sample = read(payload, ids=ids)
    except PeerError as error:
        assert 0 < len(str(error)) < 300  # noqa: PT017 - a sound one is no error
    else:
        is_sound(sample, ids)
