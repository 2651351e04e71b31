"""Planning with stubbed simulations, and one real plan of a tiny fleet."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from coordinator.comparing.summary import RunOutcome
from coordinator.planning import planned_fleet as planned_fleet_module
from coordinator.planning import workload as workload_module
from coordinator.planning.candidates import Candidate
from coordinator.planning.evaluate import Evaluation, make_evaluate, short_run
from coordinator.planning.plan import make_plan
from coordinator.planning.planned_fleet import PlanSettings, on_validation
from coordinator.planning.report import recommendation
from coordinator.planning.workload import look_at, workload
from coordinator.twins.result import to_json
from coordinator.twins.simulator import simulate
from dse.halving import Trial
from firmware_profiles.errors import UserError
from models.data.dataset import Dataset

DIGEST = "0" * 64
CANDIDATES = (
    Candidate(name="small", changes={"strategy": "small", "base_width": 0.3}),
    Candidate(name="middle", changes={"strategy": "small", "base_width": 0.5}),
    Candidate(name="full", changes={"strategy": "full"}),
)
ROOMY = "round_s=1"
MACS_PER_ROUND = 10**7


@pytest.fixture
def stub(make_outcome):
    """A function of accuracies by name to an Evaluate; what was run is in its `runs`."""

    def make(accuracies, macs=None, classes=None):
        def evaluate(runs):
            evaluate.runs += runs
            return [_evaluation(run) for run in runs]

        def _evaluation(run):
            accuracy = accuracies[run.method]
            if accuracy is None:
                return Evaluation(run, None, "it fell over")
            devices, rounds = run.settings.devices_per_round, run.settings.rounds
            by_class = (classes or {}).get(run.method, ())
            per_round = (macs or {}).get(run.method, MACS_PER_ROUND)
            return Evaluation(run, make_outcome(accuracy, int(per_round * rounds * devices), by_class))

        evaluate.runs = []
        return evaluate

    return make


def plan_for(fleet, evaluate, say=print, **settings):
    return make_plan(
        fleet, DIGEST, CANDIDATES, PlanSettings(**{"budget_fraction": 2.0, **settings}), evaluate, say
    )


def test_the_clearly_better_candidate_is_recommended(make_fleet, stub):
    plan = plan_for(make_fleet(ROOMY), stub({"small": 0.5, "middle": 0.6, "full": 0.9}))
    assert plan.recommended == "full"
    assert plan.changes == {"strategy": "full"}
    assert plan.compared[0].name == "full"
    assert plan.compared[0].probability_best > 0.9


def test_what_is_expected_lies_within_its_band_and_rises(make_fleet, stub):
    plan = plan_for(make_fleet(ROOMY), stub({"small": 0.5, "middle": 0.6, "full": 0.7}))
    for one in plan.compared:
        assert all(point.low <= point.accuracy <= point.high for point in one.curve)
        assert [point.round for point in one.curve] == list(range(4, 41, 4))
        assert one.curve[-1].accuracy > one.curve[0].accuracy


def test_simulations_are_of_the_fleet_on_validation_and_paired(make_fleet, stub):
    evaluate = stub({"small": 0.5, "middle": 0.5, "full": 0.5})
    plan_for(make_fleet(ROOMY), evaluate)
    assert {run.settings.measure_on for run in evaluate.runs} == {"validation"}
    assert {run.settings.num_validation for run in evaluate.runs} == {20}
    by_seed = {}
    for run in evaluate.runs:
        by_seed.setdefault(run.seed, set()).add((run.settings.rounds, run.settings.devices_per_round))
    assert all(len(lengths) == 1 for lengths in by_seed.values())


def test_a_plan_costs_no_more_than_its_share_of_the_run(make_fleet, stub):
    fleet = make_fleet(ROOMY)
    aside = on_validation(fleet, 0)
    world = look_at(aside)
    macs = {one.name: workload(world, one.settings(aside)).macs_per_round for one in CANDIDATES}
    for share in (0.8, 1.2, 2.0):
        evaluate = stub({"small": 0.5, "middle": 0.6, "full": 0.7}, macs=macs)
        plan = plan_for(fleet, evaluate, budget_fraction=share, min_rounds=2)
        spent = sum(
            int(macs[run.method] * run.settings.rounds * run.settings.devices_per_round)
            for run in evaluate.runs
        )
        assert plan.cost.macs == pytest.approx(spent)
        assert spent <= share * macs[plan.recommended] * 40 * 4
        assert plan.cost.fraction == pytest.approx(spent / (macs[plan.recommended] * 40 * 4), abs=1e-3)


def test_a_share_that_pays_for_no_simulation_still_makes_a_plan_and_says_what_it_rests_on(make_fleet, stub):
    said: list[str] = []
    plan = plan_for(make_fleet(ROOMY), stub({}), say=said.append, budget_fraction=0.01)
    assert plan.recommended in {one.name for one in CANDIDATES}
    assert len(plan.compared) == len(CANDIDATES)
    assert plan.cost.simulations == plan.cost.macs == 0
    assert "too little for a simulation of 4 rounds" in said[-1]
    assert "rests on the law of earlier runs" in said[-1]


def test_a_candidate_that_fails_is_left_out(make_fleet, stub):
    plan = plan_for(make_fleet(ROOMY), stub({"small": 0.5, "middle": 0.6, "full": None}))
    assert plan.recommended == "middle"
    assert "full" not in {one.name for one in plan.compared}


def test_where_all_fail_the_reason_is_told(make_fleet, stub):
    with pytest.raises(UserError, match="it fell over"):
        plan_for(make_fleet(ROOMY), stub({"small": None, "middle": None, "full": None}))


def test_a_fleet_that_can_train_nothing_is_refused(make_fleet, stub):
    with pytest.raises(UserError, match="no device can train"):
        plan_for(make_fleet("round_s=0.0001"), stub({}))


@pytest.mark.parametrize("override", ["strategy=dsgd", "strategy=gossip", "strategy=async", "asynchrony={}"])
def test_a_fleet_without_rounds_is_refused(make_fleet, stub, override):
    with pytest.raises(UserError, match="without a server's rounds"):
        plan_for(make_fleet(override), stub({}))


def test_a_candidate_without_rounds_is_refused(make_fleet, stub):
    with pytest.raises(UserError, match=r"candidate 'apart'.*without a server's rounds"):
        make_plan(
            make_fleet(),
            DIGEST,
            [Candidate(name="apart", changes={"strategy": "dsgd"})],
            PlanSettings(),
            stub({}),
        )


def test_classes_that_one_group_holds_are_named_where_they_suffer(make_fleet, stub):
    classes = {"full": (0.9,) * 8 + (0.1, 0.2), "middle": (0.8,) * 10, "small": (0.7,) * 10}
    evaluate = stub({"small": 0.5, "middle": 0.6, "full": 0.9}, classes=classes)
    plan = plan_for(make_fleet(ROOMY), evaluate)
    (weak,) = plan.weak_classes
    assert (weak.groups, weak.labels, weak.accuracy) == (("slow",), (8, 9), pytest.approx(0.15))
    assert "The classes of slow suffer (8, 9): 15%" in recommendation(plan)


def test_devices_that_can_never_train_are_named(make_fleet, stub):
    evaluate = stub({"small": 0.5, "middle": 0.5, "full": 0.95})
    plan = make_plan(make_fleet(), DIGEST, CANDIDATES[2:], PlanSettings(budget_fraction=2.0), evaluate)
    assert "2 devices can never train with it: slow-1, slow-2" in recommendation(plan)


def test_the_same_fleet_gives_the_same_plan(make_fleet, stub):
    accuracies = {"small": 0.5, "middle": 0.55, "full": 0.52}
    first, second = (plan_for(make_fleet(ROOMY), stub(accuracies)) for _ in range(2))
    assert first == second


def test_a_short_run_shrinks_its_schedule_with_its_rounds(make_fleet):
    fleet = make_fleet("optimizer={schedule: step, every: 10, factor: 0.5, warmup: 8}")
    candidate = Candidate(name="a", changes={"subnets": {"ceilings": [[1, 0.5], [20, 1.0]]}})
    run = short_run(fleet, candidate, Trial(0, 0, 10, 3), devices_per_round=2, full_rounds=40)
    settings = run.settings
    assert (settings.rounds, settings.seed, settings.devices_per_round) == (10, 3, 2)
    assert (settings.optimizer.every, settings.optimizer.warmup) == (2, 2)
    assert settings.subnets["ceilings"] == [[1, 0.5], [5, 1.0]]


def test_a_simulation_that_is_there_is_not_made_again(make_fleet, tmp_path):
    started = []

    class Ended:
        def ended(self):
            return True

        def failure(self):
            return "no"

        def fraction(self):
            return 0.0

        def kill(self):
            pass

    def start(run, path):
        started.append(run)
        return Ended()

    run = short_run(make_fleet(), CANDIDATES[0], Trial(0, 0, 5, 0), devices_per_round=2, full_rounds=40)
    evaluate = make_evaluate(tmp_path, num_workers=1, watch=lambda now: None, start=start)
    (failed,) = evaluate([run])
    assert (failed.outcome, failed.reason) == (None, "no")
    assert len(started) == 1


class Untouchable(Dataset):
    """A test part that nobody may look into."""

    def batch(self, indices):
        raise AssertionError("the test part was read")

    def take(self, indices):
        raise AssertionError("the test part was read")


def test_a_real_plan_never_reads_the_test_part(make_fleet, monkeypatch):
    from coordinator import settings as settings_module

    load_data = settings_module.load_data

    def guarded(*args):
        data = load_data(*args)
        test = Untouchable(data.test.samples, data.test.labels, data.test.num_classes, data.test.scale)
        return replace(data, test=test)

    for module in (settings_module, workload_module, planned_fleet_module):
        monkeypatch.setattr(module, "load_data", guarded)

    def evaluate(runs):
        return [
            Evaluation(run, msgspec.convert(to_json(simulate(run.settings)), RunOutcome, strict=False))
            for run in runs
        ]

    fleet = make_fleet("rounds=2", "round_s=0.1")
    settings = PlanSettings(budget_fraction=8.0, min_rounds=1, num_first=2, num_rungs=1)
    plan = make_plan(fleet, DIGEST, CANDIDATES, settings, evaluate)
    assert len(plan.compared) == 2
    assert np.isfinite([point.accuracy for one in plan.compared for point in one.curve]).all()
