"""A live stream from a program that really runs."""

import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from device_agent.streams.command_stream import LINES_BETWEEN_LOOKS, MOST_LINES_S, CommandStream
from device_agent.streams.process import StopSignal
from firmware_profiles.errors import UserError
from models.data.live import LiveSource

ENOUGH_S = 30.0


def python(program):
    """A command line that runs a Python program."""
    return shlex.join([sys.executable, "-S", "-c", program])


class Node:
    """A node's thread that the test plays, with one stream."""

    def __init__(self, command, **options):
        self.samples, self.ends = [], 0
        self._posted = queue.SimpleQueue()
        source = LiveSource("command", command, 1, ("down", "up"))
        options = {"first_wait_s": 0.01, "longest_wait_s": 0.02, **options}
        self.stream = CommandStream(source, self._posted.put, **options)

    def start(self):
        self.stream.start(self.samples.extend, self._ended)
        return self

    def _ended(self):
        self.ends += 1

    def run_until(self, is_over):
        until_s = time.monotonic() + ENOUGH_S
        while not is_over():
            self._posted.get(timeout=max(0.0, until_s - time.monotonic()))()
        return self

    def run_what_is_posted(self):
        while not self._posted.empty():
            self._posted.get()()

    def to_its_end(self):
        return self.run_until(lambda: self.ends)

    def stop(self):
        self.stream.stop()
        assert self.stream.wait_ended(ENOUGH_S)

    @property
    def told(self):
        return [(one.number, one.vector.tolist()[0], one.label) for one in self.samples]


@pytest.fixture
def node():
    """Makes nodes, and has what they run ended."""
    made = []

    def make(command, **options):
        made.append(Node(command, **options))
        return made[-1]

    yield make
    for one in made:
        one.stream.stop()
    for one in made:
        assert one.stream.wait_ended(ENOUGH_S)
    assert not [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE]


