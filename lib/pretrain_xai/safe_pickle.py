"""Read pickled results without running anything that a pickle may ask for.

Python's own unpickler calls whatever a file names. This one knows the instructions and the names, letter for letter, that
numpy and torch write for plain arrays and tensors, and has a function of its own in place of each name; all others are
refused. Arrays are read-only views of the file, which is mapped into memory: nothing is allocated for what a file announces,
and one of 10 GB takes little memory.
"""

import mmap
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pretrain_xai.errors import UserError

#: what plain results need, in protocols 2 to 5; BINPERSID is how torch names a storage
_INSTRUCTIONS = """
    PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8
    BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_LIST APPEND APPENDS SETITEM SETITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BINPERSID
"""
#: no object arrays ("O"), no structured ones ("V"), no dates
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|[US][0-9]{1,4}")


#: how a file begins that Git LFS has not fetched yet
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class ReleaseError(UserError):
    """A file of the authors' release, or one like it, is missing, damaged, unsafe or of an unknown kind."""


def load(path: Path) -> Any:
    """Return what a pickle holds, with numpy arrays in place of torch tensors; nothing in it is ever executed.

    Arrays are read-only views of the file, which must not change while they are used. Keys of dictionaries are text.

    Raises
    ------
    ReleaseError
        One line naming the file, what was found and what to do: for a missing file, a Git LFS pointer, a file that is
        no pickle, a truncated or damaged one, and one that asks for a name or a size that is not allowed.
    """
    try:
        if not path.is_file():  # to open a pipe would wait for ever
            raise ValueError("no such file")
        with path.open("rb") as file:
            start = file.read(1024)
            if start.startswith(LFS_POINTER):
                raise ValueError("a Git LFS pointer in place of the file, run `git lfs pull` there")
            if not start.startswith(b"\x80"):
                raise ValueError(f"not a pickle of protocol 2 or later, starts with {start[:8]!r}")
            return _Unpickler(_Content(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))).load()
    except Exception as error:  # a damaged pickle can fail in any way; all of them mean the same to the reader
        what = "truncated" if isinstance(error, EOFError) else f"{type(error).__name__}: {error}"
        what = " ".join(what.split())[:150]
        raise ReleaseError(f"{path}: can't be read, nothing was executed ({what}); fetch the file again") from None


class _Content:
    """Content of a file or of bytes, read to its end and no further; long reads are views."""

    def __init__(self, content: Any) -> None:
        self.content, self.place = memoryview(content), 0

    def read(self, count: int) -> bytes | memoryview:
        part = self.content[self.place : self.place + count]  # what is missing at the end, the unpickler misses, too
        self.place += count
        return part if count > 2**12 else bytes(part)  # a view takes as much as a short copy

    def readline(self) -> bytes:
        line, end, _ = bytes(self.content[self.place : self.place + 200]).partition(b"\n")
        self.place += len(line) + 1
        return line + end


class _Unfinished:
    """An array or a dtype that waits for its state."""

    def __init__(self, finish: Callable[..., Any]) -> None:
        self.finish, self.finished = finish, None


class _Memo(dict[int, Any]):
    """What a pickle noted for later; of what was unfinished then, the finished value."""

    def __getitem__(self, slot: int) -> Any:
        value = super().__getitem__(slot)
        return value.finished if isinstance(value, _Unfinished) else value


class _TextKeys(dict[str, Any]):
    """A dictionary for text keys: to hash a tuple of tuples of tuples ... can exhaust the C stack."""

    def __setitem__(self, key: str, value: Any) -> None:
        if type(key) is not str:
            raise pickle.UnpicklingError(f"a dictionary key is {type(key).__name__}, where only text is allowed")
        super().__setitem__(key, value)


class _Unpickler(pickle._Unpickler):
    """The standard library's unpickler in Python, with fewer instructions and names."""

    stack: list[Any]
    append: Callable[[Any], None]

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.memo = _Memo()

    def find_class(self, module: str, name: str) -> Any:
        if f"{module} {name}" not in _NAMES:
            raise pickle.UnpicklingError(f"it asks for {module[:40]}.{name[:40]}, which is not on the list")
        return _NAMES[f"{module} {name}"]

    def persistent_load(self, pid: Any) -> Any:
        return pid

    def load_build(self) -> None:
        state, unfinished = self.stack.pop(), self.stack.pop()
        unfinished.finished = unfinished.finish(*state)  # nothing else has both, so that nothing else gets a state
        self.append(unfinished.finished)

    dispatch: ClassVar[dict[int, Any]] = {
        getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _INSTRUCTIONS.split()
    }
    dispatch |= {pickle.EMPTY_DICT[0]: lambda self: self.append(_TextKeys()), pickle.BUILD[0]: load_build}
    # the library's own allocates the bytes of an array before it reads them
    dispatch[pickle.BYTEARRAY8[0]] = pickle._Unpickler.dispatch[pickle.BINBYTES8[0]]


def _dtype(code: str, *_options: bool) -> _Unfinished:
    if not _DTYPE.fullmatch(code):
        raise pickle.UnpicklingError(f"an array of dtype {code[:20]!r}; only numbers and text are allowed, no objects")
    return _Unfinished(lambda _version, order, *_: np.dtype(code).newbyteorder(order))


def _array(content: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """Return a view of `content`; numpy refuses a shape that is not that of the content."""
    if not isinstance(dtype, np.dtype):
        raise pickle.UnpicklingError("an array without a dtype")
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _reconstruct(*_kind_shape_code: Any) -> _Unfinished:
    return _Unfinished(lambda _, shape, dtype, fortran, content: _array(content, dtype, shape, "F" if fortran else "C"))


def _storage(content: Any) -> np.ndarray:
    """Return a torch storage, which is pickled five times: magic number, version, machine, what it is, its key; content."""
    file = _Content(content)
    _, dtype, _, _, count, _ = [_Unpickler(file).load() for _ in range(5)][3]
    start = file.place + 8  # behind the count once more
    return _array(file.content[start : start + count * dtype.itemsize], dtype, count)


def _tensor(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    """Return a tensor as a view of its storage; numpy refuses one that leaves it."""
    width = storage.itemsize
    tensor: np.ndarray = np.ndarray(size, storage.dtype, storage, offset * width, [step * width for step in stride])
    if tensor.size > storage.size:
        raise pickle.UnpicklingError(f"a tensor of {tensor.size:,} values on a storage of {storage.size:,}")
    return tensor


#: all that a pickle may name -> what stands for it; numpy 2 renamed its modules
_NAMES: dict[str, Any] = {
    "numpy ndarray": None,
    "numpy dtype": _dtype,
    "torch.storage _load_from_bytes": _storage,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "collections OrderedDict": lambda: _TextKeys(),  # noqa: PLW0108  # takes no content
}
_CORES = ("numpy.core", "numpy._core")
_NAMES |= {f"{core}.multiarray _reconstruct": _reconstruct for core in _CORES}
_NAMES |= {f"{core}.multiarray scalar": lambda dtype, content: _array(content, dtype, 1)[0] for core in _CORES}
_NAMES |= {f"{core}.numeric _frombuffer": _array for core in _CORES}
_STORAGES = {"Float": "f4", "Double": "f8", "Half": "f2", "Long": "i8", "Int": "i4", "Short": "i2", "Byte": "u1"}
_NAMES |= {f"torch {kind}Storage": np.dtype(code) for kind, code in _STORAGES.items()}
