"""The gossip study: its streams are what they say, its sums are right, and in miniature it runs."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from benchmarks import gossip, gossip_streams, river_worker
from benchmarks.gossip import Job, no_change, outcomes_of, run_job
from benchmarks.gossip_ages import AgeCase, age_checks, age_row
from benchmarks.gossip_checks import LOST, Outcome, report_of
from benchmarks.gossip_fleet import Network, NodeStream, publish_bytes, run_fleet
from benchmarks.gossip_images import image_features
from benchmarks.gossip_methods import IN_TURN, METHODS, NO_CHANGE
from benchmarks.gossip_streams import ROTATION, STREAMS
from benchmarks.gossip_work import PARALLEL, SEQUENTIAL, Clock, Server, Work
from device_agent.gossip.reading import read_told
from device_agent.gossip.telling import Numbering
from device_agent.wire.whispers import News, decode_whisper, encode_whisper
from firmware_profiles.errors import UserError
from models.gossip_settings import GossipSettings, NewsSettings
from models.prototypes.embeddings import ClassMeans, merged, nearest_classes
from models.prototypes.packing import pack
from models.prototypes.units import units_for


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Elec2 in small: 60 rows, whose first feature is their number; windows of 20 after the first 10."""
    monkeypatch.setattr(gossip_streams, "ELEC_FIRST", 10)
    monkeypatch.setattr(gossip_streams, "ELEC_WINDOW", 20)
    rows = [f"{number},0,0,0,0,0,{'UP' if number % 3 == 0 else 'DOWN'}" for number in range(60)]
    (tmp_path / "elec").mkdir()
    with gzip.open(tmp_path / "elec" / "elec.csv.gz", "wt") as file:
        file.write("\n".join(["nswprice,a,b,c,d,e,class", *rows]))
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "digits.npz",
        x_train=rng.normal(0, 1, (24, 32, 4, 45)).astype(np.float32).reshape(24, 32, 180)[:, :, :176],
        y_train=np.arange(24) % 10,
        owner_train=np.repeat(np.arange(6), 4) * gossip_streams.PARTS_PER_SPEAKER,
    )
    return tmp_path


# ------------------------------------------------------------ streams


def test_a_window_is_dealt_out_sample_by_sample_in_time_order(data):
    site = gossip_streams.elec(data, 5, seed=1)
    assert [stream.vectors[:, 0].tolist() for stream in site.streams[:2]] == [
        [30, 35, 40, 45],
        [31, 36, 41, 46],
    ]
    assert site.streams[0].labels.tolist() == [int(number % 3 == 0) for number in (30, 35, 40, 45)]
    assert site.judged == (0, 1, 2, 3, 4)


def test_windows_of_two_seeds_share_no_sample(data):
    found = [gossip_streams.elec(data, 5, seed).streams for seed in (0, 1)]
    first, second = ({x for one in streams for x in one.vectors[:, 0].tolist()} for streams in found)
    assert len(first) == len(second) == 20
    assert not first & second


def test_a_seed_without_a_window_is_named(data):
    with pytest.raises(UserError, match="seeds 0 to 1"):
        gossip_streams.elec(data, 5, seed=2)


def test_a_liar_tells_the_other_class_and_is_not_judged(data):
    honest, flipped = gossip_streams.elec(data, 5, 0), gossip_streams.elec_flipped(data, 5, 0)
    assert (honest.streams[0].labels + flipped.streams[0].labels).tolist() == [1] * 4
    assert flipped.judged == (1, 2, 3, 4)


def test_blocks_follow_each_other(data, monkeypatch):
    rows = np.arange(12_000, dtype=np.float32)[:, None]
    monkeypatch.setattr(gossip_streams, "read_elec", lambda _: (rows, np.zeros(12_000, np.int64)))
    site = gossip_streams.elec_blocks(data, 5, 0)
    assert [(one.vectors[0, 0], one.vectors[-1, 0]) for one in site.streams[:2]] == [(0, 1999), (2000, 3999)]


