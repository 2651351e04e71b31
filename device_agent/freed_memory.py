"""Gives memory that was freed back to the system, where the C library keeps it for later.

References:
    malloc_trim(3), glibc: freed blocks below its mmap threshold, which grows with the largest block that was
    freed, stay with the process until it is told to release whole pages.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc


def give_back_freed_memory() -> None:
    """After a large read, such as of a file: what it took in passing is free for others. Never fails.

    Without glibc only the garbage is collected.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
