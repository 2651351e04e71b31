from __future__ import annotations

import numpy as np
import pytest

from models.prototypes.peer_table import PeerTable, of_saved


def table(*peers, most=2):
    found = PeerTable(most)
    for peer in peers:
        found.heard(peer)
    return found


def test_a_peer_keeps_its_place_and_a_free_one_is_given_again():
    found = table("b", "a", "b")
    assert found.places() == {"a": 1, "b": 0}
    assert found.drop("b") == 0
    assert found.heard("c") == 0
    assert found.drop("b") is None


def test_only_in_a_full_table_somebody_has_to_make_room():
    assert table("a").longest_silent() is None
    assert table("a", "b", "a").longest_silent() == "b"


def test_a_saved_table_keeps_places_and_order():
    found = of_saved(table("ü", "b", "ü").saved(), 2)
    assert found.places() == {"b": 1, "ü": 0}
    assert found.longest_silent() == "b"


@pytest.mark.parametrize(
    "content", [b"[[", b'[["a",0],["b",0]]', b'[["a",2]]', b'[["a",0],["a",1]]', b"\xff"]
)
def test_what_is_no_table_is_refused(content):
    with pytest.raises(ValueError, match="peers of a saved state"):
        of_saved(np.frombuffer(content, np.uint8), 2)
