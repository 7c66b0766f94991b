"""With this folder on PYTHONPATH every Python lists folders in a random order, as another file system may."""

import os
import random

_RNG = random.Random()  # not that of the library's user
_listdir, _scandir = os.listdir, os.scandir


class _Shuffled:
    """What `os.scandir` gives: an iterator that may be closed."""

    def __init__(self, entries: list) -> None:
        self._entries = iter(entries)

    def __next__(self):
        return next(self._entries)

    def __iter__(self):
        return self

    __enter__ = __iter__

    def close(self, *_) -> None:
        """Forget what is left, as the real one does."""
        self._entries = iter(())

    __exit__ = close


def _shuffle(entries: list) -> list:
    return _RNG.sample(entries, len(entries))


def listdir(path="."):
    """List a folder in a random order."""
    return _shuffle(_listdir(path))


def scandir(path="."):
    """Scan a folder in a random order."""
    with _scandir(path) as entries:
        return _Shuffled(_shuffle(list(entries)))


os.listdir, os.scandir = listdir, scandir
