"""Read pickled results without being able to run anything that a pickle may ask for.

Python's own unpickler calls whatever a file names. Here the standard library's `pickletools` only splits the file into
its instructions, and `_Machine` carries out those that plain results need: numbers, text, lists, tuples, dictionaries
with text keys, numpy arrays and torch tensors (which become numpy arrays). Every other instruction and every name that
is not in `_NAMES`, letter for letter, is refused.

What a file may allocate is bounded: no read beyond its end, arrays and tensors together no larger than the file, at
most `MAX_INSTRUCTIONS` instructions, integers of 64 bits. Large arrays stay on disk until they are used: the file is
mapped into memory, so that one of 10 GB takes little of it.
"""

import io
import math
import mmap
import pickletools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pretrain_xai.errors import UserError

#: six times what the largest result file of the study needs; one instruction makes at most one small object
MAX_INSTRUCTIONS = 20_000_000
#: content of so many bytes or more is left in the mapped file
MAPPED_FROM = 2**12
#: the longest line that a text instruction (a module and a name) may read
MAX_LINE = 200
#: no object arrays ("O"), no structured ones ("V"), no dates
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|[US][0-9]{1,4}")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
#: what torch writes in front of a storage that is pickled alone
_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_TORCH_STORAGES = {
    f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "Long", "Int", "Short", "Char", "Byte")
}


class ReleaseError(UserError):
    """A file of the authors' release, or one like it, is missing, damaged, unsafe or of an unknown kind."""


class _Refused(Exception):
    """The pickle asks for something that plain results never need."""


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
            return _Machine(_MappedFile(file, path.stat().st_size)).run()
    except FileNotFoundError:
        raise ReleaseError(f"{path}: no such file; check the folder, or fetch the release again") from None
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None
    except EOFError as error:
        raise ReleaseError(f"{path}: truncated or damaged, {error}; fetch the file again") from None
    except _Refused as error:
        raise ReleaseError(f"{path}: refused, {error}; nothing was executed, use a file from the authors") from None
    except ReleaseError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way; all of them mean the same to the reader
        what = " ".join(f"{type(error).__name__}: {error}".split())[:150]
        raise ReleaseError(f"{path}: damaged ({what}); fetch the file again") from None


def lfs_pointer_size(start: bytes) -> str | None:
    """Return " of ... bytes" for the beginning of a Git LFS pointer, "" if it has no size; None of anything else."""
    if not start.startswith(_LFS_POINTER):
        return None
    size = re.search(rb"size (\d{1,15})", start)
    return f" of {int(size[1]):,} bytes" if size else ""


def _check_start(path: Path, start: bytes) -> None:
    if (size := lfs_pointer_size(start)) is not None:
        raise ReleaseError(
            f"{path}: a Git LFS pointer in place of the file{size}; run `git lfs pull` in its repository"
        )
    if not start:
        raise ReleaseError(f"{path}: the file is empty; fetch it again")
    if start[0] != 0x80:
        raise ReleaseError(f"{path}: not a pickle of protocol 2 or later (starts with {start[:8]!r}); fetch it again")


class _BoundedFile:
    """A file that refuses to read beyond its end, before anything is allocated for it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size, self._left = file, size, size

    def read(self, count: int) -> bytes:
        if count > self._left:
            raise EOFError(f"it announces {count:,} bytes where {self._left:,} are left")
        self._left -= count
        return self._file.read(count)

    def tell(self) -> int:
        return self.size - self._left

    def readline(self) -> bytes:
        line = self._file.readline(MAX_LINE)
        self._left -= len(line)
        if not line.endswith(b"\n"):
            raise EOFError("a line of text has no end")
        return line


class _MappedFile(_BoundedFile):
    """A bounded file whose long reads are views of the file mapped into memory, not copies."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(file, size)
        self._map = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def read(self, count: int) -> bytes | memoryview:
        if count < MAPPED_FROM:
            return super().read(count)
        start = self.tell()
        if count > self._left:
            return super().read(count)  # says what is wrong
        self._left -= count
        self._file.seek(start + count)
        return self._map[start : start + count]


class _Name:
    """A name that the pickle asks for and may have; a stand-in, so that it can be called by `_Machine` only."""

    def __init__(self, call: Callable | None) -> None:
        self.call = call


class _Unfinished:
    """An array or a dtype that waits for its content, and the memo slots that must learn of it."""

    def __init__(self, finish: Callable) -> None:
        self.finish, self.slots = finish, []


