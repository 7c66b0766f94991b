"""What benchmarks claim: a measured value, its bound, and whether it holds."""

import time
from collections.abc import Callable


def verdict(text: str, value: float, target: float, *, at_most: bool) -> str:
    """Say whether a measured value reaches its target."""
    holds = value <= target if at_most else value >= target
    return f"{'holds' if holds else 'DOES NOT HOLD'}: {text} {value:.4g}, {'at most' if at_most else 'at least'} {target:g}"


def processor_seconds(function: Callable[[], object]) -> float:
    """Return the processor time that the function takes, of all threads: other work on the machine changes it little."""
    started = time.process_time()
    function()
    return time.process_time() - started
