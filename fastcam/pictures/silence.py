"""Decoders kept from writing to the terminal: what they print names no file, and comes a thousand times for one.

libjpeg, libpng and libtiff, which Pillow and OpenCV bring along, print by C's `stderr`; OpenCV's own log has a level.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

import cv2

_SILENT = 0  # OpenCV's level
_lock = Lock()
_decoding = 0  # threads that are at it
_before: tuple[int | None, int] = None, _SILENT  # what C's `stderr` and OpenCV's level were


@contextmanager
def silenced() -> Iterator[None]:
    """Have what C's libraries print go nowhere for a while, in all threads.

    File descriptor 2 stays as it is, and with it what Python, C++ and the system itself write there: only the variable
    `stderr` of the C library points to another stream as long as any thread is within such a block.
    """
    global _decoding
    with _lock:
        if not _decoding:
            _turn_off()
        _decoding += 1
    try:
        yield
    finally:
        with _lock:
            _decoding -= 1
            if not _decoding:
                _turn_on()


def _turn_off() -> None:
    global _before
    stream, nowhere = _streams()
    _before = None if stream is None else stream.value, cv2.utils.logging.getLogLevel()
    if stream is not None:
        stream.value = nowhere
    cv2.utils.logging.setLogLevel(_SILENT)


def _turn_on() -> None:
    stream, _ = _streams()
    if stream is not None:
        stream.value = _before[0]
    cv2.utils.logging.setLogLevel(_before[1])


@cache
def _streams() -> tuple[ctypes.c_void_p | None, int | None]:
    """C's variable `stderr`, and a stream that leads nowhere; None where the C library has no such variable."""
    try:
        library = ctypes.CDLL(None)
        library.fopen.restype = ctypes.c_void_p
        stream = ctypes.c_void_p.in_dll(library, "stderr")
        nowhere = library.fopen(os.devnull.encode(), b"we")
    except (OSError, TypeError, ValueError, AttributeError):
        return None, None
    return (stream, nowhere) if nowhere else (None, None)


def _forked() -> None:
    """In a process that was forked while others decoded, none of their threads is left to turn it on again."""
    global _decoding, _lock
    _lock = Lock()
    if _decoding:
        _decoding = 0
        _turn_on()


os.register_at_fork(after_in_child=_forked)
