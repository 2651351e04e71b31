"""Whatever happens in whatever order: each update counts at most once, and is told when it is durable."""

from __future__ import annotations

import runpy
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator.effects import Commit, Evaluate, Finished, Record
from coordinator.strategies.asynchrony import AsyncSettings
from coordinator.strategies.averages import AverageSettings
from coordinator.strategies.rounds_of_averages import AVERAGES, averages_of
from device_agent.effects import Announce, CancelTimer, Fetch, Send, SetTimer
from device_agent.wire.codec import encode, encode_public, refer
from device_agent.wire.messages import SCHEMA_VERSION, Ack, Decline, Envelope, RolledOut, Status
from firmware_profiles.errors import WorldError
from models.weights import pack

rounds = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "rounds_fleet.py")))
tiny, make_update, scaled = rounds.tiny, rounds.make_update, rounds.scaled

NAMES = ("a", "b", "c")
names = st.sampled_from(NAMES)
NAN = pack({**scaled(0.1), "a.bias": np.full(8, np.nan, np.float32)})


class RoundsMachine(RuleBasedStateMachine):
    strategy = AVERAGES

    def __init__(self):
        super().__init__()
        self.folded = Counter()  # the number of an update (its macs) -> times folded
        self.durable = {}  # key -> outcome, of committed and recorded updates
        self.acknowledged = []
        self.sent = []  # every update's envelope, with its content
        self.fetches = []
        self.committing = None
        self.num_committed = self.num_finished = self.num_models = 0
        self.epochs = dict.fromkeys(NAMES, 1)
        self.sequences = Counter()
        self.evaluations = []
        self.timers = {}
        strategy = replace(self.strategy, fold=self.count_fold)
        self.fleet = rounds.Fleet(devices=2, num_rounds=4, max_staleness=1, strategy=strategy)
        self.core = self.fleet.core
        self.now_s = self.fleet.now_s
        self.take(self.fleet.effects)

    def count_fold(self, aggregator, update, *rest):
        self.strategy.fold(aggregator, update, *rest)
        self.folded[update.macs] += 1

    def take(self, effects):
        """Play the driver, and check what every single effect must obey."""
        for effect in effects:
            if isinstance(effect, Commit):
                assert self.committing is None, "a commit was asked for while another is under way"
                assert effect.version == self.num_committed + 1
                self.committing = effect
            elif isinstance(effect, Record):
                self.settle(effect.settled)
            elif isinstance(effect, SetTimer | CancelTimer):
                self.set_timer(effect)
            elif isinstance(effect, Fetch):
                self.fetches.append(effect)
            elif isinstance(effect, Evaluate):
                self.evaluations.append(effect.version)
            elif isinstance(effect, Finished):
                self.num_finished += 1
            elif isinstance(effect, Announce):
                encode_public(effect.message)
            elif isinstance(effect, Send):
                self.check_sent(effect)

    def set_timer(self, effect):
        if isinstance(effect, SetTimer):
            self.timers[effect.key] = self.now_s + effect.delay_s
        else:
            self.timers.pop(effect.key, None)

    def settle(self, settled):
        key = (settled.device, settled.boot_epoch, settled.sequence)
        assert key not in self.durable, f"{key} was settled twice"
        self.durable[key] = settled.outcome

    def check_sent(self, send):
        encode(
            Envelope(
                schema=SCHEMA_VERSION,
                run=send.run,
                sender="coordinator",
                boot_epoch=1,
                sequence=1,
                body=send.body,
                base_version=send.base_version,
                base_digest=send.base_digest,
            )
        )
        if isinstance(send.body, Ack):
            key = (send.to, send.body.boot_epoch, send.body.sequence)
            assert key in self.durable, f"{key} was acknowledged before it was durable"
            assert send.body.outcome in ("duplicate", self.durable[key])
            self.acknowledged.append(key)

    def message(self, envelope):
        self.take(self.core.on_message(self.now_s, envelope))

    # ------------------------------------------------------------ what may happen

    @rule(name=names)
    def come_online(self, name):
        status = Status(online=True, boot_epoch=self.epochs[name])
        self.take(self.core.on_status(self.now_s, name, status))

    @rule(name=names, num_samples=st.sampled_from([0, 8, 16]))
    def say_hello(self, name, num_samples):
        hello = tiny.make_hello(device=name, boot_epoch=self.epochs[name], num_samples=num_samples)
        self.take(self.core.on_hello(self.now_s, name, hello))

    @rule(name=names, lives_ago=st.integers(0, 1))
    def go_offline(self, name, lives_ago):
        status = Status(online=False, boot_epoch=max(0, self.epochs[name] - lives_ago), reason="lost")
        self.take(self.core.on_status(self.now_s, name, status))

    @rule(name=names)
    def restart_a_device(self, name):
        self.epochs[name] += 1
        self.say_hello(name, 16)

    @initialize()
    def everybody_joins(self):
        for name in NAMES:
            self.come_online(name)
            self.say_hello(name, 16)

    @rule(name=names, content=st.sampled_from(["small", "large"]), lateness=st.integers(0, 1))
    def answer(self, name, content, lateness):
        self.send_an_update(name, lateness, content, "run-a", is_answer=True)

    @rule(content=st.sampled_from(["small", "large"]))
    def everybody_answers(self, content):
        for name in NAMES:
            self.answer(name, content, 0)
        while self.fetches:
            self.end_a_fetch(-1, succeeds=True)

    @rule(
        name=names,
        lateness=st.integers(-1, 3),
        content=st.sampled_from(["small", "large", "nan", "garbage", "oversized"]),
        run=st.sampled_from(["run-a", "run-b"]),
        is_answer=st.booleans(),
    )
    def send_an_update(self, name, lateness, content, run, is_answer):
        self.sequences[name] += 1
        number = len(self.sent) + 1
        bytes_of = {
            # no two deltas alike, as in life
            "small": pack(scaled(0.1 + number / 1000)),
            "large": pack(scaled(0.2 + number / 1000)),
            "nan": NAN,
            "garbage": b"\xc1" * (number % 50 + 1),
            "oversized": bytes(70_000 + number),
        }[content]
        device = self.core.devices.get(name)
        order = device.order if device and device.order and is_answer else 10**6 + number
        body = make_update(
            content=bytes_of,
            large=content == "large",
            order=order,
            macs=number,
        )
        envelope = Envelope(
            schema=SCHEMA_VERSION,
            run=run,
            sender=name,
            boot_epoch=self.epochs[name],
            sequence=self.sequences[name],
            body=body,
            base_version=max(0, self.core.version - lateness),
        )
        self.sent.append((envelope, bytes_of))
        self.message(envelope)

    @precondition(lambda self: self.sent)
    @rule(place=st.integers(0, 2**16))
    def offer_an_update_again(self, place):
        self.message(self.sent[place % len(self.sent)][0])

    @precondition(lambda self: self.sent)
    @rule()
    def offer_the_latest_updates_again(self):
        for envelope, _ in self.sent[-4:]:
            self.message(envelope)

    @rule(name=names, order=st.integers(0, 3))
    def decline(self, name, order):
        device = self.core.devices.get(name)
        number = device.order if device and device.order and order else order
        self.sequences[name] += 1
        self.message(
            Envelope(
                schema=SCHEMA_VERSION,
                run="run-a",
                sender=name,
                boot_epoch=self.epochs[name],
                sequence=self.sequences[name],
                body=Decline(order=number, round=1, reason="battery"),
            )
        )

    @rule(name=st.sampled_from([*NAMES, "stranger"]), in_force=st.booleans())
    def say_something_odd(self, name, in_force):
        for body in (
            RolledOut(kind="policy", digest="0" * 64, in_force=in_force),
            Ack(boot_epoch=1, sequence=1, outcome="applied"),
        ):
            self.message(
                Envelope(schema=SCHEMA_VERSION, run="x", sender=name, boot_epoch=9, sequence=999, body=body)
            )

    @precondition(lambda self: self.fetches)
    @rule(place=st.integers(0, 2**16), succeeds=st.booleans())
    def end_a_fetch(self, place, succeeds):
        fetch = self.fetches.pop(place % len(self.fetches))
        content = next(held for told, held in self.sent if told.body.delta.digest == fetch.digest)
        if succeeds:
            self.take(self.core.on_fetched(self.now_s, fetch.digest, content))
        else:
            self.take(self.core.on_fetch_failed(self.now_s, fetch.digest, "gone"))

    @precondition(lambda self: self.core.state == "open")
    @rule()
    def let_the_round_time_out(self):
        self.now_s = max([self.now_s, *self.timers.values()])
        self.fire_timers()

    @rule(seconds=st.floats(0.0, 150.0))
    def let_time_pass(self, seconds):
        self.now_s += seconds
        self.fire_timers()

    def fire_timers(self):
        for key in [key for key, due_s in self.timers.items() if due_s <= self.now_s]:
            del self.timers[key]
            self.take(self.core.on_timer(self.now_s, key))

    @precondition(lambda self: self.committing)
    @rule()
    def commit(self):
        commit, self.committing = self.committing, None
        self.num_committed += 1
        for settled in commit.settled:
            self.settle(settled)
        self.take(self.core.on_committed(self.now_s, refer(pack(commit.weights))))

    @precondition(lambda self: self.evaluations)
    @rule()
    def end_an_evaluation(self):
        self.take(self.core.on_evaluated(self.evaluations.pop(0), 0.5, 1.0))

    @precondition(lambda self: self.num_models < 2)
    @rule()
    def roll_out_a_model(self):
        self.num_models += 1
        try:
            self.take(self.core.on_model_rollout({n: v + 0.1 for n, v in rounds.WEIGHTS.items()}))
        except WorldError:
            assert self.core.state in ("committing", "evaluating", "finished")

    @rule(share=st.integers(1, 9))
    def roll_out_a_policy(self, share):
        self.take(self.core.on_policy_rollout(refer(b"max_cpu_share_fraction: 0.%d\n" % share)))

    @rule()
    def reconnect(self):
        self.take(self.core.on_connected())

    # ------------------------------------------------------------ what must hold

    @invariant()
    def no_update_is_folded_twice(self):
        assert max(self.folded.values(), default=0) <= 1

    @invariant()
    def every_applied_update_was_folded_once_and_no_refused_one_was(self):
        numbers = {
            (envelope.sender, envelope.boot_epoch, envelope.sequence): envelope.body.macs
            for envelope, _ in self.sent
        }
        for key, outcome in self.durable.items():
            if outcome == "applied":
                assert self.folded[numbers[key]] == 1
            elif outcome == "refused":
                assert self.folded[numbers[key]] == 0

    @invariant()
    def the_version_counts_the_commits(self):
        assert self.core.version == self.num_committed

    @invariant()
    def the_rounds_end(self):
        assert 1 <= self.core.round <= self.core.config.num_rounds + 1
        assert self.num_finished <= 1
        assert (self.core.state == "finished") == (self.num_finished == 1)

    @invariant()
    def the_model_is_finite(self):
        assert all(np.isfinite(value).all() for value in self.core.weights.values())


RoundsMachine.TestCase.settings = settings(deadline=None, max_examples=80, stateful_step_count=50)
TestRounds = RoundsMachine.TestCase


class AsyncMachine(RoundsMachine):
    """The same without rounds."""

    strategy = averages_of(
        AverageSettings(),
        AsyncSettings(buffer_size=2, buffer_s=50.0, max_staleness=1, fairness="rate", max_concurrency=2),
    )

    @invariant()
    def credits_are_kept(self):
        assert len(self.core.due_s) - len(self.core.resting) <= 2
        assert self.core.resting <= self.core.due_s.keys()
        assert not self.core.line.keys() & self.core.due_s.keys()

    @invariant()
    def who_has_an_order_is_watched(self):
        assert not self.core.due_s or "orders" in self.timers


AsyncMachine.TestCase.settings = settings(deadline=None, max_examples=15, stateful_step_count=50)
TestAsync = AsyncMachine.TestCase
