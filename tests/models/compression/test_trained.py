from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from models.compression.settings import CompressionSettings
from models.compression.trained import trained_entries
from models.draws import make_draw
from models.peer_settings import PeerSettings
from models.subnet import cut, scatter
from models.subnet_settings import SubnetSettings

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "fixtures" / "tiny_fleet.py")))


def bundle_with(scheme="int8", **settings):
    bundle = tiny.make_bundle()
    settings = {"compression": CompressionSettings(scheme=scheme), **settings}
    return msgspec.structs.replace(bundle, settings=msgspec.structs.replace(bundle.settings, **settings))


BUNDLE = bundle_with()
WEIGHTS = tiny.make_weights(BUNDLE)
ORDER = {"seed": 3, "round_number": 2, "weights": WEIGHTS}


def entries_cut_out(bundle, vectors, steps):
    """The entries that the sub-networks of these mini-batches hold, by cutting them out."""
    draw = make_draw(bundle.settings.subnets, bundle.plan, seed=3, round_number=2, weights=WEIGHTS)
    held = {name: np.zeros(shape, np.float32) for name, shape in bundle.graph.parameters.items()}
    for step, index in enumerate(steps):
        subnet = draw(vectors[index], step)
        ones = {name: np.ones_like(part) for name, part in cut(bundle.plan, held, subnet).items()}
        scatter(bundle.plan, held, ones, subnet)
    return held


@pytest.mark.parametrize("draw", ["random", "random-per-order", "ordered", "rolling", "importance"])
def test_the_entries_are_those_of_the_sub_networks_that_the_order_drew(draw):
    bundle = bundle_with(subnets=SubnetSettings(draw=draw))
    vectors, steps = ((2,), (3,)), (0, 1, 0)
    found = trained_entries(bundle, vectors, steps, **ORDER)
    assert found is not None
    expected = entries_cut_out(bundle, vectors, steps)
    for name, held in expected.items():
        np.testing.assert_array_equal(found[name], held > 0)
    assert not all(one.all() for one in found.values())


def test_one_mini_batch_of_the_whole_network_trains_every_entry():
    assert trained_entries(BUNDLE, ((2,), (8,)), (0, 0, 1), **ORDER) is None


def test_a_vector_that_no_mini_batch_used_changes_nothing():
    found = trained_entries(BUNDLE, ((2,), (8,)), (0, 0), **ORDER)
    assert found is not None


def test_all_entries_travel_where_nothing_is_compressed():
    assert trained_entries(bundle_with("none"), ((2,),), (0,), **ORDER) is None


def test_devices_that_mix_with_their_neighbours_report_all_of_their_weights():
    bundle = bundle_with("int8", peers=PeerSettings())
    assert bundle.settings.delta_compression.scheme == "none"
    assert trained_entries(bundle, ((2,),), (0,), **ORDER) is None