def is_gone(pid):
    """Whether a process ends in time."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:  # an orphan that nobody has reaped yet
            return True
        process.wait(ENOUGH_S)
    except psutil.NoSuchProcess:
        return True
    return not process.is_running()


def test_lines_of_output_are_samples_and_status_0_is_the_end(node):
    one = node("printf '1,up\\n\\n2\\n3,down'").start().to_its_end()
    assert one.told == [(0, 1.0, 1), (1, 2.0, None), (2, 3.0, 0)]
    assert (one.stream.num_missed, one.stream.num_left, one.ends) == (0, None, 1)


def test_numbers_go_on_from_an_earlier_life(node):
    assert node("echo 1", first_number=7).start().to_its_end().told == [(7, 1.0, None)]


def test_no_shell_reads_the_command(node):
    one = node("printf '%s\\n' 1 '$(echo 2)' ';' 3").start().to_its_end()
    assert one.told == [(0, 1.0, None), (1, 3.0, None)]
    assert one.stream.num_missed == 2


def test_a_line_comes_while_the_command_still_runs(node):
    one = node(python("import time; print('1', flush=True); time.sleep(600)")).start()
    one.run_until(lambda: one.samples)
    assert one.told == [(0, 1.0, None)]
    one.stop()


def test_bad_lines_are_counted_and_the_good_ones_come(node, caplog):
    program = (
        "import sys; [print('x' * 100_000) for _ in range(20)]; "
        "print('1', flush=True); sys.stdout.buffer.write(b'\\xff\\n2')"
    )
    one = node(python(program)).start().to_its_end()
    assert one.told == [(0, 1.0, None), (1, 2.0, None)]
    assert one.stream.num_missed == 21
    assert "64 KiB" in caplog.text
    assert len(caplog.text) < 3000


def test_more_than_fits_into_one_delivery_comes_in_several(node):
    one = node(python("for i in range(2000): print(i)"))
    sizes = []
    one.stream.start(lambda samples: sizes.append(len(samples)), one._ended)
    one.to_its_end()
    assert sum(sizes) == 2000
    assert max(sizes) <= 256


def test_what_is_not_taken_in_time_is_dropped_and_counted(node):
    one = node(python("for i in range(20_000): print(i)")).start()
    assert one.stream.wait_ended(ENOUGH_S)  # nothing was taken until the command had ended
    one.to_its_end()
    values = [value for _, value, _ in one.told]
    assert values == list(range(20_000 - len(values), 20_000))
    assert len(values) + one.stream.num_missed == 20_000
    assert one.stream.num_missed > 0


def test_a_command_that_prints_without_end_is_held_back(node, monkeypatch):
    waits_s = []
    monkeypatch.setattr(StopSignal, "wait", lambda _stop, wait_s: waits_s.append(wait_s))
    one = node(python("for i in range(20_000): print(i)")).start().to_its_end()
    assert waits_s
    assert all(0 < wait_s <= LINES_BETWEEN_LOOKS / MOST_LINES_S for wait_s in waits_s)
    assert len(one.samples) + one.stream.num_missed == 20_000


def test_what_comes_while_held_is_left_out_and_counted(node):
    one = node("seq 10")
    one.stream.hold()
    one.start().to_its_end()
    assert (one.told, one.stream.num_missed) == ([], 10)


def test_what_comes_while_it_rests_waits_and_then_is_the_end(node):
    one = node("seq 10")
    one.stream.rest()
    one.start()
    assert one.stream.wait_ended(ENOUGH_S)
    one.run_what_is_posted()
    assert (one.told, one.ends) == ([], 0)
    one.stream.go_on()
    one.to_its_end()
    assert (len(one.told), one.stream.num_missed, one.ends) == (10, 0, 1)


def test_a_command_that_fails_is_started_again(node, tmp_path, caplog):
    flag = tmp_path / "flag"
    program = (
        f"import os, sys; print('1', flush=True); again = os.path.exists({str(flag)!r}); "
        f"open({str(flag)!r}, 'w').close(); print('no sensor', file=sys.stderr); sys.exit(0 if again else 3)"
    )
    caplog.set_level("INFO")
    one = node(python(program)).start().to_its_end()
    assert one.told == [(0, 1.0, None), (1, 1.0, None)]
    assert "status 3" in caplog.text
    assert "no sensor" in caplog.text


def test_a_command_that_is_killed_is_started_again_with_its_ids_anew(node):
    program = 'import os, time; print(\'{"x": [%d], "id": 0}\' % os.getpid(), flush=True); time.sleep(600)'
    one = node(python(program)).start()
    one.run_until(lambda: one.samples)
    first = int(one.told[0][1])
    os.kill(first, signal.SIGKILL)
    one.run_until(lambda: len(one.samples) == 2)
    assert [number for number, _, _ in one.told] == [0, 1]
    one.stop()


def test_lines_that_waited_keep_the_ids_of_the_command_that_said_them(node, tmp_path):
    flag = tmp_path / "flag"
    first, second = '{"x": [1], "id": 0}\n{"id": 0, "y": "up"}\n{"x": [2], "id": 5}', '{"id": 5, "y": "up"}'
    program = (
        f"import os, sys; again = os.path.exists({str(flag)!r}); open({str(flag)!r}, 'w').close(); "
        f"print({second!r} if again else {first!r}, flush=True); sys.exit(0 if again else 3)"
    )
    one = node(python(program))
    one.stream.rest()
    one.start()
    assert one.stream.wait_ended(ENOUGH_S)
    one.stream.go_on()
    one.to_its_end()
    assert [(sample.number, sample.label) for sample in one.samples] == [(0, None), (0, 1), (1, None)]
    assert one.stream.num_missed == 1


def test_waits_grow_up_to_the_longest(node, monkeypatch):
    waits_s = []

    def wait(_stop, wait_s):
        waits_s.append(wait_s)
        return len(waits_s) == 8

    monkeypatch.setattr(StopSignal, "wait", wait)
    one = node("false", first_wait_s=1.0, longest_wait_s=60.0).start()
    assert one.stream.wait_ended(ENOUGH_S)
    assert waits_s == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_a_command_that_cannot_be_started_any_more_is_tried_again(node, tmp_path, caplog):
    program = tmp_path / "sensor"
    program.write_text("#!/bin/sh\necho 1\n")
    program.chmod(0o700)
    one = node(str(program))
    program.rename(tmp_path / "away")
    asked = threading.Event()
    monitored = StopSignal.wait

    def wait(stop, wait_s):
        asked.set()
        return monitored(stop, wait_s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopSignal, "wait", wait)
        one.start()
        assert asked.wait(ENOUGH_S)
        (tmp_path / "away").rename(program)
        one.to_its_end()
    assert one.told == [(0, 1.0, None)]
    assert "cannot be started" in caplog.text


def test_a_program_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match=r"no-such-sensor.*path and rights"):
        Node("no-such-sensor --fast")


def test_stop_ends_the_whole_process_group_and_nothing_more_comes(node):
    program = (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)']); "
        "print(child.pid, flush=True); print('{\"x\": [1]}', flush=True); time.sleep(600)"
    )
    one = node(python(program)).start()
    one.run_until(lambda: len(one.samples) == 2)
    child = int(one.told[0][1])
    one.stop()
    assert is_gone(child)
    one.run_what_is_posted()
    assert (len(one.samples), one.ends) == (2, 0)


def test_a_command_that_ignores_sigterm_is_killed(node):
    program = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print(os.getpid(), flush=True); time.sleep(600)"
    )
    one = node(python(program), grace_s=0.1).start()
    one.run_until(lambda: one.samples)
    one.stop()
    assert is_gone(int(one.told[0][1]))


def test_a_command_may_end_in_order_after_sigterm(node, tmp_path):
    done = tmp_path / "done"
    program = (
        "import signal, sys, time\n"
        f"def end(*_): open({str(done)!r}, 'w').close(); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print(1, flush=True)\n"
        "time.sleep(600)"
    )
    one = node(python(program), grace_s=ENOUGH_S).start()
    one.run_until(lambda: one.samples)
    one.stop()
    assert done.exists()


def test_stop_ends_a_wait_for_the_next_start(node):
    one = node("false", first_wait_s=600.0).start()
    one.stop()


def test_stops_after_the_end_are_harmless(node):
    one = node("echo 1").start().to_its_end()
    one.stop()
    one.stop()
    assert one.ends == 1


def test_a_command_that_closes_its_output_is_awaited(node):
    one = (
        node(python("import os, time; print(1, flush=True); os.close(1); time.sleep(0.05)"))
        .start()
        .to_its_end()
    )
    assert one.told == [(0, 1.0, None)]


def test_the_settings_of_the_agent_are_not_in_the_environment_of_the_command(node, monkeypatch):
    monkeypatch.setenv("EDGETIDE_BROKER", "mqtt://me:secret@host")
    program = "import os; print(sum(key.startswith('EDGETIDE_') for key in os.environ))"
    assert node(python(program)).start().to_its_end().told == [(0, 0.0, None)]


def test_a_command_does_not_outlive_a_process_that_forgets_to_stop_it():
    program = """
import queue
from device_agent.streams.command_stream import CommandStream
from models.data.live import LiveSource

posted = queue.SimpleQueue()
source = LiveSource("command", "sh -c 'echo $$; exec sleep 600'", 1, ("a", "b"))
CommandStream(source, posted.put).start(lambda samples: print(int(samples[0].vector[0])), print)
posted.get(timeout=30)()
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert is_gone(int(run.stdout))
