"""The C library's way with memory."""

import ctypes
from contextlib import suppress


def keep_memory() -> None:
    """Have the C library keep what is freed, from now on, in the whole process.

    Else a tensor of some megabytes may or may not be made of fresh pages, which cost more than most operators and, of a
    network's forward pass, a tenth. Which of both depends on what the process allocated before.
    """
    with suppress(OSError, AttributeError):  # no glibc
        library = ctypes.CDLL(None)
        library.mallopt(-4, 0)  # M_MMAP_MAX: no mapping of its own for a large block
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap never shrinks
