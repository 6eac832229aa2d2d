"""Memory that a training step frees and the next one takes again stays with the process, on a CPU.

glibc gives large blocks back to the kernel as soon as they are free, and asks for them anew in the next step, when
every page of 4 KiB is a fault of its own: a step of a small model spends a fifth of its time on that. Under
:func:`kept` malloc takes large blocks from its heap too and keeps them; afterwards what is free goes back.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

# of malloc.h, and what malloc comes to by itself after large blocks were freed
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_USUAL = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20, _TOP_PAD: 128 << 10}
_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 << 20}


@contextlib.contextmanager
def kept(wanted: bool = True) -> Iterator[bool]:
    """Whether memory is kept while this lasts: where it is wanted, and where glibc has the say."""
    libc = _libc() if wanted else None
    if libc is None:
        yield False
        return
    done = all([libc.mallopt(name, value) for name, value in _KEPT.items()])
    try:
        yield done
    finally:
        for name, value in _USUAL.items():
            libc.mallopt(name, value)
        libc.malloc_trim(0)


def _libc() -> Any:
    """The C library of this process, if it is glibc."""
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version, libc.mallopt, libc.malloc_trim  # noqa: B018  AttributeError without them
    except (OSError, TypeError, AttributeError):
        return None
    return libc
