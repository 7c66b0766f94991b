"""The most memory that this program has had."""

import re
import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_memory() -> int:
    """Return the largest resident set of this program so far, bytes.

    On Linux as the system says of this program alone; elsewhere the largest of it and of the process that started it.
    """
    if STATUS.is_file():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"))[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
