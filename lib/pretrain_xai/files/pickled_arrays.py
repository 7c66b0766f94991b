"""The names that a pickle of plain results may ask for, and the arrays and tensors that they make of its content.

What is made is checked before anything is allocated for it, and charged to a `Budget`.
"""

import io
import math
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from pretrain_xai.files.bounded_files import BoundedFile

#: no object arrays ("O"), no structured ones ("V"), no dates
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|[US][0-9]{1,4}")
#: what torch writes in front of a storage that is pickled alone
_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_TORCH_STORAGES = {
    f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "Long", "Int", "Short", "Char", "Byte")
}


class Refused(Exception):
    """The pickle asks for something that plain results never need."""


class Name:
    """A name that the pickle asks for and may have; a stand-in that only the machine of `safe_pickle` calls."""

    def __init__(self, call: Callable | None) -> None:
        self.call = call


class Unfinished:
    """An array or a dtype that waits for its content, and the memo slots that must learn of it."""

    def __init__(self, finish: Callable) -> None:
        self.finish, self.slots = finish, []


class Budget:
    """The bytes that arrays and tensors may still take: a file cannot hold more than its own size."""

    def __init__(self, size: int) -> None:
        self.left = size

    def spend(self, count: int) -> None:
        """Take `count` bytes, or raise Refused if so many are not left."""
        if count > self.left:
            raise Refused(f"its arrays announce {count:,} bytes where the file leaves room for {self.left:,}")
        self.left -= count


def expect(value: Any, kind: type, doing: str) -> Any:
    """Return `value` if it is exactly of this kind; else raise Refused, which says what the pickle was doing with it."""
    if type(value) is not kind:
        raise Refused(f"it {doing} {type(value).__name__} where only {kind.__name__.strip('_')} is allowed")
    return value


def _dtype(_: Budget, code: str, *_options: bool) -> Unfinished:
    if not _DTYPE.fullmatch(expect(code, str, "names a dtype by")):
        raise Refused(f"it holds an array of dtype {code[:20]!r}; only numbers and text are allowed, no objects")

    def finish(_: Budget, _version: int, order: str, *extra: Any) -> np.dtype:
        if order not in ("<", ">", "|", "=") or any(item is not None for item in extra[:3]):
            raise Refused("it holds an array of a structured dtype")
        return np.dtype(code).newbyteorder(order)

    return Unfinished(finish)


def _array(budget: Budget, content: bytes | memoryview, dtype: np.dtype, shape: tuple, order: str) -> np.ndarray:
    if type(content) not in (bytes, memoryview) or not isinstance(dtype, np.dtype):
        raise Refused("it holds an array whose content is no bytes or has no dtype (objects are not allowed)")
    if any(type(length) is not int or length < 0 for length in shape):
        raise Refused("it holds an array of a shape that is no tuple of counts")
    announced = math.prod(shape) * dtype.itemsize
    budget.spend(announced)
    if announced != len(content):
        raise Refused(f"it holds an array that announces {announced:,} bytes and has {len(content):,}")
    if not announced:
        return np.empty(0, dtype).reshape(shape)
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _reconstruct(_: Budget, kind: Name, *_shape_and_code: Any) -> Unfinished:
    if kind is not _NDARRAY:
        raise Refused("it reconstructs something else than an array")

    def finish(budget: Budget, _version: int, shape: tuple, dtype: np.dtype, fortran: bool, content: bytes):
        return _array(budget, content, dtype, expect(shape, tuple, "gives an array the shape"), "F" if fortran else "C")

    return Unfinished(finish)


def _from_buffer(budget: Budget, content: bytes, dtype: np.dtype, shape: tuple, order: str) -> np.ndarray:
    order = {"C": "C", "F": "F"}[order]
    return _array(budget, content, dtype, expect(shape, tuple, "gives an array the shape"), order)


def _scalar(budget: Budget, dtype: np.dtype, content: bytes) -> np.generic:
    return _array(budget, content, dtype, (1,), "C")[0]


def _storage(budget: Budget, content: bytes) -> np.ndarray:
    """Return a pickled torch storage as a flat array; torch reads it with `weights_only=True`."""
    content = content.tobytes() if type(content) is memoryview else content
    budget.spend(len(expect(content, bytes, "loads a torch storage from")))
    _check_storage(content)
    import torch  # here, as it is slow and most files hold no tensor

    storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.storage.TypedStorage):
        raise Refused("it loads a torch file that is not a storage")
    return torch.empty(0, dtype=storage.dtype).set_(storage).numpy()


def _check_storage(content: bytes) -> None:
    """Refuse what torch would only find out, or allocate, later: other formats, foreign names, announced sizes."""
    if not content.startswith(_TORCH_MAGIC):
        raise Refused("it loads a torch file that is not a storage pickled alone")
    stream = BoundedFile(io.BytesIO(content), len(content))
    for part in range(5):  # magic number, version, machine, the storage, the list of its keys
        for opcode, argument, _ in pickletools.genops(stream):
            foreign = "GLOBAL" in opcode.name and argument not in _TORCH_STORAGES
            if foreign or opcode.name in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD"):
                asked = argument.replace(" ", ".", 1) if isinstance(argument, str) else opcode.name
                raise Refused(f"a torch storage in it asks for {asked!r:.80}")
            if opcode.name == "PROTO" and argument != 2:
                raise Refused(f"a torch storage in it is of pickle protocol {argument}, torch writes 2")
            if part == 3 and type(argument) is int and not 0 <= argument <= len(content):
                raise Refused(f"a torch storage of {len(content):,} bytes announces {argument:,} values")


def _tensor(budget: Budget, storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """Return a contiguous tensor on a storage as an array."""
    if type(storage) is not np.ndarray or any(type(number) is not int or number < 0 for number in (offset, *size)):
        raise Refused("it holds a tensor without a storage or of an impossible shape")
    contiguous = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
    end = offset + math.prod(size)
    if end > len(storage) or any(n > 1 and a != b for n, a, b in zip(size, stride, contiguous, strict=True)):
        raise Refused("it holds a tensor that is larger than its storage, or not contiguous")
    return storage[offset:end].reshape(size)


_NDARRAY = Name(None)
#: everything that a pickle may name, letter for letter: what numpy and torch write for plain arrays, before and
#: after numpy 2 renamed its modules
NAMES = {
    "numpy ndarray": _NDARRAY,
    "numpy dtype": Name(_dtype),
    **{f"numpy.{core}.multiarray _reconstruct": Name(_reconstruct) for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": Name(_scalar) for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": Name(_from_buffer) for core in ("core", "_core")},
    "torch.storage _load_from_bytes": Name(_storage),
    "torch._utils _rebuild_tensor_v2": Name(_tensor),
    "collections OrderedDict": Name(lambda _budget: {}),
}
