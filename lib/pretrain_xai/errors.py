"""Errors that a user can mend: one line says what was wrong, what was expected and what to do."""


class UserError(ValueError):
    """An error that is shown as its one line, in notebooks too."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]
