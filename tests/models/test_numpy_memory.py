from __future__ import annotations

from models.engines.numpy.memory import Buffers


def test_a_buffer_serves_again_only_when_no_array_lies_in_it():
    buffers = Buffers()
    first = buffers.take(100, 100)
    view, address = first[3:, ::2], first.ctypes.data
    del first
    second = buffers.take(100, 100)
    assert second.ctypes.data != address  # a view still lies in the first
    del view
    assert buffers.take(90, 100).ctypes.data == address


def test_buffers_that_a_step_did_not_use_are_dropped():
    buffers = Buffers()
    buffers.take(100, 100)
    for _ in range(2):
        buffers.next_step()
        buffers.take(400, 100)
    assert [len(buffer) for buffer in buffers._buffers] == [40000]
