"""Bytes cut into lines."""

from hypothesis import given
from hypothesis import strategies as st

from device_agent.streams.lines import LineCutter


def test_a_line_longer_than_allowed_is_cut_and_shows_it():
    cutter = LineCutter(most_bytes=4)
    assert cutter.cut(b"abcd\nabcdefgh") == [b"abcd"]
    assert cutter.cut(b"ij" * 1000) == []
    assert cutter.cut(b"k\nab\n") == [b"abcde", b"ab"]


def test_what_follows_the_last_end_is_kept_for_the_end():
    cutter = LineCutter(most_bytes=10)
    assert cutter.cut(b"a\nbc") == [b"a"]
    assert (cutter.last(), cutter.last()) == (b"bc", b"")


@given(
    chunks=st.lists(st.binary(max_size=12).map(lambda raw: raw.replace(b"\0", b"\n"))), most=st.integers(1, 8)
)
def test_lines_are_the_same_however_the_bytes_come(chunks, most):
    cutter = LineCutter(most)
    lines = [line for chunk in chunks for line in cutter.cut(chunk)]
    assert [*lines, cutter.last()] == [line[: most + 1] for line in b"".join(chunks).split(b"\n")]
