from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from coordinator.settings import read_compression
from coordinator.twins.simulator import simulate
from firmware_profiles.errors import UserError
from models.compression.codec import encode
from models.compression.settings import CompressionSettings
from models.compression.trained import trained_entries
from models.subnet_settings import SubnetSettings
from models.weights import pack
from models.zoo import load_model

rounds = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "rounds_fleet.py")))
Fleet, scaled, WEIGHTS = rounds.Fleet, rounds.scaled, rounds.WEIGHTS


def settings_of(scheme):
    return CompressionSettings(scheme=scheme, keep_fraction=1.0)


def fleet_with(scheme, draw="random"):
    """A fleet of one device whose updates are compressed."""
    fleet = Fleet(devices=1)
    settings = msgspec.structs.replace(
        fleet.core.bundle.settings, compression=settings_of(scheme), subnets=SubnetSettings(draw=draw)
    )
    fleet.core.bundle = msgspec.structs.replace(fleet.core.bundle, settings=settings)
    return fleet.join("a")


def moved(fleet, name):
    return fleet.commits[0].weights[name] - WEIGHTS[name]


def content_of(fleet, delta, scheme, vectors, steps):
    order = fleet.orders("a")[-1].body
    mask = trained_entries(
        fleet.core.bundle, vectors, steps, seed=order.seed, round_number=order.round, weights=WEIGHTS
    )
    return encode(delta, settings_of(scheme), seed=order.seed, mask=mask), mask


@pytest.mark.parametrize("scheme", ["float16", "int8", "top-k", "random-mask"])
def test_a_compressed_update_changes_the_model_as_its_delta_says(scheme):
    fleet = fleet_with(scheme)
    content, _ = content_of(fleet, scaled(0.25), scheme, ((8,),), (0, 0))
    fleet.update("a", content=content)
    np.testing.assert_allclose(moved(fleet, "a.weight"), 0.25, rtol=1e-3)
    assert fleet.acks() == [("a", "applied")]


@pytest.mark.parametrize("draw", ["random", "importance"])
def test_an_update_of_sub_networks_changes_the_entries_that_they_held(draw):
    fleet = fleet_with("int8", draw)
    content, mask = content_of(fleet, scaled(0.25), "int8", ((2,),), (0, 0))
    fleet.update("a", content=content, vectors=((2,),))
    assert mask is not None
    changed = np.abs(moved(fleet, "a.bias")) > 0.1
    np.testing.assert_array_equal(changed, mask["a.bias"])
    assert 2 <= changed.sum() <= 4


@pytest.mark.parametrize(
    ("scheme", "content"),
    [("int8", pack(scaled(0.1))), ("none", encode(scaled(0.1), settings_of("int8"), seed=0)), ("int8", b"?")],
    ids=["not compressed", "compressed though nobody asked", "nonsense"],
)
def test_an_update_in_another_form_than_the_run_s_is_refused(scheme, content):
    fleet = fleet_with(scheme)
    assert fleet.acks(fleet.update("a", content=content)) == [("a", "refused")]
    assert fleet.commits == []


def test_an_update_that_claims_other_sub_networks_than_it_compressed_is_refused():
    fleet = fleet_with("int8")
    content, _ = content_of(fleet, scaled(0.25), "int8", ((2,),), (0, 0))
    assert fleet.acks(fleet.update("a", content=content, vectors=((8,),))) == [("a", "refused")]


def test_a_simulated_fleet_sends_its_updates_compressed(make_scenario):
    whole, small = (simulate(make_scenario(f"compression.scheme={scheme}")) for scheme in ("none", "top-k"))
    assert (small.updates_refused, small.client_updates) == (0, whole.client_updates)
    size = 4 * sum(np.prod(shape) for shape in cnn_tiny().parameters.values())
    assert whole.bytes_sent - small.bytes_sent > 0.95 * size * small.client_updates
    assert small.weights_digest != whole.weights_digest


def cnn_tiny():
    return load_model("cnn-tiny-28", (1, 28, 28), 10)[0]


def test_an_unknown_compression_is_told_with_those_that_there_are():
    with pytest.raises(UserError, match="compression 'gzip' is unknown: choose none, float16, int8, top-k"):
        read_compression("gzip")
    assert read_compression("int8") == CompressionSettings(scheme="int8")
