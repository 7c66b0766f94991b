"""Mutations of files: what a damaged disk, a broken transfer or a hostile hand may do to them.

`PRETRAIN_XAI_MUTATIONS=2000 pytest -k harm` reads more of them.
"""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

#: mutations of each reader
MUTATIONS = int(os.environ.get("PRETRAIN_XAI_MUTATIONS", "150"))
#: no mutated file of some kB takes longer, seconds of the processor, nor more memory than there was, bytes
LONGEST, MOST_MEMORY = 5.0, 4 * 2**30
#: what no reader does, as the interpreter's audit events name it
FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect")
_TELLING = (b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\xff" * 7 + b"\x7f", b"\n", b"\t", b'"', b"nan", b"../")


def mutations(content: bytes, count: int, seed: int, header: int) -> Iterator[bytes]:
    """Yield damaged versions of a file: bytes flipped, cut, doubled, moved, overwritten; half of them in its header."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        end = min(header, len(content)) if rng.random() < 0.5 else len(content)
        mutated = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            place, length = int(rng.integers(max(end, 1))), int(rng.integers(1, 17))
            kind = rng.integers(5)
            if kind == 0:
                mutated[place : place + length] = rng.bytes(length)
            elif kind == 1:
                del mutated[place:]
            elif kind == 2:
                mutated[place:place] = mutated[place : place + 8 * length]
            elif kind == 3:
                del mutated[place : place + length]
            else:
                telling = _TELLING[rng.integers(len(_TELLING))]
                mutated[place : place + len(telling)] = telling
        yield bytes(mutated)


def survive(path: Path, content: bytes, header: int, read: Callable[[], object], expected: type[Exception]) -> int:
    """Read each mutation of a file; as `survive_all`."""
    return survive_all(path, mutations(content, MUTATIONS, 0, header), read, expected)


def survive_all(
    path: Path, contents: Iterable[bytes], read: Callable[[], object], expected: type[Exception], name: str = ""
) -> int:
    """Read each content of a file; it must give a value or the expected error, soon. Return how many were refused.

    An error must be one short line that has `name`, if one is given.
    """
    refused = 0
    for number, content in enumerate(contents):
        path.write_bytes(content)
        try:
            with guarded():
                read()
        except expected as error:
            refused += 1
            assert "\n" not in str(error) and 0 < len(str(error)) < 3_000, f"input {number}: {error!r}"
            assert name in str(error), f"input {number}: {error!r} does not say {name}"
        except BaseException as error:
            error.add_note(f"input {number} of {path.name}: {content[:300]!r}")
            raise
    return refused


class HarmError(BaseException):
    """A reader did what no reader may do."""


_reading = False


def _watch(event: str, _: object) -> None:
    """Listen to the interpreter's audit events while a reader reads; the hook can't be taken away again."""
    if _reading and event in FORBIDDEN:
        raise HarmError(event)


sys.addaudithook(_watch)


def _too_long(*_: object) -> None:
    raise HarmError("it took too long")


@contextlib.contextmanager
def guarded(longest: float = LONGEST) -> Iterator[None]:
    """Stop what takes too long or too much, or starts a program or a connection, by an error that no reader catches."""
    global _reading  # noqa: PLW0603
    limits = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGPROF, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST_MEMORY, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, longest)
    _reading = True
    try:
        yield
    finally:
        _reading = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGPROF, before)
