"""Policies: strict files, time windows, digests."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_profiles.errors import UserError
from firmware_profiles.policy import Policy, is_within, load_policy, parse_policy, parse_window, policy_digest


def test_an_empty_mapping_is_the_default_policy():
    assert parse_policy("{}", "p.yaml") == Policy()


def test_a_policy_file_is_loaded(tmp_path):
    path = tmp_path / "night.yaml"
    path.write_text('max_cpu_share_fraction: 0.5\nhours: ["22:00-06:00"]\n')
    assert load_policy(path) == Policy(max_cpu_share_fraction=0.5, hours=("22:00-06:00",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "max_cpu_share: 0.5",
            'p.yaml:1: key "max_cpu_share" is unknown; did you mean "max_cpu_share_fraction"?',
        ),
        (
            "max_cpu_share_fraction: 50",
            'p.yaml:1: key "max_cpu_share_fraction": expected float <= 1.0, found 50',
        ),
        ("max_cpu_share_fraction: 0", "expected float > 0.0, found 0"),
        ("hours:\n  - 22-06", 'p.yaml:2: key "hours[0]": expected a time window such as "22:00-06:00"'),
        ("hours: [25:00-06:00]", "expected a time window"),
        ("hours: [08:00-08:00]", "is no time window"),
        ("hours: [08:00-24:30]", "is no time window"),
        ("min_battery_fraction: .nan", "not a finite number"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_by_line_and_key(text, said):
    with pytest.raises(UserError) as caught:
        parse_policy(text, "p.yaml")
    assert said in str(caught.value)


def test_a_window_is_parsed_into_hours():
    assert parse_window("22:00-06:30") == (22.0, 6.5)


@pytest.mark.parametrize(
    ("hour", "inside"), [(21.99, False), (22.0, True), (23.99, True), (0.0, True), (5.99, True), (6.0, False)]
)
def test_a_window_over_midnight_has_two_ends(hour, inside):
    assert is_within(hour, "22:00-06:00") is inside


@pytest.mark.parametrize(("hour", "inside"), [(0.0, True), (12.0, True), (23.999, True)])
def test_a_whole_day_has_no_gap(hour, inside):
    assert is_within(hour, "00:00-24:00") is inside


@settings(deadline=None)
@given(st.integers(0, 1439), st.integers(0, 1439), st.floats(0, 24, exclude_max=True))
def test_a_window_and_its_reverse_share_the_day(start, end, hour):
    if start == end:
        return

    def text(first, last):
        return f"{first // 60:02d}:{first % 60:02d}-{last // 60:02d}:{last % 60:02d}"

    assert is_within(hour, text(start, end)) is not is_within(hour, text(end, start))


def test_the_digest_is_of_the_meaning_and_not_of_the_text():
    written_out = parse_policy("# as usual\nmin_battery_fraction: 0.3\n", "p.yaml")
    assert policy_digest(written_out) == policy_digest(Policy())
    assert len(policy_digest(Policy())) == 64


def test_another_policy_has_another_digest():
    assert policy_digest(Policy(only_when_charging=True)) != policy_digest(Policy())
