"""Exchanges of which not every bit travels: the mean of all weights stays where it is all the same."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from device_agent.peers.snapshots import OwnWeights
from device_agent.wire.codec import decode, refer
from device_agent.wire.messages import Answer, Offer
from models.compression.codec import encode
from models.compression.settings import CompressionSettings

peer_fleet = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "fixtures" / "peer_fleet.py")))
Fleet, BARRIER_S, offer_from = peer_fleet.Fleet, peer_fleet.BARRIER_S, peer_fleet.offer_from

FORMS = [
    {"scheme": "float16"},
    {"scheme": "int8", "block": 16},
    {"scheme": "random-mask", "keep_fraction": 0.25},
]


def random_weights(fleet, seed):
    values = np.random.default_rng(seed)
    return {
        name: values.normal(0.0, 0.1, tensor.shape).astype(np.float32)
        for name, tensor in fleet.weights.items()
    }


def flat(weights):
    return np.concatenate([weights[name].reshape(-1) for name in sorted(weights)])


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form["scheme"])
def test_the_mean_stays_and_devices_come_together(form):
    fleet = Fleet("abcd", compression=form)
    starts = {name: random_weights(fleet, number) for number, name in enumerate("abcd")}
    before = np.stack([flat(starts[name]) for name in "abcd"])
    fleet.begin(**starts)
    fleet.clock.advance(40.5 * BARRIER_S)
    after = np.stack([flat(fleet.session(name).weights) for name in "abcd"])
    np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0), atol=1e-6)
    assert after.std(axis=0).mean() < 0.05 * before.std(axis=0).mean()


def test_both_sides_have_the_same_view_of_what_was_said():
    settings = CompressionSettings(scheme="int8")
    weights = {"w": np.linspace(-0.3, 0.7, 40, dtype=np.float32)}
    told = OwnWeights(weights, settings).snapshot(0, nonce=7)
    assert not np.array_equal(told.weights["w"], weights["w"])
    np.testing.assert_allclose(told.weights["w"], weights["w"], atol=0.01)


def test_a_random_mask_is_drawn_anew_for_each_exchange_and_alike_on_both_sides():
    settings = CompressionSettings(scheme="random-mask", keep_fraction=0.25)
    one, other = (OwnWeights({"w": np.full(40, value, np.float32)}, settings) for value in (1.0, 2.0))
    kept = [np.flatnonzero(own.snapshot(0, nonce).weights["w"]) for own in (one, other) for nonce in (5, 6)]
    assert len(kept[0]) == 10
    np.testing.assert_array_equal(kept[0], kept[2])
    np.testing.assert_array_equal(kept[1], kept[3])
    assert set(kept[0]) != set(kept[1])


def test_frozen_weights_are_told_whatever_becomes_of_the_own():
    own = OwnWeights({"w": np.zeros(4, np.float32)})
    own.freeze(3)
    own.set({"w": np.ones(4, np.float32)})
    told = own.snapshot(4, nonce=0)
    assert told.step == 3
    assert not told.weights["w"].any()
    own.thaw()
    assert own.snapshot(4, nonce=0).weights["w"].all()


def test_fewer_bytes_travel():
    sizes = {}
    for form in [{}, *FORMS]:
        fleet = Fleet("ab", compression=form)
        fleet.begin(a=random_weights(fleet, 1))
        fleet.clock.advance(1.5 * BARRIER_S)
        bodies = (decode(payload, topic).body for topic, payload in fleet.said)
        sizes[form.get("scheme")] = max(one.weights.size_bytes for one in bodies if isinstance(one, Offer))
    assert sizes["float16"] < 0.7 * sizes[None]
    assert sizes["int8"] < 0.6 * sizes[None]
    assert sizes["random-mask"] < 0.4 * sizes[None]


@pytest.mark.parametrize(
    ("form", "sent", "shift", "is_answered"),
    [
        ("int8", {"scheme": "int8"}, 1.0, True),
        ("int8", {"scheme": "float16"}, 1.0, False),
        ("random-mask", {"scheme": "random-mask", "keep_fraction": 0.25}, 1.0, True),
        ("random-mask", {"scheme": "random-mask", "keep_fraction": 0.5}, 1.0, False),
        ("random-mask", {"scheme": "random-mask", "keep_fraction": 0.25}, 30.0, False),
    ],
)
def test_weights_in_another_form_than_the_runs_or_far_too_large_are_refused(form, sent, shift, is_answered):
    fleet = Fleet("a", compression=next(one for one in FORMS if one["scheme"] == form))
    fleet.order("a", neighbours=["b"])
    fleet.clock.advance(0.0)
    offer_from(fleet, weights=refer(encode(fleet.shifted(shift), CompressionSettings(**sent), seed=5)))
    fleet.clock.advance(0.5 * BARRIER_S)
    answers = [decode(payload, topic).body for topic, payload in fleet.said]
    assert any(isinstance(one, Answer) for one in answers) == is_answered
