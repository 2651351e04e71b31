"""Starting workers on this machine, and giving them tasks."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from dse.site import Run
from dse.worker import Answer, Task
from firmware_profiles.errors import UserError
from firmware_profiles.process import own_argv

_POLL_S = 0.5
_PATIENCE_S = 20.0


@dataclass(frozen=True, eq=False)
class Worker:
    """A child process, and where the answers of all of them arrive; None says that it is gone."""

    process: subprocess.Popen[bytes]
    answers: queue.SimpleQueue[tuple[Worker, Answer | None]]

    def send(self, message: Run | Task) -> None:
        """Give it a run or a task; one that is gone says so in its answers."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(msgspec.json.encode(message) + b"\n")


@contextlib.contextmanager
def started_workers(run: Run) -> Iterator[list[Worker]]:
    """Workers of a run for as long as the block lasts.

    Each leads its own session: Ctrl-C at the terminal reaches it only through us.

    Raises:
        UserError: they cannot load what they shall measure.
    """
    workers: list[Worker] = []
    answers: queue.SimpleQueue[tuple[Worker, Answer | None]] = queue.SimpleQueue()
    try:
        workers.extend(_start(answers) for _ in range(run.num_workers))
        for worker in workers:
            worker.send(run)
        wait_for(workers, lambda: None)
        yield workers
    finally:
        _end(workers)


def give(workers: Sequence[Worker], tasks: Sequence[Task], while_waiting: Callable[[], None]) -> None:
    """Give each worker a task and wait for all of them.

    One that is lost is no error as long as another is left: what it did not do is left open.

    Args:
        workers: of this machine.
        tasks: one for each worker that still lives, in order; fewer leave the others idle.
        while_waiting: called a few times a second.

    Raises:
        UserError: all are lost, or one cannot go on.
    """
    busy = [worker for worker in workers if worker.process.poll() is None][: len(tasks)]
    for worker, task in zip(busy, tasks, strict=False):
        worker.send(task)
    wait_for(busy, while_waiting)


def wait_for(workers: Sequence[Worker], while_waiting: Callable[[], None]) -> None:
    """Wait for an answer of each worker.

    Raises:
        UserError: all are lost, or one cannot go on.
    """
    pending, num_lost = list(workers), 0
    while pending:
        while_waiting()
        with contextlib.suppress(queue.Empty):
            worker, answer = pending[0].answers.get(timeout=_POLL_S)
            pending = [one for one in pending if one is not worker]
            num_lost += answer is None
            if answer is not None and answer.error is not None:
                raise UserError(answer.error)
    if num_lost == len(workers):
        raise UserError(
            "All worker processes were ended or crashed; what they measured is kept, and the same command "
            "goes on. With --workers 1 the cause is shown."
        )


def _start(answers: queue.SimpleQueue[tuple[Worker, Answer | None]]) -> Worker:
    process = subprocess.Popen(
        own_argv("dse.worker"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )
    worker = Worker(process, answers)
    threading.Thread(target=_read, args=(worker,), daemon=True).start()
    return worker


def _read(worker: Worker) -> None:
    assert worker.process.stdout is not None
    with worker.process.stdout as lines, contextlib.suppress(msgspec.DecodeError):
        for line in lines:
            worker.answers.put((worker, msgspec.json.decode(line, type=Answer)))
    worker.answers.put((worker, None))


def _end(workers: Sequence[Worker]) -> None:
    """Let each give up its trial; one that does not is killed, and others take its trial for lost."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        try:
            worker.process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        assert worker.process.stdin is not None
        worker.process.stdin.close()
