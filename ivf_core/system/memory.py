"""Settings of the C allocator: keep or return freed memory."""

from __future__ import annotations

import ctypes
import logging
from contextlib import suppress

__all__ = ["keep_freed_memory", "return_freed_memory"]

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Make the C allocator keep freed memory instead of returning it to the system.

    Feature maps of a network take tens of megabytes, which glibc by default maps again for
    every frame; the page faults cost the student two thirds of its time. The process that
    runs the model calls this first: the node and the command line do.

    Returns:
        True if the C library accepted the settings (glibc does).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        logging.getLogger(__name__).info("no mallopt in this C library: freed memory is not kept")
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 1 << 28))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)


def return_freed_memory() -> None:
    """Return freed memory to the system now, if the C library can (glibc)."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
