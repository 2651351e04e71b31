"""A limit of the log."""

from device_agent.streams.log_limit import LogLimit


def test_lines_beyond_the_limit_are_left_out_and_counted():
    now_s = [0.0]
    limit = LogLimit(most=2, period_s=60.0, now_s=lambda: now_s[0])
    assert [limit.admit() for _ in range(5)] == [0, 0, None, None, None]
    now_s[0] = 59.9
    assert limit.admit() is None
    now_s[0] = 60.0
    assert [limit.admit(), limit.admit(), limit.admit()] == [4, 0, None]
