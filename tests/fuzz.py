"""Mutations of files: what a damaged disk, a broken transfer or a hostile hand may do to them."""

import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

#: mutations of each reader; `PRETRAIN_XAI_MUTATIONS=2000` for the long version
MUTATIONS = int(os.environ.get("PRETRAIN_XAI_MUTATIONS", "150"))
#: no mutated file of some kB takes longer, seconds, nor more memory, kB
LONGEST, MOST_MEMORY = 5.0, 400_000
_TELLING = (
    b"\x00",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\n",
    b"\t",
    b'"',
    b"nan",
    b"../",
)


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
    """Read each mutation of a file; it must give a value or the expected error, soon. Return how many were refused."""
    refused, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, mutated in enumerate(mutations(content, MUTATIONS, 0, header)):
        path.write_bytes(mutated)
        started = time.monotonic()
        try:
            read()
        except expected as error:
            refused += 1
            assert str(error) and "\n" not in str(error), f"mutation {number}: {error!r}"
        assert time.monotonic() - started < LONGEST, f"mutation {number} took too long"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY
    return refused
