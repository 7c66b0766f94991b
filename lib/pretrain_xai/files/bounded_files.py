"""Files that are not read beyond their end, and whose long reads are views of the mapped file, not copies."""

import mmap
from typing import BinaryIO

#: content of so many bytes or more is left in the mapped file
MAPPED_FROM = 2**12
#: the longest line that a text instruction (a module and a name) may read
MAX_LINE = 200


class BoundedFile:
    """A file that refuses to read beyond its end, before anything is allocated for it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size, self._left = file, size, size

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes; an EOFError if there are fewer."""
        if count > self._left:
            raise EOFError(f"it announces {count:,} bytes where {self._left:,} are left")
        self._left -= count
        return self._file.read(count)

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self.size - self._left

    def readline(self) -> bytes:
        """Return a line of at most MAX_LINE bytes; an EOFError if it does not end there."""
        line = self._file.readline(MAX_LINE)
        self._left -= len(line)
        if not line.endswith(b"\n"):
            raise EOFError("a line of text has no end")
        return line


class MappedFile(BoundedFile):
    """A bounded file whose long reads are views of the file mapped into memory, not copies."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(file, size)
        self._map = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def read(self, count: int) -> bytes | memoryview:
        """Return the next `count` bytes, as a view of the map if they are many."""
        if count < MAPPED_FROM:
            return super().read(count)
        start = self.tell()
        if count > self._left:
            return super().read(count)  # says what is wrong
        self._left -= count
        self._file.seek(start + count)
        return self._map[start : start + count]
