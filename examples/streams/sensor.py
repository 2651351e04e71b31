"""A sensor as a command: a line for each sample, and its label some samples later.

    edgetide up --strategy gossip --data 'command:python3 examples/streams/sensor.py?features=2&classes=left,right'

Whatever prints such lines can take its place, in any language. What is written to the standard error goes to
the agent's log. Exit status 0 says that the stream is over; after any other the agent starts it again.
"""  # noqa: E501 - a command is one line

from __future__ import annotations

import argparse
import json
import os
import time
from collections import deque

from rotating import rotating


def main() -> None:
    """Print events until there are enough, or until SIGTERM."""
    parser = argparse.ArgumentParser(description="Print samples, and their labels later.")
    parser.add_argument("--every", type=float, default=0.05, help="seconds between two samples")
    parser.add_argument("--delay", type=int, default=5, help="samples after which a label comes")
    parser.add_argument("--samples", type=int, help="how many; left out: without end")
    parser.add_argument("--seed", type=int, default=os.getpid(), help="left out: another one in each process")
    asked = parser.parse_args()
    waiting: deque[tuple[int, str]] = deque()
    for number, sample in enumerate(rotating(asked.seed)):
        if asked.samples is not None and number >= asked.samples:
            break
        say({"id": number, "x": [sample.x, sample.y]})
        waiting.append((number, sample.label))
        if len(waiting) > asked.delay:
            say_label(*waiting.popleft())
        time.sleep(asked.every)
    for late in waiting:
        say_label(*late)


def say_label(number: int, label: str) -> None:
    """Write the label of a sample that was written before."""
    say({"id": number, "y": label})


def say(event: dict[str, object]) -> None:
    """Write it at once: a pipe would hold it back."""
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    main()
