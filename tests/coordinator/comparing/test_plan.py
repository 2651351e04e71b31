"""What a comparison runs, and which files of earlier runs count."""

import shutil

import pytest

from coordinator.comparing.plan import parse_seeds, plan_comparison, read_methods
from firmware_profiles.errors import UserError

METHODS = {"full": {"strategy": "full"}, "slow": {"learning_rate": 0.01, "devices.*.data_fraction": 0.5}}


@pytest.fixture
def path(world, make_scenario):
    make_scenario()
    return world / "small.yaml"


@pytest.fixture
def write(world):
    """A function that writes a scenario beside the small one's data."""

    def written(name, more=""):
        text = f"name: {name}\ndata: data.npz\ndevices:\n  - profile: raspberry-pi-4\n{more}"
        target = world / f"{name.replace(' ', '_')}.yaml"
        target.write_text(text)
        return target

    return written


def test_every_method_runs_with_every_seed_and_pairs_come_together(path):
    (plan,) = plan_comparison([path], methods=METHODS, seeds=[3, 1])
    assert [(run.method, run.seed) for run in plan.runs] == [
        ("full", 3),
        ("slow", 3),
        ("full", 1),
        ("slow", 1),
    ]
    assert plan.reference == "full"
    assert plan.methods == ("full", "slow")


def test_a_method_changes_the_keys_it_names_and_no_others(path):
    (plan,) = plan_comparison([path], methods=METHODS, seeds=[0])
    full, slow = (run.settings for run in plan.runs)
    assert (full.strategy, slow.strategy) == ("full", "distreal")
    assert slow.learning_rate == 0.01
    assert {group.data_fraction for group in slow.devices} == {0.5}
    assert full.rounds == slow.rounds == 2


def test_keys_of_a_method_are_checked_together_whatever_their_order(path):
    methods = {"one": {"measure_on": "validation", "num_validation": 10}}
    (plan,) = plan_comparison([path], methods=methods)
    assert plan.runs[0].settings.num_validation == 10


def test_the_command_line_has_the_last_word(path):
    (plan,) = plan_comparison(
        [path], methods={"slow": {"learning_rate": 0.01}}, overrides=["learning_rate=0.1"]
    )
    assert plan.runs[0].settings.learning_rate == 0.1


def test_a_scenario_says_itself_what_is_compared(write):
    path = write("own", "compare: {methods: {a: {}, b: {rounds: 3}}, seeds: [5, 6], targets: [0.5]}\n")
    (plan,) = plan_comparison([path])
    assert [(run.method, run.seed) for run in plan.runs] == [("a", 5), ("b", 5), ("a", 6), ("b", 6)]
    assert plan.targets == (0.5,)
    assert all(run.settings.compare is None for run in plan.runs)


def test_methods_may_stand_in_a_file_beside_the_scenario(write, world):
    (world / "methods.yaml").write_text("full: {strategy: full}\n")
    (plan,) = plan_comparison([write("other", "compare: {methods: methods.yaml}\n")])
    assert [run.settings.strategy for run in plan.runs] == ["full"]


def test_a_scenario_that_says_nothing_runs_its_own_strategy_once(path):
    (plan,) = plan_comparison([path])
    assert [(run.method, run.seed) for run in plan.runs] == [("distreal", 0)]


def test_groups_that_hold_classes_others_lack_are_named_with_them(write):
    more = "    labels: [0, 1]\n  - {profile: raspberry-pi-5, labels: [2, 3]}\n  - {profile: jetson-nano}\n"
    (plan,) = plan_comparison([write("owned", more)])
    assert plan.own_labels == {"raspberry-pi-4": (0, 1), "raspberry-pi-5": (2, 3)}


def test_only_keeps_the_methods_it_names_in_their_order(path):
    (plan,) = plan_comparison([path], methods=METHODS, only=["slow"])
    assert plan.methods == ("slow",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": {"full": {"learnign_rate": 1}}}, r"method 'full'.*learnign_rate.*\"learning_rate\""),
        ({"methods": {"full": {"subnets": {"choise": "live"}}}}, r"method 'full'.*choise.*\"choice\""),
        ({"methods": {"full": {"seed": 1}}}, r"method 'full': key \"seed\".*paired by seed"),
        ({"methods": {"full": {"compare.seeds": [1]}}}, r"key \"compare.seeds\""),
        ({"methods": {"a$b": {}}}, r"method 'a\$b': a method's name is"),
        ({"methods": {"a b": {}, "a-b": {}}}, r"'a b' and 'a-b' are too much alike"),
        ({"methods": METHODS, "only": ["fulll"]}, r"no method 'fulll'; did you mean \"full\""),
        ({"methods": METHODS, "reference": "heterofl"}, r"no method 'heterofl'; valid: full, slow"),
        ({"methods": METHODS, "only": ["slow"], "reference": "full"}, "left out by --only"),
        ({"seeds": [1, 1]}, "twice"),
        ({"overrides": ["ruonds=1"]}, r"--set ruonds=1: .*\"rounds\""),
    ],
)
def test_what_does_not_fit_is_named_with_what_would(path, given, message):
    with pytest.raises(UserError, match=message):
        plan_comparison([path], **given)


def test_two_scenarios_of_one_name_are_refused(path, world):
    shutil.copy(path, world / "copy.yaml")
    with pytest.raises(UserError, match=r"copy\.yaml: is called 'small', and so is .*small\.yaml"):
        plan_comparison([path, world / "copy.yaml"])


@pytest.mark.parametrize("text", ["{}", "full: 3", "full", "full:"])
def test_a_file_of_methods_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "methods.yaml").write_text(text)
    with pytest.raises(UserError, match=r"methods\.yaml"):
        read_methods(tmp_path / "methods.yaml")


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", (3,)), ("0-2", (0, 1, 2)), ("0, 2,5-6", (0, 2, 5, 6)), ("7-7", (7,))]
)
def test_seeds_are_numbers_and_spans(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "a", "1,", "-1", "3-1", "1,1", "0-3,2", "0-99999", "9999999999", "1e3", "1.5"]
)
def test_seeds_that_are_none_are_refused(text):
    with pytest.raises(UserError, match=r"--seeds"):
        parse_seeds(text)


# ---------------------------------------------------------------- digests


def digest(path, *overrides, seed=0):
    return plan_comparison([path], seeds=[seed], overrides=overrides)[0].runs[0].digest


def test_the_digest_follows_every_value_and_the_seed(path):
    digests = {
        digest(path),
        digest(path, seed=1),
        digest(path, "rounds=3"),
        digest(path, "devices.0.network.latency_ms=5"),
        digest(path, "engine=numpy"),
    }
    assert len(digests) == 5


def test_the_digest_follows_what_files_hold_and_not_where_they_lie(path, world, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("small.yaml", "data.npz"):
        shutil.copy(world / name, moved / name)
    assert digest(moved / "small.yaml") == digest(path)
    with (moved / "data.npz").open("ab") as file:
        file.write(b"\0")
    assert digest(moved / "small.yaml") != digest(path)


def test_the_digest_of_one_idx_file_follows_those_beside_it(path, tmp_path):
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(b"1")
    named = f"data={tmp_path}/train-images-idx3-ubyte"
    before = digest(path, named)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"2")
    assert digest(path, named) != before


def test_the_digest_leaves_out_what_else_is_compared(write):
    one = write("alone", "compare: {methods: {a: {}}, seeds: [0]}\n")
    before = digest(one)
    write("alone", "compare: {methods: {a: {}, b: {}}, seeds: [0, 1], targets: [0.5]}\n")
    assert digest(one) == before
