"""Files that Git LFS has not fetched: a few lines of text lie in their place."""

import re

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def pointer_size(start: bytes) -> str | None:
    """Return " of ... bytes" for the beginning of a Git LFS pointer, "" if it has no size; None of anything else."""
    if not start.startswith(_LFS_POINTER):
        return None
    size = re.search(rb"size (\d{1,15})", start)
    return f" of {int(size[1]):,} bytes" if size else ""
