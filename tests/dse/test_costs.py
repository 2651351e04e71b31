"""What a vector costs on a board."""

from importlib import resources

import pytest

from dse.costs import Price, Pricing, describe, make_price
from firmware_profiles.errors import UserError
from models.widths import plan_widths
from tests.fixtures.two_layers import TWO_LAYERS

PLAN = plan_widths(TWO_LAYERS)
# Forward 6 x 12 + 12 x 3, twice the first layer (no input gradient), three times the last.
MACS = 2 * 72 + 3 * 36


def price(**fields):
    return Price(**{"kind": "seconds", "profile": "board", "engine": "onnx", **fields})


def test_macs_are_those_of_one_sample_and_name_no_seconds():
    costs = Pricing(TWO_LAYERS, PLAN, 10, Price())((12,))
    assert (costs.macs, costs.cost, costs.core_seconds) == (MACS, MACS, None)


def test_seconds_are_those_of_a_mini_batch():
    costs = Pricing(TWO_LAYERS, PLAN, 10, price(seconds_per_step=2.0, seconds_per_mac=0.5))((12,))
    assert costs.cost == costs.core_seconds == 2.0 + 0.5 * MACS * 10


def test_activations_cost_seconds_too():
    one, other = (
        Pricing(TWO_LAYERS, PLAN, 10, price(seconds_per_mac=0.5, seconds_per_activation_byte=extra))((12,))
        for extra in (0.0, 1.0)
    )
    num_activations = 6 + 12  # what the backward pass reads again: the input and the ReLU's output
    assert other.cost - one.cost == pytest.approx(10 * 4 * num_activations)


def test_joules_are_seconds_times_watts():
    seconds = Pricing(TWO_LAYERS, PLAN, 10, price(seconds_per_mac=0.5))((12,))
    joules = Pricing(TWO_LAYERS, PLAN, 10, price(kind="joules", seconds_per_mac=0.5, watts=3.0))((12,))
    assert joules.cost == 3 * seconds.cost
    assert joules.core_seconds == seconds.core_seconds


def test_seconds_that_nobody_measured_are_not_written_into_the_table_and_said_so():
    estimated = price(seconds_per_mac=0.5, is_measured=False)
    assert Pricing(TWO_LAYERS, PLAN, 10, estimated)((12,)).core_seconds is None
    assert "nobody measured engine onnx on board" in describe(estimated)[0]
    assert describe(price()) == ()


def test_watts_come_from_the_profile_and_an_estimate_of_them_is_said(tmp_path):
    shipped = resources.files("firmware_profiles") / "profiles" / "generic-linux.yaml"
    path = tmp_path / "board.yaml"
    path.write_text(
        shipped.read_text("utf-8") + "\ncore_watts: {value: 2.5, measured: false, basis: a guess}\n", "utf-8"
    )
    found = make_price("joules", str(path), "onnx")
    assert found.watts == 2.5
    assert any("watts" in line and "estimate" in line for line in describe(found))


def test_a_shipped_profile_prices_seconds():
    found = make_price("seconds", "raspberry-pi-4", "onnx")
    assert found.seconds_per_mac > 0
    assert found.profile == "raspberry-pi-4"


@pytest.mark.parametrize(
    ("kind", "profile", "engine", "why"),
    [
        ("seconds", None, "onnx", "needs a board"),
        ("seconds", "no-such-board", "onnx", "there is no profile"),
        ("seconds", "raspberry-pi-4", "abacus", "no speed of engine 'abacus'"),
        ("joules", "generic-linux", "onnx", "watts"),
    ],
)
def test_a_cost_that_cannot_be_reckoned_is_refused(kind, profile, engine, why):
    with pytest.raises(UserError, match=why):
        make_price(kind, profile, engine)
