from __future__ import annotations

import numpy as np
import pytest

from models.prototypes.trust import UNKNOWN, PeerTrust


def test_a_peer_as_good_as_the_margin_allows_is_trusted_by_half():
    trust = PeerTrust(2, decay=0.9, slope=20.0, margin=0.25)
    trust.begin(0, 0.55)
    assert trust.of_peers(0.8)[0] == pytest.approx(0.5)
    assert trust.distrust(0.8)[0] == pytest.approx(1.0)


def test_a_new_peer_is_trusted_until_it_is_wrong():
    trust = PeerTrust(1, decay=0.9, slope=20.0, margin=0.25)
    trust.begin(0, 0.8)
    assert trust.of_peers(0.8)[0] > 0.99
    for _ in range(30):
        trust.learn(np.array([1]), 0)
    assert trust.of_peers(0.8)[0] < 0.01


def test_a_peer_that_says_nothing_is_not_judged():
    trust = PeerTrust(2, decay=0.9, slope=20.0, margin=0.25)
    before = trust.of_peers(0.8)
    trust.learn(np.array([UNKNOWN, 1]), 0)
    after = trust.of_peers(0.8)
    assert after[0] == before[0]
    assert after[1] < before[1]