class _Budget:
    """The bytes that arrays and tensors may still take: a file cannot hold more than its own size."""

    def __init__(self, size: int) -> None:
        self.left = size

    def spend(self, count: int) -> None:
        if count > self.left:
            raise _Refused(f"its arrays announce {count:,} bytes where the file leaves room for {self.left:,}")
        self.left -= count


class _Machine:
    """Carries out the instructions of one pickle on a stack; see `pickletools` for their meaning."""

    def __init__(self, file: _BoundedFile) -> None:
        self.file, self.budget = file, _Budget(file.size)
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for count, (name, argument) in enumerate(_instructions(self.file)):
            if count >= MAX_INSTRUCTIONS:
                raise _Refused(f"it has more than {MAX_INSTRUCTIONS:,} instructions")
            if name == "STOP":
                return self.stack.pop()
            if name in _VALUES:
                self.stack.append(_checked(argument))
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in _STEPS:
                _STEPS[name](self, argument)
            else:
                raise _Refused(f"it uses the instruction {name}, which results never need")
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
        _expect(self.stack[-1], list, "adds items to").extend(items)

    def set_item(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def set_items(self, _: None) -> None:
        self.update(self.pop_marked())

    def update(self, items: list[Any]) -> None:
        # text keys only: to hash a tuple of tuples of tuples ... can exhaust the C stack
        keys = [_expect(key, str, "has a dictionary key that is") for key in items[::2]]
        _expect(self.stack[-1], dict, "sets items of").update(zip(keys, items[1::2], strict=True))

    def memoize(self, _: None) -> None:
        self.put(len(self.memo))

    def put(self, slot: int) -> None:
        self.memo[slot] = self.stack[-1]
        if isinstance(self.stack[-1], _Unfinished):
            self.stack[-1].slots.append(slot)

    def get(self, slot: int) -> None:
        self.stack.append(self.memo[slot])

    def global_(self, name: str) -> None:
        if name not in _NAMES:
            raise _Refused(
                f"it asks for {'.'.join(name.split(' ', 1))!r:.80}, which is not on the list of allowed names"
            )
        self.stack.append(_NAMES[name])

    def stack_global(self, _: None) -> None:
        name, module = (_expect(self.stack.pop(), str, "names something by") for _ in range(2))
        self.global_(f"{module} {name}")

    def reduce(self, _: None) -> None:
        arguments = _expect(self.stack.pop(), tuple, "calls something with")
        name = _expect(self.stack.pop(), _Name, "calls")
        if name.call is None:
            raise _Refused("it calls a class that may only be named")
        self.stack.append(name.call(self.budget, *arguments))

    def build(self, _: None) -> None:
        state = _expect(self.stack.pop(), tuple, "sets a state that is")
        unfinished = _expect(self.stack.pop(), _Unfinished, "sets the state of")
        value = unfinished.finish(self.budget, *state)
        for slot in unfinished.slots:
            self.memo[slot] = value
        self.stack.append(value)


def _instructions(file: _BoundedFile) -> Iterator[tuple[str, Any]]:
    """Yield name and argument of each instruction, as `pickletools.genops`, which would copy the content of a bytearray."""
    while code := file.read(1):
        opcode = pickletools.code2op.get(code.decode("latin-1"))
        if opcode is None:
            raise _Refused(f"it has the unknown instruction {code!r}")
        reader = pickletools.read_bytes8 if opcode.name == "BYTEARRAY8" else opcode.arg and opcode.arg.reader
        yield opcode.name, reader(file) if reader else None


def _expect(value: Any, kind: type, doing: str) -> Any:
    if type(value) is not kind:
        raise _Refused(f"it {doing} {type(value).__name__} where only {kind.__name__.strip('_')} is allowed")
    return value


def _checked(value: Any) -> Any:
    if type(value) is int and not -(2**63) <= value < 2**64:
        raise _Refused(f"it holds an integer of {value.bit_length()} bits")
    return value


def _dtype(_: _Budget, code: str, *_options: bool) -> _Unfinished:
    if not _DTYPE.fullmatch(_expect(code, str, "names a dtype by")):
        raise _Refused(f"it holds an array of dtype {code[:20]!r}; only numbers and text are allowed, no objects")

    def finish(_: _Budget, _version: int, order: str, *extra: Any) -> np.dtype:
        if order not in ("<", ">", "|", "=") or any(item is not None for item in extra[:3]):
            raise _Refused("it holds an array of a structured dtype")
        return np.dtype(code).newbyteorder(order)

    return _Unfinished(finish)


def _array(budget: _Budget, content: bytes | memoryview, dtype: np.dtype, shape: tuple, order: str) -> np.ndarray:
    if type(content) not in (bytes, memoryview) or not isinstance(dtype, np.dtype):
        raise _Refused("it holds an array whose content is no bytes or has no dtype (objects are not allowed)")
    if any(type(length) is not int or length < 0 for length in shape):
        raise _Refused("it holds an array of a shape that is no tuple of counts")
    announced = math.prod(shape) * dtype.itemsize
    budget.spend(announced)
    if announced != len(content):
        raise _Refused(f"it holds an array that announces {announced:,} bytes and has {len(content):,}")
    if not announced:
        return np.empty(0, dtype).reshape(shape)
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _reconstruct(_: _Budget, kind: _Name, *_shape_and_code: Any) -> _Unfinished:
    if kind is not _NDARRAY:
        raise _Refused("it reconstructs something else than an array")

    def finish(budget: _Budget, _version: int, shape: tuple, dtype: np.dtype, fortran: bool, content: bytes):
        return _array(
            budget, content, dtype, _expect(shape, tuple, "gives an array the shape"), "F" if fortran else "C"
        )

    return _Unfinished(finish)


def _from_buffer(budget: _Budget, content: bytes, dtype: np.dtype, shape: tuple, order: str) -> np.ndarray:
    order = {"C": "C", "F": "F"}[order]
    return _array(budget, content, dtype, _expect(shape, tuple, "gives an array the shape"), order)


def _scalar(budget: _Budget, dtype: np.dtype, content: bytes) -> np.generic:
    return _array(budget, content, dtype, (1,), "C")[0]


def _storage(budget: _Budget, content: bytes) -> np.ndarray:
    """Return a pickled torch storage as a flat array; torch reads it with `weights_only=True`."""
    content = content.tobytes() if type(content) is memoryview else content
    budget.spend(len(_expect(content, bytes, "loads a torch storage from")))
    _check_storage(content)
    import torch  # here, as it is slow and most files hold no tensor

    storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.storage.TypedStorage):
        raise _Refused("it loads a torch file that is not a storage")
    return torch.empty(0, dtype=storage.dtype).set_(storage).numpy()


