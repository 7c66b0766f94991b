"""Read pickled results without being able to run anything that a pickle may ask for.

Python's own unpickler calls whatever a file names. Here the standard library's `pickletools` only splits the file into
its instructions, and `_Machine` carries out those that plain results need: numbers, text, lists, tuples, dictionaries
with text keys, numpy arrays and torch tensors (which become numpy arrays). Every other instruction and every name that
is not in `pickled_arrays.NAMES`, letter for letter, is refused.

What a file may allocate is bounded: no read beyond its end, arrays and tensors together no larger than the file, at
most `MAX_INSTRUCTIONS` instructions, integers of 64 bits. Large arrays stay on disk until they are used: the file is
mapped into memory, so that one of 10 GB takes little of it.
"""

import pickletools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pretrain_xai.errors import UserError
from pretrain_xai.files.bounded_files import BoundedFile, MappedFile
from pretrain_xai.files.git_lfs import pointer_size
from pretrain_xai.files.pickled_arrays import NAMES, Budget, Name, Refused, Unfinished, expect

#: six times what the largest result file of the study needs; one instruction makes at most one small object
MAX_INSTRUCTIONS = 20_000_000


class ReleaseError(UserError):
    """A file of the authors' release, or one like it, is missing, damaged, unsafe or of an unknown kind."""


def load(path: Path) -> Any:
    """Return what a pickle holds, with numpy arrays in place of torch tensors; nothing in it is ever executed.

    Arrays are read-only; large ones are views of the file, which must not change while they are used.

    Raises
    ------
    ReleaseError
        One line naming the file, what was found and what to do: for a missing file, a Git LFS pointer, a file that is
        no pickle, a truncated or damaged one, and one that asks for a name or a size that is not allowed.
    """
    if path.exists() and not path.is_file():  # to open a pipe would wait for ever
        raise ReleaseError(f"{path}: not a file; check the path")
    try:
        with path.open("rb") as file:
            _check_start(path, file.read(1024))
            file.seek(0)
            return _Machine(MappedFile(file, path.stat().st_size)).run()
    except FileNotFoundError:
        raise ReleaseError(f"{path}: no such file; check the folder, or fetch the release again") from None
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None
    except EOFError as error:
        raise ReleaseError(f"{path}: truncated or damaged, {error}; fetch the file again") from None
    except Refused as error:
        raise ReleaseError(f"{path}: refused, {error}; nothing was executed, use a file from the authors") from None
    except ReleaseError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way; all of them mean the same to the reader
        what = " ".join(f"{type(error).__name__}: {error}".split())[:150]
        raise ReleaseError(f"{path}: damaged ({what}); fetch the file again") from None


def _check_start(path: Path, start: bytes) -> None:
    if (size := pointer_size(start)) is not None:
        raise ReleaseError(
            f"{path}: a Git LFS pointer in place of the file{size}; run `git lfs pull` in its repository"
        )
    if not start:
        raise ReleaseError(f"{path}: the file is empty; fetch it again")
    if start[0] != 0x80:
        raise ReleaseError(f"{path}: not a pickle of protocol 2 or later (starts with {start[:8]!r}); fetch it again")


class _Machine:
    """Carries out the instructions of one pickle on a stack; see `pickletools` for their meaning."""

    def __init__(self, file: BoundedFile) -> None:
        self.file, self.budget = file, Budget(file.size)
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for count, (name, argument) in enumerate(_instructions(self.file)):
            if count >= MAX_INSTRUCTIONS:
                raise Refused(f"it has more than {MAX_INSTRUCTIONS:,} instructions")
            if name == "STOP":
                return self.stack.pop()
            if name in _VALUES:
                self.stack.append(_checked(argument))
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in _STEPS:
                _STEPS[name](self, argument)
            else:
                raise Refused(f"it uses the instruction {name}, which results never need")
        raise EOFError("it has no end")

    def mark(self, _: None) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def pop_marked(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def tuple(self, _: None) -> None:
        items = self.pop_marked()  # first, as it changes the stack
        self.stack.append(tuple(items))

    def tuple_of(self, count: int) -> None:
        items = [self.stack.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def append(self, _: None) -> None:
        self.extend([self.stack.pop()])

    def appends(self, _: None) -> None:
        self.extend(self.pop_marked())

    def extend(self, items: list[Any]) -> None:
        expect(self.stack[-1], list, "adds items to").extend(items)

    def set_item(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def set_items(self, _: None) -> None:
        self.update(self.pop_marked())

    def update(self, items: list[Any]) -> None:
        # text keys only: to hash a tuple of tuples of tuples ... can exhaust the C stack
        keys = [expect(key, str, "has a dictionary key that is") for key in items[::2]]
        expect(self.stack[-1], dict, "sets items of").update(zip(keys, items[1::2], strict=True))

    def memoize(self, _: None) -> None:
        self.put(len(self.memo))

    def put(self, slot: int) -> None:
        self.memo[slot] = self.stack[-1]
        if isinstance(self.stack[-1], Unfinished):
            self.stack[-1].slots.append(slot)

    def get(self, slot: int) -> None:
        self.stack.append(self.memo[slot])

    def global_(self, name: str) -> None:
        if name not in NAMES:
            raise Refused(
                f"it asks for {'.'.join(name.split(' ', 1))!r:.80}, which is not on the list of allowed names"
            )
        self.stack.append(NAMES[name])

    def stack_global(self, _: None) -> None:
        name, module = (expect(self.stack.pop(), str, "names something by") for _ in range(2))
        self.global_(f"{module} {name}")

    def reduce(self, _: None) -> None:
        arguments = expect(self.stack.pop(), tuple, "calls something with")
        name = expect(self.stack.pop(), Name, "calls")
        if name.call is None:
            raise Refused("it calls a class that may only be named")
        self.stack.append(name.call(self.budget, *arguments))

    def build(self, _: None) -> None:
        state = expect(self.stack.pop(), tuple, "sets a state that is")
        unfinished = expect(self.stack.pop(), Unfinished, "sets the state of")
        value = unfinished.finish(self.budget, *state)
        for slot in unfinished.slots:
            self.memo[slot] = value
        self.stack.append(value)


def _instructions(file: BoundedFile) -> Iterator[tuple[str, Any]]:
    """Yield name and argument of each instruction, as `pickletools.genops`, which would copy the content of a bytearray."""
    while code := file.read(1):
        opcode = pickletools.code2op.get(code.decode("latin-1"))
        if opcode is None:
            raise Refused(f"it has the unknown instruction {code!r}")
        reader = pickletools.read_bytes8 if opcode.name == "BYTEARRAY8" else opcode.arg and opcode.arg.reader
        yield opcode.name, reader(file) if reader else None


def _checked(value: Any) -> Any:
    if type(value) is int and not -(2**63) <= value < 2**64:
        raise Refused(f"it holds an integer of {value.bit_length()} bits")
    return value


#: instructions that carry a value: numbers, text and bytes in the forms of protocols 2 to 5
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_VALUES |= {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_CONSTANTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, version: None,
    "FRAME": lambda machine, length: None,
    "MARK": _Machine.mark,
    "TUPLE": _Machine.tuple,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "MEMOIZE": _Machine.memoize,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
