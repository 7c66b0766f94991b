"""Mutations of files: what a damaged disk, a broken transfer or a hostile hand may do to them.

`make fuzz` (this file as a program) runs every test that is named `... harm` with 2,000 mutations of each file, and writes to
`docs/fuzz.json` how many inputs each reader met, how many it refused, and the slowest and the largest of them.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

#: mutations of each reader; `PRETRAIN_XAI_MUTATIONS=2000` for the long version
MUTATIONS = int(os.environ.get("PRETRAIN_XAI_MUTATIONS", "150"))
#: no mutated file of some kB takes longer, seconds of the processor, nor do all of them take more memory, kB
LONGEST, MOST_MEMORY = 5.0, 400_000
#: nor waits longer for something, seconds; other processes may be busy
LONGEST_WAIT = 60.0
#: what a reader can't get more of than it had, bytes: a bomb fails its test, not the machine
MOST_ADDRESSES = 4 * 2**30
#: what no reader does, as the interpreter's audit events name it
FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect")
#: where each reader's counts are added, a line of JSON each
REPORT = "PRETRAIN_XAI_FUZZ_REPORT"
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
    """Read each mutation of a file; as `survive_all`."""
    return survive_all(path, mutations(content, MUTATIONS, 0, header), read, expected)


def survive_all(
    path: Path, contents: Iterable[bytes], read: Callable[[], object], expected: type[Exception], name: str = ""
) -> int:
    """Read each content of a file; it must give a value or the expected error, soon. Return how many were refused.

    An error must be one short line that has `name`, if one is given.
    """
    refused, slowest, number, before = 0, 0.0, -1, memory_now()
    for number, content in enumerate(contents):
        path.write_bytes(content)
        started = time.process_time()
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
        slowest = max(slowest, time.process_time() - started)
    memory = max(0, peak_memory() - before)  # the system counts pages in lots
    assert memory < MOST_MEMORY, f"{memory:,} kB"
    report(inputs=number + 1, refused=refused, slowest_s=round(slowest, 3), memory_mb=memory // 1000)
    return refused


@contextlib.contextmanager
def guarded(longest: float = LONGEST) -> Iterator[None]:
    """Stop what takes too long or too much, or starts a program or a connection, by an error that no reader catches."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = {name: signal.signal(name, _too_long) for name in (signal.SIGALRM, signal.SIGPROF)}
    resource.setrlimit(resource.RLIMIT_AS, (addresses + MOST_ADDRESSES, hard))
    signal.setitimer(signal.ITIMER_PROF, longest)
    signal.setitimer(signal.ITIMER_REAL, longest + LONGEST_WAIT)
    _watch.reading = True
    try:
        yield
    finally:
        _watch.reading = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for name, handler in before.items():
            signal.signal(name, handler)


class HarmError(BaseException):
    """A reader did what no reader may do."""


class _Watch:
    """The hook for the interpreter's audit events, which can't be taken away again; it listens while a reader reads."""

    def __init__(self) -> None:
        self.reading = False
        sys.addaudithook(self)

    def __call__(self, event: str, _: object) -> None:
        if self.reading and event in FORBIDDEN:
            raise HarmError(event)


_watch = _Watch()


def memory_now() -> int:
    """Return the memory of this process, kB, from which its peak is counted from now on."""
    with contextlib.suppress(OSError):  # where that is not allowed the peak is that of all before, too
        Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def peak_memory() -> int:
    """Return the largest memory of this process, kB, since `memory_now`."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def report(**counts: float) -> None:
    """Add what the reader of the test that runs has met to the report, if one is asked for."""
    if REPORT in os.environ:
        test = os.environ["PYTEST_CURRENT_TEST"].removesuffix(" (call)")
        with Path(os.environ[REPORT]).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"test": test, **counts}) + "\n")


def _too_long(*_: object) -> None:
    raise HarmError("it took too long")


def _by_test(lines: list[str]) -> list[dict]:
    """Return what each test met: sums of the inputs, the slowest and the largest."""
    tests: dict[str, dict] = {}
    for new in map(json.loads, lines):
        old = tests.setdefault(new.pop("test"), dict.fromkeys(new, 0))
        old.update({name: max(old[name], new[name]) for name in ("slowest_s", "memory_mb")})
        old.update({name: old[name] + new[name] for name in ("inputs", "refused")})
    return [{"test": test, **counts} for test, counts in tests.items()]


def main() -> None:
    """Run all of these tests at length and write what each reader met; nothing is written if one fails."""
    from pretrain_xai.paths import REPOSITORY
    from pretrain_xai.provenance import write_text

    os.environ.setdefault("PRETRAIN_XAI_MUTATIONS", "2000")
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as report:
        command = [sys.executable, "-m", "pytest", "tests", "-k", "harm and not harmless"]
        subprocess.run(command, cwd=REPOSITORY, env=os.environ | {REPORT: report.name}, check=True)
        readers = _by_test(Path(report.name).read_text(encoding="utf-8").splitlines())
    total = {"inputs": sum(reader["inputs"] for reader in readers), "crashes": 0, "executions": 0}
    write_text(REPOSITORY / "docs" / "fuzz.json", json.dumps(total | {"readers": readers}, indent=1) + "\n")
    print(f"{total['inputs']:,} inputs to {len(readers)} readers: no crash, no execution; wrote docs/fuzz.json")


if __name__ == "__main__":
    main()
