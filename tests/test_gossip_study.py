"""The gossip study: its streams are what they say, its sums are right, and in miniature it runs."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from benchmarks import gossip, gossip_streams, river_worker
from benchmarks.gossip import METHODS, NO_CHANGE, Job, Outcome, no_change, report_of, run_job
from benchmarks.gossip_ages import AgeCase, age_checks, age_row
from benchmarks.gossip_fleet import Network, NodeStream, publish_bytes, run_fleet
from benchmarks.gossip_streams import ROTATION, STREAMS
from firmware_profiles.errors import UserError
from models.gossip_settings import GossipSettings, NewsSettings


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


@pytest.mark.parametrize("stream", [name for name in STREAMS if not name.startswith("rotation")])
def test_a_stream_whose_file_is_missing_says_what_to_do(stream, tmp_path):
    with pytest.raises(UserError, match=r"is not there: (say by --data|benchmarks\.prepare_data)"):
        STREAMS[stream].make(tmp_path, 5, 0)


# ------------------------------------------------------------ methods


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_on_a_short_stream(method):
    outcome = run_job(Job("rotation, phases apart", method, 0, "", 12))
    assert 0.0 <= outcome.accuracy <= 1.0
    assert len(outcome.by_node) == 5
    assert (outcome.sent > 0) is (METHODS[method].shares != "nothing")


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
    assert second.session.ages["node-0"].first_s == pytest.approx(Network().delay_s)
    assert first.session.ages["node-2"].first_s == pytest.approx(2 + Network().delay_s)


def test_the_mean_age_of_pairs_is_that_of_the_formula():
    row = age_row(AgeCase(send_fraction=0.1, num_partners=1, num_nodes=5, duration_s=120.0), seed=1)
    assert (row["formula_s"], row["num_pairs"]) == (4.0, 20)
    assert row["age_s"] == pytest.approx(4.0, rel=0.1)
    assert all(check.holds for check in age_checks(row))


# ------------------------------------------------------------ the report


def outcomes(accuracy, sent=0.0, f1=None):
    f1 = accuracy if f1 is None else f1
    return {0: Outcome(accuracy, f1, (accuracy, accuracy - 0.1), sent=sent)}


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
