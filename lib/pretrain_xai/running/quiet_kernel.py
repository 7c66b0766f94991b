"""A notebook's kernel whose own words go to a file.

What cells print by Python goes into the notebook. What else a kernel says, by compiled code or while it starts or ends
("KeyboardInterrupt caught in kernel", a failed assertion of ZeroMQ), would stand among a batch's lines as if something had
failed. Where a kernel did die, its words are the only hint of why.
"""

import subprocess
from pathlib import Path
from typing import Any

from jupyter_client.manager import AsyncKernelManager


class QuietKernel(AsyncKernelManager):
    """A kernel that says nothing on the terminal; its words lie in `words_file` of its connection file."""

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]  # an attribute there, no method
        """Start the kernel's process."""
        with words_file(Path(self.connection_file)).open("ab") as words:
            await super().start_kernel(stdout=words, stderr=subprocess.STDOUT, **options)


def words_file(connection_file: Path) -> Path:
    """Return where a kernel's words are kept."""
    return connection_file.with_suffix(".words")


def last_words(connection_file: Path) -> str:
    """Return the last line that the kernel wrote, or an empty text."""
    file = words_file(connection_file)
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n") if file.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
