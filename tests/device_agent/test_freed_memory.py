from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from device_agent.freed_memory import give_back_freed_memory

HOLDS = """
import numpy, psutil
from device_agent.freed_memory import give_back_freed_memory
give_back_freed_memory()
before = psutil.Process().memory_info().rss
kept = [numpy.ones(8000) for _ in range(1000)]
last = kept[-1]
del kept
freed = psutil.Process().memory_info().rss
give_back_freed_memory()
print(freed - before, psutil.Process().memory_info().rss - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_what_was_freed_below_what_is_kept_is_given_back():
    done = subprocess.run([sys.executable, "-c", HOLDS], check=True, capture_output=True, text=True)
    freed, given_back = map(int, done.stdout.split())
    assert freed > 32e6
    assert given_back < freed / 4


def test_without_such_a_library_nothing_happens(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    give_back_freed_memory()
