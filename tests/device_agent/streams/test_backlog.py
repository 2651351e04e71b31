"""A bounded queue between two threads."""

from device_agent.streams.backlog import Backlog


def test_the_taker_is_called_once_until_it_has_taken_everything():
    backlog = Backlog()
    assert [backlog.put(b"a"), backlog.put(b"b"), backlog.put(b"c")] == [True, False, False]
    assert backlog.take(2) == ([b"a", b"b"], True)
    assert not backlog.put(b"d")
    assert backlog.take(2) == ([b"c", b"d"], False)
    assert backlog.is_empty
    assert backlog.put(b"e")


def test_of_too_many_items_the_oldest_are_dropped_and_counted():
    backlog = Backlog(most_items=2)
    for item in (b"a", b"b", b"c", b"d"):
        backlog.put(item)
    assert backlog.take(9) == ([b"c", b"d"], False)
    assert backlog.num_dropped == 2


def test_of_too_many_bytes_the_oldest_are_dropped_too():
    backlog = Backlog(most_bytes=5)
    for item in (b"aaa", b"bb", b"c"):
        backlog.put(item)
    assert backlog.take(9)[0] == [b"bb", b"c"]
    backlog.put(b"12345")
    assert backlog.take(9) == ([b"12345"], False)
    assert backlog.num_dropped == 1
