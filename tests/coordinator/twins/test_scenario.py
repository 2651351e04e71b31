"""Scenario files and --set: strict, with messages that name file, line and key."""

from pathlib import Path

import pytest

from coordinator.twins.scenario import load_scenario
from coordinator.twins.trace_kinds import Csv, Steps
from firmware_profiles.errors import UserError
from firmware_profiles.policy import Policy

EXAMPLES = Path(__file__).parents[3] / "examples" / "scenarios"

SMALL = """\
name: small
rounds: 2
devices:
  - profile: raspberry-pi-4
    count: 2
    policy: {max_cpu_share_fraction: 0.5}
    resources:
      cpu_others_fraction: {kind: steps, points: [[0, 0.1], [5, 0.9]]}
      charging: true
  - profile: raspberry-pi-5
"""


@pytest.fixture
def load(tmp_path):
    def load(text=SMALL, *overrides):
        path = tmp_path / "scenario.yaml"
        path.write_text(text)
        return load_scenario(path, list(overrides))

    return load


def refusal(load, text, *overrides):
    with pytest.raises(UserError) as caught:
        load(text, *overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    "path", sorted(set(EXAMPLES.glob("*.yaml")) - {EXAMPLES / "methods.yaml"}), ids=lambda path: path.stem
)
def test_the_examples_are_valid(path):
    assert load_scenario(path).num_devices >= 4


def test_a_scenario_reads_as_it_is_written(load):
    scenario = load()
    assert scenario.num_devices == 3
    first, second = scenario.devices
    assert first.resources.cpu_others_fraction == Steps(points=((0.0, 0.1), (5.0, 0.9)))
    assert first.resources.charging is True
    assert first.resources.battery_fraction is None
    assert second.policy == Policy()


def test_an_unknown_key_names_file_line_and_key_and_offers_the_nearest(load):
    message = refusal(load, SMALL.replace("rounds", "ruonds"))
    assert 'scenario.yaml:2: key "ruonds" is unknown; did you mean "rounds"?' in message


def test_an_unknown_key_within_a_group_names_its_place(load):
    message = refusal(load, SMALL.replace("max_cpu_share_fraction", "max_cpu_share"))
    assert "scenario.yaml:6:" in message
    assert 'did you mean "max_cpu_share_fraction"?' in message


def test_an_unknown_kind_of_trace_offers_those_there_are(load):
    message = refusal(load, SMALL.replace("kind: steps", "kind: step"))
    assert 'scenario.yaml:8: key "devices[0].resources.cpu_others_fraction.kind"' in message
    assert '"steps"' in message


@pytest.mark.parametrize(
    ("given", "line", "part"),
    [
        ("subnets: {chioce: live}", 2, 'key "subnets.chioce" is unknown; did you mean "choice"?'),
        ("subnets:\n  draw: ordered\n  floor_fraction: 3", 4, 'key "subnets.floor_fraction"'),
        ("averages: {cap: 0.5}", 2, 'key "averages.cap"'),
        ("compare: {methods: {a: {}}, seed: [1]}", 2, 'did you mean "seeds"?'),
        ("budget_fraction: 0", 2, 'key "budget_fraction"'),
    ],
)
def test_a_key_of_a_method_that_does_not_fit_is_named_with_its_line(load, given, line, part):
    message = refusal(load, SMALL.replace("rounds: 2", given))
    assert f"scenario.yaml:{line}:" in message
    assert part in message


def test_single_keys_of_a_method_are_replaced(load):
    scenario = load(SMALL, "subnets={floor_fraction: 0.3}", "averages.server_momentum=0.5", "paper=true")
    assert (scenario.subnets, scenario.averages) == ({"floor_fraction": 0.3}, {"server_momentum": 0.5})
    assert scenario.method == "distreal-paper"


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("[5, 0.9]", "[0, 0.9]", "not in order"),
        ("rounds: 2", "rounds: 0", "rounds"),
        ("count: 2", "min_devices: 2", "min_devices"),
        ("rounds: 2", "min_devices: 9", "more than the 3 devices"),
        (
            "charging: true",
            "battery_fraction: {kind: walk, start: 2, step: 1, low: 0, high: 1}",
            "not between",
        ),
        ("count: 2", "network: {outages_s: [[5, 3]]}", "out of order"),
        ("rounds: 2", "devices_per_round: 4", "more than the 3 devices"),
        ("rounds: 2", "measure_on: validation", "num_validation"),
        ("rounds: 2", "{paper: true, strategy: full}"[1:-1].replace(", ", "\n"), "paper is a form"),
        ("charging: true", "battery_fraction: {kind: vm, file: f.npz, low: 0.5, high: 0.4}", "above high"),
    ],
)
def test_what_makes_no_sense_is_refused(load, old, new, part):
    assert part in refusal(load, SMALL.replace(old, new))


def test_set_changes_a_value(load):
    assert load(SMALL, "rounds=5").rounds == 5


def test_set_reaches_into_one_group(load):
    first, second = load(SMALL, "devices.1.network.loss_fraction=0.25").devices
    assert (first.network.loss_fraction, second.network.loss_fraction) == (0.0, 0.25)


def test_set_with_a_star_reaches_into_all_groups(load):
    scenario = load(SMALL, "devices.*.num_threads=2")
    assert [group.num_threads for group in scenario.devices] == [2, 2]


def test_set_takes_a_whole_trace(load):
    scenario = load(SMALL, "devices.1.resources.cpu_others_fraction={kind: steps, points: [[1, 0.5]]}")
    assert scenario.devices[1].resources.cpu_others_fraction == Steps(points=((1.0, 0.5),))


def test_set_applies_in_order(load):
    assert load(SMALL, "rounds=5", "rounds=7").rounds == 7


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("ruonds=3", 'did you mean "rounds"?'),
        ("devices.0.policy.min_batery_fraction=0.5", 'did you mean "min_battery_fraction"?'),
        ("rounds=many", "expected int"),
        ("rounds", "key=value"),
        ("devices.7.count=1", "use 0 to 1"),
        ("devices.first.count=1", "use 0 to 1"),
        ("rounds.of=3", '"rounds": expected int'),
        ("rounds=[", "not valid YAML"),
    ],
)
def test_set_that_does_not_fit_is_refused_and_named(load, override, part):
    message = refusal(load, SMALL, override)
    assert f"--set {override.partition('=')[0]}" in message
    assert part in message


def test_paths_are_relative_to_the_scenario_file(load, tmp_path):
    scenario = load(
        SMALL,
        "data=my/data.npz",
        "table=t.yaml",
        "devices.0.policy=p.yaml",
        "devices.0.resources.clock_hz={kind: csv, file: c.csv, column: hz}",
    )
    assert scenario.data == str(tmp_path / "my/data.npz")
    assert scenario.table == str(tmp_path / "t.yaml")
    assert scenario.devices[0].policy == str(tmp_path / "p.yaml")
    assert scenario.devices[0].resources.clock_hz == Csv(file=str(tmp_path / "c.csv"), column="hz")


def test_names_of_what_ships_stay_names(load):
    scenario = load()
    assert (scenario.data, scenario.devices[0].profile) == ("fashion-mnist-small", "raspberry-pi-4")
