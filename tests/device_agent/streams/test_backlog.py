"""A bounded queue between two threads."""

from device_agent.streams.backlog import Backlog


def test_the_taker_is_called_once_until_it_has_taken_everything():
    backlog = Backlog()
    assert [backlog.put(b"a"), backlog.put(b"b"), backlog.put(b"c")] == [True, False, False]
    assert backlog.take(2) == ([(0, b"a"), (0, b"b")], True)
    assert not backlog.put(b"d")
    assert backlog.take(2) == ([(0, b"c"), (0, b"d")], False)
    assert backlog.is_empty
    assert backlog.put(b"e")


def test_of_too_many_items_the_oldest_are_dropped_and_counted():
    backlog = Backlog(most_items=2)
    for item in (b"a", b"b", b"c", b"d"):
        backlog.put(item)
    assert backlog.take(9) == ([(0, b"c"), (0, b"d")], False)
    assert backlog.num_dropped == 2


def test_of_too_many_bytes_the_oldest_are_dropped_too():
    backlog = Backlog(most_bytes=5)
    for item in (b"aaa", b"bb", b"c"):
        backlog.put(item)
    assert backlog.take(9)[0] == [(0, b"bb"), (0, b"c")]
    backlog.put(b"12345")
    assert backlog.take(9) == ([(0, b"12345")], False)
    assert backlog.num_dropped == 1


def test_items_say_where_they_are_from():
    backlog = Backlog(most_items=2)
    for source, item in enumerate((b"a", b"b", b"c")):
        backlog.put(item, source)
    assert backlog.take(9)[0] == [(1, b"b"), (2, b"c")]


def test_what_is_cleared_is_gone_uncounted_and_leaves_room():
    backlog = Backlog(most_bytes=4)
    backlog.put(b"123")
    backlog.clear()
    assert backlog.is_empty
    backlog.put(b"4567")
    assert (backlog.take(9)[0], backlog.num_dropped) == ([(0, b"4567")], 0)
