"""Keep the process's memory from frame to frame."""

from __future__ import annotations

import ctypes
import logging
from contextlib import suppress

__all__ = ["keep_freed_memory", "return_freed_memory"]

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Have the C allocator keep freed memory instead of returning it to the system.

    A network's feature maps are tens of megabytes, which glibc maps afresh for
    every frame; the page faults cost the student two thirds of its time. For the
    process that owns the model: the node and the command line call it first.

    Returns:
        Whether the C library took the settings (glibc does).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        logging.getLogger(__name__).info("no mallopt in this C library: memory is not kept")
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 1 << 28))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)


def return_freed_memory() -> None:
    """Return freed memory to the system now, where the C library can (glibc)."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
