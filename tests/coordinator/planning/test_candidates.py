"""What a plan chooses between."""

import pytest

from coordinator.planning.candidates import default_candidates, family_of, method_of, read_candidates
from firmware_profiles.errors import UserError


def test_the_usual_candidates_have_other_names_and_fit_the_scenario(make_fleet):
    fleet = make_fleet()
    candidates = default_candidates(fleet)
    assert len({one.name for one in candidates}) == len(candidates)
    methods = {one.settings(fleet).method for one in candidates}
    assert methods == {"small", "full", "distreal"}


def test_the_published_methods_come_when_asked(make_fleet):
    fleet = make_fleet()
    methods = {one.settings(fleet).method for one in default_candidates(fleet, all_methods=True)}
    assert {"heterofl", "fjord", "fedrolex", "feddrop", "fiarse"} < methods


def test_rates_are_multiples_of_the_fleets(make_fleet):
    fleet = make_fleet()
    rates = {one.settings(fleet).learning_rate for one in default_candidates(fleet)}
    assert rates == {0.1, 0.2}


def test_a_fleets_table_goes_with_the_full_network_alone(make_fleet):
    fleet = make_fleet("table=of_the_full_network.yaml")
    for one in default_candidates(fleet):
        settings = one.settings(fleet)
        has_table = settings.method == "distreal" and method_of(settings).base_width == 1.0
        assert (settings.table is not None) == has_table


def test_candidates_that_differ_in_rates_alone_are_one_family(make_fleet):
    fleet = make_fleet()
    families = {family_of(one.settings(fleet)) for one in default_candidates(fleet)}
    assert len(families) == 9
    assert "distreal 0.65 widest floor 0.2 prior 0.5" in families


def test_the_usual_candidates_have_class_priors_and_parts_of_mini_batches(make_fleet):
    fleet = make_fleet()
    methods = [method_of(one.settings(fleet)) for one in default_candidates(fleet)]
    assert {(one.subnets.label_prior, one.subnets.micro_batch) for one in methods} == {(0.5, 4)}


def test_a_file_of_candidates_is_read(make_fleet, tmp_path):
    path = tmp_path / "candidates.yaml"
    path.write_text("wide: {strategy: full}\nnarrow: {base_width: 0.5, table: t.yaml}\n")
    wide, narrow = read_candidates(path, make_fleet())
    assert (wide.name, wide.changes) == ("wide", {"strategy": "full"})
    assert narrow.changes["table"] == str(tmp_path / "t.yaml")


def test_dotted_keys_change_what_they_name(make_fleet, tmp_path):
    path = tmp_path / "candidates.yaml"
    path.write_text("a: {averages.server_momentum: 0.5}\n")
    fleet = make_fleet("averages={cap: 2}")
    settings = read_candidates(path, fleet)[0].settings(fleet)
    assert settings.averages == {"cap": 2, "server_momentum": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {strategie: full}", "candidate 'a'.*strategie"),
        ("a: {base_width: 2}", "candidate 'a'.*base_width"),
        ("a: {rounds: 5}", "rounds is the fleet's"),
        ("{}", "holds 0 candidates"),
    ],
)
def test_what_does_not_fit_is_refused(make_fleet, tmp_path, text, message):
    path = tmp_path / "candidates.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_candidates(path, make_fleet())
