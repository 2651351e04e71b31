"""The tree of filters against the plain matching rule."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.subscriptions import Subscriptions, is_filter, is_topic
from device_agent.wire.topics import matches

LEVEL = st.sampled_from(["a", "b", "", "$x"])
PATTERN = st.lists(st.one_of(LEVEL, st.just("+")), min_size=1, max_size=4).flatmap(
    lambda levels: st.sampled_from(["/".join(levels), "/".join([*levels, "#"]), "#"])
)
TOPIC = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(lambda topic: not topic.startswith("$"))
ENTRY = st.tuples(st.sampled_from(["c1", "c2"]), PATTERN, st.sampled_from([0, 1]))


@given(st.lists(ENTRY, max_size=12), st.lists(st.integers(0, 11), max_size=6), TOPIC)
@settings(deadline=None, max_examples=300)
def test_the_tree_finds_whom_the_plain_rule_finds(entries, removed, topic):
    tree, plain = Subscriptions(), {}
    for client, pattern, qos in entries:
        tree.add(client, pattern, qos)
        plain[client, pattern] = qos
    for index in removed:
        if index < len(entries):
            client, pattern, _ = entries[index]
            tree.remove(client, pattern)
            plain.pop((client, pattern), None)
    expected = {}
    for (client, pattern), qos in plain.items():
        if matches(pattern, topic):
            expected[client] = max(qos, expected.get(client, 0))
    assert tree.matching(topic) == expected


@given(st.lists(ENTRY, max_size=12))
@settings(deadline=None)
def test_a_client_that_is_forgotten_leaves_nothing_behind(entries):
    tree = Subscriptions()
    for client, pattern, qos in entries:
        tree.add(client, pattern, qos)
    tree.remove_all("c1")
    tree.remove_all("c2")
    assert tree._root.below == {}
    assert tree.of("c1") == frozenset()


def test_wildcards_do_not_reach_the_brokers_own_topics():
    tree = Subscriptions()
    tree.add("c", "#", 0)
    tree.add("c", "+/x", 0)
    assert tree.matching("$SYS/x") == {}


@pytest.mark.parametrize("pattern", ["a/+/#", "#", "+", "a//b", "$SYS/#"])
def test_a_legal_filter_is_taken(pattern):
    assert is_filter(pattern)


@pytest.mark.parametrize("pattern", ["", "a#", "#/a", "a+/b", "a\0", "$share/g/a", "a" * 2000, "/" * 40])
def test_a_filter_that_is_illegal_or_not_carried_is_not(pattern):
    assert not is_filter(pattern)


@pytest.mark.parametrize("topic", ["", "a/+", "#", "$SYS", "a\0", "a" * 2000, "/" * 40])
def test_a_topic_nobody_may_publish_to_is_not_one(topic):
    assert not is_topic(topic)