def _check_storage(content: bytes) -> None:
    """Refuse what torch would only find out, or allocate, later: other formats, foreign names, announced sizes."""
    if not content.startswith(_TORCH_MAGIC):
        raise _Refused("it loads a torch file that is not a storage pickled alone")
    stream = _BoundedFile(io.BytesIO(content), len(content))
    for part in range(5):  # magic number, version, machine, the storage, the list of its keys
        for opcode, argument, _ in pickletools.genops(stream):
            foreign = "GLOBAL" in opcode.name and argument not in _TORCH_STORAGES
            if foreign or opcode.name in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD"):
                asked = argument.replace(" ", ".", 1) if isinstance(argument, str) else opcode.name
                raise _Refused(f"a torch storage in it asks for {asked!r:.80}")
            if opcode.name == "PROTO" and argument != 2:
                raise _Refused(f"a torch storage in it is of pickle protocol {argument}, torch writes 2")
            if part == 3 and type(argument) is int and not 0 <= argument <= len(content):
                raise _Refused(f"a torch storage of {len(content):,} bytes announces {argument:,} values")


def _tensor(budget: _Budget, storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """Return a contiguous tensor on a storage as an array."""
    if type(storage) is not np.ndarray or any(type(number) is not int or number < 0 for number in (offset, *size)):
        raise _Refused("it holds a tensor without a storage or of an impossible shape")
    contiguous = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
    end = offset + math.prod(size)
    if end > len(storage) or any(n > 1 and a != b for n, a, b in zip(size, stride, contiguous, strict=True)):
        raise _Refused("it holds a tensor that is larger than its storage, or not contiguous")
    return storage[offset:end].reshape(size)


_NDARRAY = _Name(None)
#: everything that a pickle may name, letter for letter: what numpy and torch write for plain arrays, before and
#: after numpy 2 renamed its modules
_NAMES = {
    "numpy ndarray": _NDARRAY,
    "numpy dtype": _Name(_dtype),
    **{f"numpy.{core}.multiarray _reconstruct": _Name(_reconstruct) for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": _Name(_scalar) for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": _Name(_from_buffer) for core in ("core", "_core")},
    "torch.storage _load_from_bytes": _Name(_storage),
    "torch._utils _rebuild_tensor_v2": _Name(_tensor),
    "collections OrderedDict": _Name(lambda _budget: {}),
}

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
