from __future__ import annotations

import numpy as np
import pytest

from models.prototypes.learner import PrototypeLearner
from models.prototypes.prototype_set import of_samples
from models.prototypes.scaling import Scales
from models.prototypes.settings import LearnerSettings


def blobs(num, seed=0, num_classes=2, num_features=2, *, flipped=False):
    """Samples around 3 * class on the first feature; the others are noise."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, num)
    samples = random.normal(0, 1, (num, num_features))
    samples[:, 0] += 3.0 * labels
    return samples, 1 - labels if flipped else labels


def turning(num, node=0, seed=0):
    """Two Gaussians that turn around the origin once in `num` samples."""
    random = np.random.default_rng((seed, node))
    labels = random.integers(0, 2, num)
    angle = 2 * np.pi * np.arange(num) / num
    centres = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (2 * labels - 1)[:, None]
    return centres + random.normal(0, 0.7, (num, 2)), labels


def prequential(learner, samples, labels):
    """Share of samples that are predicted before they are learned."""
    right = 0
    for x, y in zip(samples, labels.tolist(), strict=True):
        right += int(learner.predict_proba(x).argmax()) == y
        learner.learn(x, y)
    return right / len(labels)


def taught(learner, samples, labels):
    for x, y in zip(samples, labels.tolist(), strict=True):
        learner.learn(x, y)
    return learner


def test_before_the_first_label_all_classes_are_as_likely():
    np.testing.assert_allclose(PrototypeLearner(3, 4).predict_proba(np.ones(3)), np.full(4, 0.25))


@pytest.mark.parametrize(("num_classes", "num_features"), [(2, 1), (3, 2), (6, 9)])
def test_classes_apart_are_learned(num_classes, num_features):
    learner = PrototypeLearner(num_features, num_classes)
    taught(learner, *blobs(300, 1, num_classes, num_features))
    assert prequential(learner, *blobs(200, 2, num_classes, num_features)) > 0.8


def test_probabilities_are_of_sum_one_whatever_was_received():
    learner = taught(PrototypeLearner(2, 3), *blobs(20, num_classes=3))
    learner.receive("b", of_samples(*blobs(30, 1, 3)))
    for x in blobs(50, 2, 3)[0]:
        share = learner.predict_proba(x)
        assert share.sum() == pytest.approx(1.0, abs=1e-6)
        assert (share > 0).all()


def test_a_boundary_that_turns_is_followed():
    assert prequential(PrototypeLearner(2, 2), *turning(500)) > 0.85


def test_units_of_the_features_do_not_matter_much():
    samples, labels = blobs(300)
    assert prequential(PrototypeLearner(2, 2), samples * [1e-6, 1e6], labels) > 0.88


def test_what_two_learners_say_of_one_stream_is_the_same():
    first, second = (taught(PrototypeLearner(2, 2), *blobs(60)) for _ in range(2))
    for x in blobs(20, 1)[0]:
        np.testing.assert_array_equal(first.predict_proba(x), second.predict_proba(x))


def test_labels_that_come_late_and_out_of_order_are_learned():
    learner = PrototypeLearner(2, 2)
    samples, labels = blobs(200)
    for x in samples:
        learner.predict_proba(x)
    taught(learner, samples[::-1], labels[::-1])
    assert prequential(learner, *blobs(200, 1)) > 0.9


def test_experts_are_judged_by_what_they_said_when_they_were_asked():
    samples, labels = blobs(100)
    asked, not_asked = (taught(PrototypeLearner(2, 2), samples[:50], labels[:50]) for _ in range(2))
    x, y = samples[50], int(labels[50])
    asked.predict_proba(x)
    for _ in range(40):
        for learner in (asked, not_asked):
            learner.learn(x + 1e-3, 1 - y)
    asked.learn(x, y)
    not_asked.learn(x, y)
    assert asked.state()["hedge.loss"].sum() < not_asked.state()["hedge.loss"].sum()


def test_memory_stays_bounded_whatever_comes():
    learner = PrototypeLearner(2, 2, LearnerSettings(pending=10))
    before = sum(array.nbytes for array in learner.state().values())
    samples, labels = blobs(150)
    for index, (x, y) in enumerate(zip(samples, labels.tolist(), strict=True)):
        learner.predict_proba(x)
        learner.learn(x + 1.0, y)
        learner.receive(str(index), of_samples(x[None], np.array([y])))
    after = sum(array.nbytes for name, array in learner.state().items() if name != "peers")
    assert after < before
    assert len(learner.peer_trust()) == LearnerSettings().peers
    assert learner.pool_size <= LearnerSettings().pool


# ---------------------------------------------------------------- peers


def test_what_peers_know_helps_who_has_seen_little():
    samples, labels = turning(500)
    alone, helped = PrototypeLearner(2, 2), PrototypeLearner(2, 2)
    right = [0, 0]
    for index, (x, y) in enumerate(zip(samples[::5], labels[::5].tolist(), strict=True)):
        for place, learner in enumerate((alone, helped)):
            right[place] += int(learner.predict_proba(x).argmax()) == y
            learner.learn(x, y)
        between = slice(5 * index + 1, 5 * index + 5)
        helped.receive("b", of_samples(samples[between], labels[between]))
    assert right[1] > right[0]


def test_the_pool_gains_weight_where_peers_are_ahead_and_none_without_them():
    samples, labels = turning(500)
    learner = PrototypeLearner(2, 2)
    assert learner.pool_weight == 0.0
    for x, y, ahead in zip(samples[:-5], labels[:-5].tolist(), turning(500, 1)[0][5:], strict=True):
        learner.learn(x, y)
        assert learner.pool_size or learner.pool_weight == 0.0
        learner.receive("b", of_samples(ahead[None], np.array([y])))
    assert 0.0 < learner.pool_weight < 1.0


def test_who_sends_wrong_labels_loses_trust_and_weight_and_does_no_harm():
    samples, labels = blobs(200)
    alone = prequential(PrototypeLearner(2, 2), samples, labels)
    learner, right = PrototypeLearner(2, 2), 0
    honest, liar = blobs(200, 1), blobs(200, 2, flipped=True)
    for index, (x, y) in enumerate(zip(samples, labels.tolist(), strict=True)):
        right += int(learner.predict_proba(x).argmax()) == y
        learner.learn(x, y)
        for name, (sent, said) in (("honest", honest), ("liar", liar)):
            learner.receive(name, of_samples(sent[index : index + 1], said[index : index + 1]))
    trust = learner.peer_trust()
    assert trust["honest"] > 0.8
    assert trust["liar"] < 0.05
    assert right / 200 > alone - 0.02


def test_a_peer_that_has_left_is_forgotten():
    learner = taught(PrototypeLearner(2, 2), *blobs(20))
    learner.receive("b", of_samples(*blobs(5, 1)))
    learner.receive("c", of_samples(*blobs(3, 2)))
    learner.forget("b")
    learner.forget("never heard of")
    assert learner.pool_size == 3
    assert list(learner.peer_trust()) == ["c"]
    assert learner.predict_proba(np.zeros(2)).sum() == pytest.approx(1.0, abs=1e-6)
    learner.forget("c")
    assert learner.predict_proba(np.zeros(2)).sum() == pytest.approx(1.0)


def test_where_there_are_too_many_peers_the_longest_silent_makes_room():
    learner = PrototypeLearner(2, 2, LearnerSettings(peers=2))
    for peer in ("a", "b", "a", "c"):
        learner.receive(peer, of_samples(*blobs(2)))
    assert set(learner.peer_trust()) == {"a", "c"}
    assert learner.pool_size == 6


def test_without_a_pool_what_is_received_goes_nowhere():
    learner = taught(PrototypeLearner(2, 2, LearnerSettings(pool=0)), *blobs(20))
    before = learner.predict_proba(np.zeros(2))
    learner.receive("b", of_samples(*blobs(20, 1, flipped=True)))
    np.testing.assert_array_equal(learner.predict_proba(np.zeros(2)), before)


def test_a_pool_that_knows_a_sample_makes_it_likely():
    learner = taught(PrototypeLearner(2, 2), *blobs(100))
    knows, lies = of_samples(*blobs(50, 1)), of_samples(*blobs(50, 1, flipped=True))
    x = np.array([3.0, 0.0])
    assert learner.pool_probability(knows, x, 1) > 0.8
    assert learner.pool_probability(lies, x, 1) < 0.2
    assert learner.pool_probability(knows[:0], x, 1) == 0.0


def test_a_fleets_scales_are_known_from_the_first_sample():
    start = Scales(np.array([1.0, 2.0]), np.array([3.0, 4.0]), 10.0)
    scales = PrototypeLearner(2, 2, start=start).scales()
    np.testing.assert_array_equal(scales.variance, start.variance)


# ---------------------------------------------------------------- saving


def used(settings=None):
    learner = taught(PrototypeLearner(2, 2, settings), *blobs(130))
    learner.receive("b", of_samples(*blobs(40, 1)))
    learner.receive("ü", of_samples(*blobs(40, 2, flipped=True)))
    return taught(learner, *blobs(33, 3))


def test_a_learner_that_was_saved_goes_on_as_if_it_had_not_been():
    first, second = used(), PrototypeLearner(2, 2)
    second.restore(first.state())
    assert second.peer_trust() == first.peer_trust()
    for x, y in zip(*blobs(30, 4), strict=True):
        np.testing.assert_array_equal(first.predict_proba(x), second.predict_proba(x))
        for learner in (first, second):
            learner.learn(x, int(y))
            learner.receive("b", of_samples(x[None], np.array([y])))


def test_a_saved_state_does_not_change_with_the_learner():
    learner = used()
    state = learner.state()
    before = {name: array.copy() for name, array in state.items()}
    taught(learner, *blobs(9, 5))
    for name, array in before.items():
        np.testing.assert_array_equal(state[name], array)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("memory.vectors", np.zeros((200, 3), np.float32), "other settings"),
        ("memory.clock", np.array([5, 101]), "101 prototypes"),
        ("memory.clock", np.array([2**63 - 1, 0]), "after 9223372036854775807 samples"),
        ("memory.peers", np.full(100, 32), "memory.peers"),
        ("peers", np.frombuffer(b'[["a",0],["b",0]]', np.uint8), "no table"),
        ("peers", np.frombuffer(b"[[", np.uint8), "not readable"),
    ],
)
def test_a_state_that_cannot_be_is_refused_and_changes_nothing(name, value, message):
    learner = used()
    before = learner.predict_proba(np.zeros(2))
    with pytest.raises(ValueError, match=message):
        learner.restore(PrototypeLearner(2, 2).state() | {name: value})
    np.testing.assert_array_equal(learner.predict_proba(np.zeros(2)), before)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_is_named_and_nothing_is_learned(value):
    learner = used()
    before = learner.state()
    bad = np.array([0.0, value])
    for use in (learner.predict_proba, lambda x: learner.learn(x, 0)):
        with pytest.raises(ValueError, match="feature 1"):
            use(bad)
    for name, array in learner.state().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("y", [-1, 2])
def test_a_class_that_does_not_exist_is_refused(y):
    with pytest.raises(ValueError, match="none of the 2 classes"):
        PrototypeLearner(2, 2).learn(np.zeros(2), y)


@pytest.mark.parametrize(
    ("vectors", "label", "message"),
    [([[0.0]], 0, "2 features"), ([[0.0, np.nan]], 0, "not finite"), ([[0.0, 0.0]], 2, "class")],
)
def test_prototypes_that_cannot_be_used_are_refused_before_the_peer_is_known(vectors, label, message):
    learner = PrototypeLearner(2, 2)
    with pytest.raises(ValueError, match=message):
        learner.receive("b", of_samples(np.array(vectors), np.array([label])))
    assert learner.peer_trust() == {}


def test_values_as_large_as_allowed_and_as_small_do_no_harm():
    learner = PrototypeLearner(2, 2)
    for x in ([1e15, 1e-300], [-1e15, 0.0], [0.0, 1e-20], [1e-15, 1.0]):
        learner.learn(np.array(x), 1)
        assert learner.predict_proba(np.array(x)).sum() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("num_features", "num_classes"), [(0, 2), (2, 1)])
def test_there_is_nothing_to_tell_apart(num_features, num_classes):
    with pytest.raises(ValueError, match="too few"):
        PrototypeLearner(num_features, num_classes)