def test_speakers_are_nodes_and_the_seed_draws_their_order(data):
    first, second = gossip_streams.digits(data, 5, 0), gossip_streams.digits(data, 5, 1)
    assert [stream.vectors.shape for stream in first.streams] == [(4, 32)] * 5
    assert any((a.labels != b.labels).any() for a, b in zip(first.streams, second.streams, strict=True))
    with pytest.raises(UserError, match="6 speakers, 7 nodes"):
        gossip_streams.digits(data, 7, 0)


def test_the_rotation_turns_once_and_phases_lie_apart(tmp_path):
    def centre(stream, part):
        signs = (2 * stream.labels[part] - 1)[:, None]
        return (stream.vectors[part] * signs).mean(axis=0)

    early, late = slice(0, 25), slice(ROTATION - 25, ROTATION)
    half = slice(ROTATION // 2 - 12, ROTATION // 2 + 13)
    together = gossip_streams.rotation(tmp_path, 2, 0).streams
    opposed = gossip_streams.rotation(tmp_path, 2, 0, apart=0.5).streams
    for stream in together:
        np.testing.assert_allclose(centre(stream, early), [1, 0], atol=0.5)
        np.testing.assert_allclose(centre(stream, half), [-1, 0], atol=0.5)
        np.testing.assert_allclose(centre(stream, late), [1, 0], atol=0.5)
    np.testing.assert_allclose(centre(opposed[1], early), [-1, 0], atol=0.5)


def test_nodes_see_samples_at_almost_the_same_times(tmp_path):
    times_s = np.stack([one.times_s for one in gossip_streams.rotation(tmp_path, 3, 0).streams])
    np.testing.assert_allclose(np.diff(times_s, axis=1), gossip_streams.PERIOD_S)
    assert np.ptp(times_s, axis=0).max() < 0.01 * gossip_streams.PERIOD_S


def test_features_in_ranges_are_from_0_to_1_by_all_nodes_samples_and_stay_where_they_are(data):
    def site(*columns):
        times_s = np.arange(2.0)
        labels = np.zeros(2, np.int64)
        streams = tuple(NodeStream(np.array(x, np.float32).T, labels, times_s) for x in columns)
        return gossip_streams.Site(streams, 2, (0, 1)).in_ranges()

    first, second = site([[0, 2], [0.2, 0.3]], [[4, -4], [0.5, 0.4]]).streams
    np.testing.assert_allclose(first.vectors.T, [[0.5, 0.75], [0.2, 0.3]])
    np.testing.assert_allclose(second.vectors.T, [[1.0, 0.0], [0.5, 0.4]])


@pytest.mark.parametrize("stream", [name for name in STREAMS if not name.startswith(gossip.WITHOUT_DATA)])
def test_a_stream_whose_file_is_missing_says_what_to_do(stream, tmp_path):
    with pytest.raises(UserError, match=r"is not there: (say by --data|benchmarks\.prepare_data)"):
        STREAMS[stream].make(tmp_path, 5, 0)


# ------------------------------------------------------------ methods


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_on_a_short_stream(method):
    outcome = run_job(Job("rotation, phases apart", method, 0, "", 12))
    assert 0.0 <= outcome.accuracy <= 1.0
    assert len(outcome.by_node) == 5
    assert (outcome.sent > 0) is (METHODS[method].settings.shares != "nothing")


def test_the_label_before_is_the_last_that_is_known(data, monkeypatch):
    stream = NodeStream(np.zeros((6, 1), np.float32), np.array([1, 1, 0, 0, 1, 1]), np.arange(6.0))
    late = NodeStream(stream.vectors, stream.labels, stream.times_s, label_delay=2)
    for one, right in ((stream, 3), (late, 2)):
        site = gossip_streams.Site((one,), 2, (0,))
        monkeypatch.setitem(STREAMS, "made", gossip_streams.StreamKind(lambda *_, site=site: site))
        assert no_change(Job("made", NO_CHANGE, 0, str(data))).accuracy == pytest.approx(right / 6)


def test_a_learner_of_rivers_predicts_before_it_learns_and_learns_late():
    class Latest:
        """Predicts the label that it learned last."""

        label = None

        def predict_one(self, _):
            return self.label

        def learn_one(self, _, label):
            self.label = label

    x, y = np.zeros((5, 1)), np.array([1, 2, 3, 4, 5])
    assert river_worker.predicted(Latest, x, y, 0).tolist() == [0, 1, 2, 3, 4]
    assert river_worker.predicted(Latest, x, y, 2).tolist() == [0, 0, 0, 1, 2]


# ------------------------------------------------------------ the fleet


@pytest.mark.parametrize(("rest", "size"), [(127, 129), (128, 131), (16_383, 16_386), (16_384, 16_388)])
def test_a_publish_is_as_long_as_mqtt_makes_it(rest, size):
    assert publish_bytes(20, rest - 22) == size


def test_a_message_to_all_is_sent_once_and_received_by_each():
    streams = [
        NodeStream(np.full((1, 1), node, np.float32), np.array([node % 2]), np.array([float(node)]))
        for node in range(3)
    ]
    settings = GossipSettings(news=NewsSettings(below=1.0))
    for loss_fraction, received in ((0.0, 2), (1.0, 0)):
        network = Network(loss_fraction=loss_fraction)
        nodes = run_fleet(streams, settings, num_classes=2, network=network)
        assert [node.num_sent for node in nodes] == [1, 1, 1]
        assert [node.bytes_received / node.bytes_sent for node in nodes] == [received] * 3
    first, second, _ = run_fleet(streams, settings, num_classes=2)
    assert second.gossiper.ages["node-0"].first_s == pytest.approx(Network().delay_s)
    assert first.gossiper.ages["node-2"].first_s == pytest.approx(2 + Network().delay_s)


def done_at(work):
    """What one node does when: learn for 1 s, then send 2 messages, and a message that came meanwhile."""
    clock = Clock()
    learning = Server(clock)
    sending = Server(clock) if work.overlaps else learning
    receiving = Server(clock) if work.overlaps else learning
    begun = {}
    for server, takes_s, name in (
        (learning, work.learn_s, "learn"),
        (sending, 2 * work.send_s, "send"),
        (receiving, work.receive_s, "hear"),
    ):
        server.take(takes_s, lambda name=name: begun.update({name: clock.now_s}))
    clock.run()
    return begun


def test_work_overlaps_or_is_done_in_turn():
    times = {"learn_s": 1.0, "send_s": 2.0, "receive_s": 3.0}
    assert done_at(Work(**times)) == {"learn": 0.0, "send": 0.0, "hear": 0.0}
    assert done_at(Work(**times, overlaps=False)) == {"learn": 0.0, "send": 1.0, "hear": 5.0}


def test_a_task_that_waits_gives_way_to_a_newer_one_of_its_name():
    clock, begun = Clock(), []
    server = Server(clock)
    for task, name in (("first", "a"), ("old", "a"), ("other", None), ("new", "a"), ("another", None)):
        server.take(1.0, lambda task=task: begun.append((clock.now_s, task)), name)
    clock.run()
    assert begun == [(0.0, "first"), (1.0, "new"), (2.0, "other"), (3.0, "another")]


def busy(work, num=20):
    """Two nodes that send each other their sets after each sample, which takes longer than the next takes."""
    labels = np.arange(num) % 2
    streams = [
        NodeStream(labels[:, None].astype(np.float32), labels, 0.1 * np.arange(num) + node / 1e3)
        for node in range(2)
    ]
    settings = METHODS["paper: base"].settings
    return run_fleet(streams, settings, num_classes=2, work=work)[0]


def test_nodes_that_do_one_thing_at_a_time_learn_late_and_hear_what_is_old():
    slow = {"learn_s": 0.05, "send_s": 0.15, "receive_s": 0.05}
    parallel, in_turn = busy(Work(**slow)), busy(Work(**slow, overlaps=False))
    assert parallel.num_in_time == 19  # the last is learned 0.05 s after it came
    assert 0 < in_turn.num_in_time < 12
    assert (parallel.num_sent, in_turn.num_sent) == (14, 20)  # newer sets took the place of 6 that waited
    ages_s = [node.gossiper.ages["node-1"].peak_sum_s for node in (parallel, in_turn)]
    assert in_turn.gossiper.prequential.counts.sum() == 20
    assert ages_s[0] < ages_s[1]


def test_what_a_message_waits_is_part_of_its_age():
    stream = NodeStream(np.zeros((1, 1), np.float32), np.array([0]), np.array([0.0]))
    other = NodeStream(stream.vectors, stream.labels, np.array([100.0]))
    work = Work(learn_s=1.0, send_s=2.0, receive_s=4.0)
    settings = METHODS["paper: base"].settings
    _, hearer = run_fleet([stream, other], settings, num_classes=2, work=work)
    record = hearer.gossiper.ages["node-0"]
    assert (record.first_s, record.age_s) == (pytest.approx(7.0 + Network().delay_s), 7.0)


@pytest.mark.parametrize("form", ["parallel", "in turn"])
def test_the_age_of_busy_nodes_is_that_of_the_formula_while_they_seldom_wait(form):
    row = age_row(AgeCase(send_fraction=1.0, num_partners=1, duration_s=60.0, form=form), seed=1)
    assert row["formula_s"] == pytest.approx(0.4 + PARALLEL.learn_s + PARALLEL.send_s + PARALLEL.receive_s)
    assert len(list(age_checks(row))) == 2
    assert all(check.holds for check in age_checks(row))


def test_the_formula_is_not_judged_by_nodes_that_cannot_keep_up():
    case = AgeCase(send_fraction=1.0, num_partners=4, form="in turn")
    assert case.busy_fraction == pytest.approx(10 * (0.005 + 4 * 0.02 + 4 * 0.01))
    row = age_row(AgeCase(send_fraction=1.0, num_partners=4, duration_s=5.0, form="in turn"), seed=1)
    assert row["ratio"] > 2
    assert not list(age_checks(row))
    assert not SEQUENTIAL.overlaps


def test_the_mean_age_of_pairs_is_that_of_the_formula():
    row = age_row(AgeCase(send_fraction=0.1, num_partners=1, num_nodes=5, duration_s=120.0), seed=1)
    assert (row["formula_s"], row["num_pairs"]) == (4.0, 20)
    assert row["age_s"] == pytest.approx(4.0, rel=0.1)
    assert all(check.holds for check in age_checks(row))


# ------------------------------------------------------------ the report


def outcomes(accuracy, sent=0.0, f1=None, f1_half=None):
    f1 = accuracy if f1 is None else f1
    return {0: Outcome(accuracy, f1, (accuracy, accuracy - 0.1), sent, sent, f1_half=f1_half)}


def checks(by_method, stream="elec"):
    return {check.name.partition(": ")[2]: check for check in report_of({stream: by_method}).checks}


def test_gossip_is_compared_with_each_node_alone_and_with_the_papers_best_form():
    found = checks(
        {
            "gossip": outcomes(0.8, sent=40.0),
            "alone": outcomes(0.79),
            "paper: base": outcomes(0.6, sent=1000.0),
            "paper: gate": outcomes(0.7, sent=500.0),
            NO_CHANGE: outcomes(0.9),
        }
    )
    assert found["points lost by gossip, mean"].value == pytest.approx(-1.0)
    assert found["points lost by gossip, worst node"].value == pytest.approx(-1.0)
    best = found["F1 over the paper's best form"]
    assert (best.peer, best.value) == ("paper: gate", pytest.approx(10.0))
    assert found["bytes over those of the base"].value == pytest.approx(0.04)
    assert not found[f"F1 over {NO_CHANGE}"].holds


def test_the_papers_claims_are_checked_against_its_base_and_its_form_in_turn():
    found = checks(
        {
            "paper: base": outcomes(0.6, sent=1000.0, f1_half=0.5),
            "paper: gate, clusters": outcomes(0.59, sent=150.0),
            "paper: base" + IN_TURN: outcomes(0.6, sent=1000.0, f1_half=0.47),
        }
    )
    assert found["paper: gate, clusters: bytes over those of the base"].value == pytest.approx(0.15)
    assert not found["paper: gate, clusters: F1 less than the base's"].holds
    faster = found["paper: base: F1 of the first half over that in turn"]
    assert (faster.value, faster.holds) == (pytest.approx(3.0), True)


def test_losses_are_compared_with_the_same_samples_without_them():
    report = report_of({"elec": {"gossip": outcomes(0.8)}, LOST: {"gossip": outcomes(0.785)}})
    (check,) = (check for check in report.checks if check.name.startswith(f"{LOST}: points of F1"))
    assert (check.value, check.holds) == (pytest.approx(1.5), False)


def test_a_run_that_is_kept_is_not_run_again(tmp_path, monkeypatch):
    job = Job("rotation", "alone", 0, "", 12, str(tmp_path))
    first = outcomes_of(job)
    monkeypatch.setattr(gossip, "run_job", None)
    assert outcomes_of(job) == first
    assert first.keys() == {"alone"}


# ------------------------------------------------------------ features of a network


@pytest.fixture(scope="module")
def features():
    return image_features()


def test_devices_tell_images_of_classes_unknown_to_their_network_and_better_with_neighbours(features):
    del features  # made once, for all of these
    alone, told = (run_job(Job("images", method, 0, "")) for method in ("alone", "gossip"))
    assert alone.accuracy > 0.6
    assert told.accuracy > alone.accuracy + 0.005
    assert told.sent < 100


def test_class_means_that_neighbours_tell_are_better_than_the_few_own_ones(features):
    x, y = features
    own, told = [], []
    for device in range(3):
        rows = slice(20 * device, 20 * device + 20)
        means = ClassMeans(x.shape[1], 5)
        means.add(x[rows], y[rows])
        own.append(means.prototypes())
        packed = pack(own[-1], 5, units=units_for(own[-1]), with_ages=False)
        tell = Numbering(run=1, boot_epoch=1).tell("all", News(packed))
        said = decode_whisper(encode_whisper(tell.whisper), "a topic").said
        assert isinstance(said, News)
        told.append(read_told(said.packed, x.shape[1], 5))
    rest_x, rest_y = x[60:], y[60:]
    alone = [float((nearest_classes(rest_x, one) == rest_y).mean()) for one in own]
    together = float((nearest_classes(rest_x, merged([own[0], told[1], told[2]])) == rest_y).mean())
    assert together > max(alone) + 0.05


def test_the_benchmark_runs_in_miniature_and_reports_what_it_ran(capsys):
    arguments = [
        "--quick",
        "--methods",
        "gossip",
        "alone",
        "--streams",
        "rotation",
        "--workers",
        "1",
        "--json",
    ]
    assert gossip.main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(row["stream"], row["method"]) for row in report["rows"]] == [
        ("rotation", "gossip"),
        ("rotation", "alone"),
        ("rotation", NO_CHANGE),
    ]
    assert {check["name"] for check in report["checks"]} >= {"rotation: points lost by gossip, mean"}


def test_a_stream_that_is_missing_ends_the_benchmark_with_a_clear_error(tmp_path):
    arguments = ["--data", str(tmp_path), "--streams", "elec first", "--methods", "alone", "--workers", "1"]
    with pytest.raises(UserError, match=r"elec\.csv\.gz is not there: say by --data"):
        gossip.main(arguments)
