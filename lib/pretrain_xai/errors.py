"""Errors that a user can mend: one line says what was wrong, what was expected and what to do."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class UserError(ValueError):
    """An error that is shown as its one line, in notebooks too."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class SelfCheckError(UserError):
    """Results break what holds for all of them: no setting is at fault, but a network, a file or the code."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" with the name in `known` that is closest to `name`; nothing if none is close."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def first_ten(items: Sequence[Any]) -> str:
    """Return up to ten items in words, and how many more there are."""
    more = f" and {len(items) - 10} more" if len(items) > 10 else ""
    return ", ".join(map(str, items[:10])) + more
