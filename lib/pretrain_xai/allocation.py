"""Arrays without waiting for the system: freed memory is kept for the next array of the same size."""

import ctypes
import sys

#: glibc's numbers of the parameters of `mallopt`
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next use; else it gets every large array anew from the system.

    Elsewhere than on Linux nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, 1 << 30)
        mallopt(_MMAP_THRESHOLD, 1 << 25)  # the most that glibc accepts
