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
    """A kernel that says nothing on the terminal; its words lie beside its connection file."""

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]  # an attribute there, no method
        """Start the kernel's process."""
        with Path(self.connection_file).with_suffix(".words").open("ab") as words:
            await super().start_kernel(stdout=words, stderr=subprocess.STDOUT, **options)


def last_words(connection_file: Path) -> str:
    """Return the last line that the kernel wrote, or an empty text."""
    file = connection_file.with_suffix(".words")
    words = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
    return words.split("\n")[-1]
