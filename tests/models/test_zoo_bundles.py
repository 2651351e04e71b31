"""The bundles that ship: what lies there is what the zoo would make now."""

from __future__ import annotations

import pytest

from models.gradients.build import build_artifacts
from models.graph import digest
from models.table import find_fault
from models.zoo import load_model, shipped_table
from models.zoo.bundles import SHIPPED_BUNDLES, shipped_bundle


@pytest.mark.parametrize("name", SHIPPED_BUNDLES)
def test_a_shipped_bundle_is_the_network_of_the_zoo(name):
    bundle, graph = shipped_bundle(name), load_model(name)[0]
    assert bundle is not None
    assert bundle.graph == graph, "write it anew: python -m models.zoo.ship"
    assert bundle.artifacts == build_artifacts(graph, bundle.settings.loss)
    assert bundle.table == shipped_table(name)
    assert find_fault(bundle.table, digest(graph), bundle.plan) is None


def test_others_do_not_ship_as_bundles():
    assert shipped_bundle("resnet-20") is None
