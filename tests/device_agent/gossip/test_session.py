"""A device's part of a gossip run: what it reports, keeps and goes on from."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from device_agent.effects import CloseStream, KeepLearned, Note, OpenStream, Overhear, Send, SetTimer
from device_agent.gossip.session import POSITION, GossipSession
from device_agent.gossip.telling import Tell
from device_agent.orders import OrderInHand
from device_agent.streams.stream import Sample
from device_agent.wire.codec import refer
from device_agent.wire.messages import Neighbour, Order, Peering, Update
from device_agent.wire.stream_report import StreamReport
from device_agent.wire.whispers import News, Whisper, mark_of
from firmware_profiles.errors import PeerError
from models.bundle import Bundle, TrainingSettings
from models.gossip_settings import GossipSettings, NewsSettings
from models.prototypes.classifier import NUM_PLACES, prototype_graph
from models.prototypes.packing import pack, unpack
from models.prototypes.prototype_set import of_samples
from models.prototypes.settings import IlvqSettings
from models.prototypes.units import units_for
from models.table import uniform_table
from models.widths import plan_widths

SETTINGS = GossipSettings(windows=4, news=NewsSettings(below=1.0))
GRAPH = prototype_graph((2,), 2, NUM_PLACES)
PLAN = plan_widths(GRAPH)
TABLE = uniform_table(GRAPH, PLAN, 1, (1.0,))
RNG = np.random.default_rng(0)


def bundle(settings=SETTINGS):
    return Bundle(
        graph=GRAPH, plan=PLAN, table=TABLE, settings=TrainingSettings(batch_size=1, gossip=settings)
    )


def order(number=1, window=1, deadline_at_s=100.0, neighbours=("b", "c")):
    peering = Peering(neighbours=tuple(Neighbour(device=one, degree=1) for one in neighbours))
    message = Order(
        order=number,
        round=window,
        strategy="gossip",
        bundle=refer(b"bundle"),
        weights=refer(b"weights"),
        num_batches=1,
        deadline_s=100.0,
        seed=7,
        peering=peering,
    )
    return OrderInHand(
        order=message,
        run="run-1",
        base_version=window - 1,
        base_digest="ab" * 32,
        deadline_at_s=deadline_at_s,
    )


def a_run(learned=None, **changes):
    return GossipSession(device="a", boot_epoch=1, in_hand=order(**changes), bundle=bundle(), learned=learned)


def samples(num, first=0):
    labels = RNG.integers(0, 2, num)
    return [
        Sample(first + index, np.array([2.0 * label - 1, RNG.normal()], np.float32), int(label))
        for index, label in enumerate(labels)
    ]


def only(effects, kind):
    return [effect for effect in effects if isinstance(effect, kind)]


def reports(effects):
    return [effect.body for effect in only(effects, Send) if isinstance(effect.body, Update)]


def feed(run, num, left, now_s=1.0, first=0):
    return run.on_samples(now_s, samples(num, first), left)


def test_a_run_begins_with_its_stream_and_its_neighbours():
    effects = a_run().begin()
    assert only(effects, OpenStream) == [OpenStream(0, 0, 1, SETTINGS.sample_s)]
    assert only(effects, Overhear) == [Overhear(("b", "c"))]


def test_samples_are_told_and_a_window_is_reported_once():
    run = a_run()
    first = feed(run, 9, 31)
    assert only(first, Tell)
    assert reports(first) == []
    second = feed(run, 1, 30, first=9)
    (update,) = reports(second)
    assert (update.order, update.round, update.num_samples) == (1, 1, 10)
    assert (update.vectors, update.step_vectors, update.macs) == ((), (), 0)
    report = update.stream
    assert isinstance(report, StreamReport)
    assert (report.seen, sum(report.counts), report.num_left, report.is_over) == (10, 10, 30, False)
    assert len(only(second, KeepLearned)) == 1
    kinds = [type(effect) for effect in second]
    assert kinds.index(KeepLearned) < kinds.index(Send)
    told = unpack(only(second, Send)[0].blobs[update.delta.digest], 2, 2)
    assert len(told) == 10
    assert reports(feed(run, 10, 20, first=10)) == []  # no order asks for it


def test_each_report_tells_of_all_since_the_run_began():
    run = a_run()
    feed(run, 10, 30)
    feed(run, 10, 20, first=10)
    effects = run.on_order(order(2, window=2), bundle(), b"", {})
    assert SetTimer("session/report", 0.0) in effects
    (update,) = reports(run.on_timer(2.0, "session/report"))
    assert (update.round, update.num_samples) == (2, 20)


def test_a_slow_device_reports_at_the_deadline():
    run = a_run(deadline_at_s=5.0)
    assert reports(feed(run, 3, 97)) == []
    (timer,) = only(run.on_timer(1.0, "session/report"), SetTimer)
    assert timer.delay_s == 4.0
    (update,) = reports(run.on_timer(5.0, "session/report"))
    assert update.num_samples == 3


def test_a_live_stream_is_reported_at_the_deadline_alone():
    run = a_run(deadline_at_s=5.0)
    assert reports(feed(run, 50, None)) == []
    assert run.learned().num_all == 0
    assert len(reports(run.on_timer(5.0, "session/report"))) == 1


def test_a_stream_that_is_over_answers_every_order_at_once():
    run = a_run()
    feed(run, 4, 0)
    run.on_ended(2.0)
    run.on_order(order(2, window=2), bundle(), b"", {})
    (update,) = reports(run.on_timer(2.0, "session/report"))
    assert update.stream is not None
    assert update.stream.is_over
    assert (update.num_samples, update.stream.seen) == (4, 4)


def test_another_life_goes_on_where_the_last_report_was():
    run = a_run()
    (kept,) = only(feed(run, 10, 30), KeepLearned)
    feed(run, 5, 25, first=10)  # lost with the process
    again = a_run(learned=kept.arrays)
    effects = again.begin()
    assert only(effects, OpenStream)[0].position == 10
    assert [note.details["reason"] for note in only(effects, Note)] == ["restored"]
    x = np.array([1.0, 0.0], np.float32)
    before = run.gossiper.learner.prototypes()
    assert len(again.gossiper.learner.prototypes()) == 10
    assert len(before) == 15
    assert again.gossiper.learner.predict_proba(x).argmax() == 1
    (update,) = reports(feed(again, 10, 20, first=10))
    assert (update.num_samples, update.stream.seen) == (20, 20)


def test_an_agent_that_is_stopped_loses_nothing():
    run = a_run()
    feed(run, 7, 33)
    again = a_run(learned=run.keep().arrays)
    assert again.seen == 7
    assert again.gossiper.prequential.counts.sum() == 7


def test_another_life_begins_with_the_oldest_sample_that_had_no_label():
    run = a_run(deadline_at_s=5.0)
    stream = samples(6)
    unlabelled = [one._replace(label=None) for one in stream]
    labels = [Sample(one.number, None, one.label) for one in stream[:4]]
    run.on_samples(1.0, [*unlabelled, *labels], 34)
    (kept,) = only(run.on_timer(5.0, "session/report"), KeepLearned)
    again = a_run(learned=kept.arrays)
    (opened,) = only(again.begin(), OpenStream)
    assert (opened.position, opened.first_number) == (4, 6)
    (update,) = reports(feed(again, 6, 30, first=4))
    assert (update.num_samples, update.stream.seen) == (10, 10)


def test_of_a_live_stream_another_life_has_seen_all_that_was_labelled():
    run = a_run(deadline_at_s=5.0)
    stream = samples(6)
    run.on_samples(1.0, [stream[0]._replace(label=None), *stream[1:]], None)  # the first label never comes
    (kept,) = only(run.on_timer(5.0, "session/report"), KeepLearned)
    again = a_run(learned=kept.arrays, deadline_at_s=9.0)
    again.on_samples(6.0, samples(1, first=6), None)
    (update,) = reports(again.on_timer(9.0, "session/report"))
    assert (update.num_samples, update.stream.seen) == (6, 7)


def test_the_last_window_waits_for_the_last_label():
    run = a_run(window=4)
    stream = samples(4)
    assert reports(run.on_samples(1.0, [one._replace(label=None) for one in stream], 0)) == []
    assert reports(run.on_samples(1.0, [Sample(one.number, None, one.label) for one in stream], 0)) == []
    (update,) = reports(run.on_ended(2.0))
    assert (update.num_samples, update.stream.is_over) == (4, True)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop(POSITION),
        lambda arrays: arrays.update({POSITION: np.array([-1, 0], np.int64)}),
        lambda arrays: arrays.update({"memory.vectors": np.zeros((3, 3), np.float32)}),
    ],
)
def test_what_was_kept_and_is_damaged_is_left_and_the_device_begins_anew(change):
    run = a_run()
    (kept,) = only(feed(run, 10, 30), KeepLearned)
    arrays = dict(kept.arrays)
    change(arrays)
    again = a_run(learned=arrays)
    effects = again.begin()
    assert only(effects, OpenStream)[0].position == 0
    assert "cannot be used" in only(effects, Note)[0].details["reason"]


def test_a_sample_that_cannot_be_learned_counts_as_missed():
    run = a_run()
    bad = [
        Sample(0, np.array([np.nan, 0.0], np.float32), 1),
        Sample(1, np.array([0.0], np.float32), 1),
        Sample(2, np.array([0.0, 0.0], np.float32), 9),
    ]
    run.on_samples(1.0, bad, 97)
    assert run.tally.missed == 3
    assert run.gossiper.prequential.counts.sum() == 0


def test_whispers_of_strangers_are_not_listened_to_and_of_other_runs_refused():
    run = a_run()
    told = of_samples([[1.0, 1.0]], [1])
    said = News(pack(told, 2, units=units_for(told), with_weights=False, with_ages=False))
    assert run.on_whisper(1.0, "b", Whisper(1, mark_of("run-1"), 1, 0, 0, said), 40) == []
    run.on_whisper(1.0, "b", Whisper(1, mark_of("run-1"), 1, 0, 0, said), 40)
    assert (run.tally.heard, run.tally.repeats, run.tally.bytes_received) == (2, 1, 80)
    assert run.on_whisper(1.0, "z", Whisper(1, mark_of("run-1"), 1, 1, 0, said), 40) == []
    assert run.tally.heard == 2  # once a neighbour, perhaps, and not now
    with pytest.raises(PeerError, match="another run"):
        run.on_whisper(1.0, "b", Whisper(1, mark_of("run-2"), 1, 1, 0, said), 40)


def test_orders_of_other_runs_and_settings_are_not_taken():
    run = a_run()
    assert run.takes("run-1", order(2).order)
    assert not run.takes("run-2", order(2).order)
    assert run.fits(bundle())
    assert not run.fits(bundle(GossipSettings(windows=5)))
    assert CloseStream() in run.end()


def test_settings_that_do_not_suit_the_samples_are_refused():
    settings = GossipSettings(learner="ilvq", shares="sets", ilvq=IlvqSettings(max_prototypes=1000))
    graph = prototype_graph((784,), 2, NUM_PLACES)
    wide = msgspec.structs.replace(bundle(settings), graph=graph)
    with pytest.raises(PeerError, match="cannot begin"):
        GossipSession(device="a", boot_epoch=1, in_hand=order(), bundle=wide)
