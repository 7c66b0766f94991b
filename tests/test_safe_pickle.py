"""The allow-list reader: plain results come back as they were, everything else is refused and nothing is executed."""

import contextlib
import io
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz import MUTATIONS, mutations, survive_all
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pretrain_xai import paths
from pretrain_xai.files import safe_pickle
from pretrain_xai.files.safe_pickle import ReleaseError

WITHIN_A_TEST = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")


def _write(folder: Path, content: bytes) -> Path:
    path = folder / "results.pkl"
    path.write_bytes(content)
    return path


def _load(folder: Path, content: bytes):
    return safe_pickle.load(_write(folder, content))


def _refusal(folder: Path, content: bytes) -> str:
    """Return the message of the error, which must be one line that names the file."""
    path = _write(folder, content)
    with pytest.raises(ReleaseError) as caught:
        safe_pickle.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300
    return message.removeprefix(f"{path}: ")


def _peak(call) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _equal(got, wanted) -> bool:
    if isinstance(wanted, torch.Tensor):
        wanted = wanted.numpy()
    if isinstance(wanted, np.ndarray | np.generic):
        both = (got, wanted)
        return len({(type(x), x.dtype, x.shape, x.tobytes()) for x in both}) == 1  # to the bit, so NaN equals itself
    if isinstance(wanted, list | tuple):
        return type(got) is type(wanted) and len(got) == len(wanted) and all(map(_equal, got, wanted))
    if isinstance(wanted, dict):
        return list(got) == list(wanted) and all(_equal(got[key], wanted[key]) for key in wanted)
    return type(got) is type(wanted) and repr(got) == repr(wanted)


class Reduced:
    """Pickles as whatever `__reduce__` is to return."""

    def __init__(self, *reduced) -> None:
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


# ---------------------------------------------------------------- what is read

NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats() | st.booleans() | st.none() | st.text() | st.binary()
PLAIN = st.recursive(
    NUMBERS, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner), max_leaves=20
)
DTYPES = st.sampled_from(["?", "i1", "u2", "<i4", "i8", "u8", "f2", "f4", "f8", ">f8", ">i4", "U3", "S2"]).map(np.dtype)
ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


@WITHIN_A_TEST
@given(value=PLAIN, protocol=st.integers(3, 5))
def test_plain_values_come_back(tmp_path, value, protocol):
    assert _equal(_load(tmp_path, pickle.dumps(value, protocol)), value)


@WITHIN_A_TEST
@given(array=ARRAYS, protocol=st.integers(3, 5), fortran=st.booleans())
def test_arrays_come_back(tmp_path, array, protocol, fortran):
    array = np.asfortranarray(array) if fortran else array
    value = {"arrays": [array, array[..., :1] if array.ndim else array], "scalars": array.ravel()[:3].tolist()}
    assert _equal(_load(tmp_path, pickle.dumps(value, protocol)), value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8])
def test_tensors_come_back_as_arrays(tmp_path, dtype):
    tensor = torch.arange(12).reshape(6, 2).to(dtype)
    value = [tensor, tensor[2:4], tensor[0, 0], torch.empty(0, dtype=dtype)]
    assert _equal(_load(tmp_path, pickle.dumps(value)), value)


def test_an_array_that_appears_twice(tmp_path):
    array = np.arange(5.0)
    first, second = _load(tmp_path, pickle.dumps([array, array]) + bytes(100))  # what follows the end is not read
    np.testing.assert_array_equal(first, array)
    assert first is second


def test_slices_of_the_authors_are_kept_once_in_memory(tmp_path):
    slices = [np.random.default_rng(i).random((256, 256)) for i in range(64)]
    path = _write(tmp_path, pickle.dumps((slices, ["M", "F"] * 32, [22.5] * 64), 4))
    peak = _peak(lambda: safe_pickle.load(path))
    assert peak < 1.1 * path.stat().st_size
    assert _equal(safe_pickle.load(path), (slices, ["M", "F"] * 32, [22.5] * 64))


def test_torch_is_imported_for_tensors_only():
    code = "import sys, pretrain_xai.published.tables; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(paths.LIBRARY.parent)})


# ---------------------------------------------------------------- what is refused, with nothing executed


def _storage() -> bytes:
    """Return a storage of three numbers as torch pickles it inside a tensor."""
    content = io.BytesIO()
    torch.save(torch.zeros(3)._typed_storage(), content, _use_new_zipfile_serialization=False)
    return content.getvalue()


def _storage_that_asks_for(name: bytes, arguments: bytes) -> bytes:
    """Return such a storage, but with a call in place of what it holds."""
    start = _storage().index(b"\x80\x02(X\x07\x00\x00\x00storage")
    return _storage()[:start] + b"\x80\x02c" + name + b"\n(" + arguments + b"tR."


@pytest.mark.parametrize("call", [os.system, eval, exec, print, open, getattr, torch.load, np.load, np.fromfile])
def test_a_call_is_refused_by_name(tmp_path, call):
    message = _refusal(tmp_path, pickle.dumps([1, Reduced(call, (f"touch {tmp_path}/executed",))]))
    assert "refused" in message
    assert call.__name__ in message
    assert "not on the list" in message


def test_os_system_is_not_executed_at_the_top_or_in_a_storage(tmp_path):
    command = f"touch {tmp_path}/executed"
    evil = pickle.dumps(Reduced(os.system, (command,)))
    assert "posix.system" in _refusal(tmp_path, evil)
    text = b"X" + struct.pack("<I", len(command)) + command.encode()
    hidden = _storage_that_asks_for(b"posix\nsystem", text)
    for storage in (hidden, evil, MAGIC + evil):
        content = pickle.dumps([Reduced(torch.storage._load_from_bytes, (storage,))])
        assert "refused" in _refusal(tmp_path, content)
    assert "posix.system" in _refusal(tmp_path, pickle.dumps(Reduced(torch.storage._load_from_bytes, (hidden,))))
    assert not (tmp_path / "executed").exists()
    for content in (evil, pickle.dumps(Reduced(torch.storage._load_from_bytes, (hidden,)))):
        with contextlib.suppress(Exception):
            pickle.loads(content)
        assert (tmp_path / "executed").exists(), "the pickle of this test does not do what it should"
        (tmp_path / "executed").unlink()


@pytest.mark.parametrize(
    "content",
    [
        np.array([{"a": 1}, None], dtype=object),
        np.array(["M", None], dtype=object),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["2024-01-01"], dtype="M8[D]"),
    ],
)
def test_arrays_of_objects_and_records_are_refused(tmp_path, content):
    assert "refused" in _refusal(tmp_path, pickle.dumps(content))


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04(S'true'\nios\nsystem\n.",
        b"\x80\x04(cos\nsystem\nX\x04\x00\x00\x00trueo.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x04\x82\x01.",  # a registered extension
        b"\x80\x04Pid\n.",  # a persistent id
        b"\x80\x04K\x01Q.",
        b"\x80\x04cnumpy\nndarray\n\x8a\x05\x00\x00\x00\x40\x00\x85R.",  # an array of 1 GB by its class
        b"\x80\x04cnumpy\nndarray\n)\x81.",
        b"\x80\x04ccollections\nOrderedDict\n)R}\x8c\x01a\x8c\x01bsb.",  # sets attributes
        b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n}\x8c\x0c__defaults__K\x01sb.",
        b"\x80\x04cnumpy.core\nmultiarray._reconstruct\n.",
        b"\x80\x04cnumpy ndarray\nx\n.",
        b"\x80\x04](K\x01K\x02\x85h\x00.",
        b"\x80\x04\x8f.",  # a set
    ],
)
def test_other_ways_to_reach_a_name_are_refused(tmp_path, content):
    _refusal(tmp_path, content)


def _array_pickle(shape: tuple, content: bytes) -> bytes:
    state = (1, shape, np.dtype("u1"), False, content)
    return pickle.dumps(Reduced(np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state), 4)


def _large_storage() -> bytes:
    large = _storage().replace(b"cpuq\x03K\x03", b"cpuq\x03J\x00\x00\x00\x40")
    assert large != _storage()
    return pickle.dumps(Reduced(torch.storage._load_from_bytes, (large,)))


def _expanded_tensor() -> bytes:
    return pickle.dumps(torch.zeros(1).expand(2**30))


def _repeated_array() -> bytes:
    """Return a pickle with one megabyte of bytes, of which a hundred arrays are made."""
    state = (1, (2**20,), np.dtype("u1"), False, bytes(2**20))
    made_of = (np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state)
    return pickle.dumps([Reduced(*made_of) for _ in range(100)])


BOMBS = {
    "array": lambda: _array_pickle((2**30,), b"x"),
    "array of many axes": lambda: _array_pickle((2**10,) * 3, b""),
    "array of zero width": lambda: _array_pickle((2**62, 2**62, 0), b""),
    "bytes": lambda: b"\x80\x04B" + struct.pack("<I", 2**30) + b"x.",
    "long bytes": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "byte array": lambda: b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "text": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "line": lambda: b"\x80\x04c" + b"a" * 2**20,
    "storage": _large_storage,
    "expanded tensor": _expanded_tensor,
    "repeated array": _repeated_array,
    "integer": lambda: b"\x80\x04\x8a\xff" + b"\x7f" * 255 + b".",
    "long integer": lambda: b"\x80\x04\x8b" + struct.pack("<I", 2**20) + b"\x7f" * 2**20 + b".",
    "deep key": lambda: b"\x80\x04})" + b"\x85" * 100_000 + b"K\x01s.",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused_before_they_allocate(tmp_path, bomb):
    content = bomb()
    # the file is read once, and each instruction makes at most one small object
    n_objects = content.count(b"\x85")
    assert _peak(lambda: _refusal(tmp_path, content)) < 2 * len(content) + 2**20 + 100 * n_objects


@pytest.mark.parametrize(
    "nested", [b"\x80\x04)" + b"\x85" * 100_000 + b".", b"\x80\x04" + b"(" * 100_000 + b"t" * 100_000 + b"."]
)
def test_deep_nesting_is_harmless(tmp_path, nested):
    assert isinstance(_load(tmp_path, nested), tuple)


def test_distant_memo_slots_take_no_memory(tmp_path):
    content = b"\x80\x04K\x01r\xff\xff\xff\xff."
    assert _peak(lambda: _load(tmp_path, content)) < 2**20


def test_too_many_instructions_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_pickle, "MAX_INSTRUCTIONS", 100)
    assert "more than 100 instructions" in _refusal(tmp_path, pickle.dumps(list(range(200))))


# ---------------------------------------------------------------- mutated files, and programs of all instructions

#: arguments of instructions that read a line, or text of some length
LINES = (
    b"posix\nsystem\n",
    b"builtins\nexec\n",
    b"numpy\nndarray\n",
    b"1\n",
    b"-1L\n",
    b"'touch hacked'\n",
    b"1.5\n",
    b"\n",
)
WORDS = (b"touch hacked", b"posix", b"system", b"numpy", b"ndarray", b"dtype", b"<f8", b"", b"\xff", b"x" * 40)


def _argument(opcode: pickletools.OpcodeInfo, rng: random.Random) -> bytes:
    """Return an argument that the instruction can read, of a size that is now and then a lie."""
    if opcode.arg is None:
        return b""
    if opcode.arg.n == pickletools.UP_TO_NEWLINE:
        return rng.choice(LINES)
    if opcode.arg.n >= 0:
        return rng.choice((bytes(opcode.arg.n), b"\x01" + bytes(opcode.arg.n), rng.randbytes(opcode.arg.n)))[
            : opcode.arg.n
        ]
    word = rng.choice(WORDS)
    size = len(word) if rng.random() < 0.9 else rng.choice((255, 2**31 - 1, 2**62))
    width = 1 if opcode.arg.n == pickletools.TAKEN_FROM_ARGUMENT1 else 8 if opcode.arg.name.endswith("8") else 4
    return size.to_bytes(8, "little")[:width] + word


def programs(count: int, seed: int) -> Iterator[bytes]:
    """Yield random programs of all instructions, half of them with a call of os.system somewhere."""
    rng = random.Random(seed)
    call = (b"cposix\nsystem\n", b"\x8c\x05posix\x8c\x06system\x93", b"(\x8c\x0ctouch hackediposix\nsystem\n")
    for _ in range(count):
        parts = []
        for _ in range(rng.randrange(1, 25)):
            opcode = rng.choice(pickletools.opcodes)
            parts.append(opcode.code.encode("latin-1") + _argument(opcode, rng))
        if rng.random() < 0.5:
            parts.insert(rng.randrange(len(parts) + 1), rng.choice(call) + b"\x8c\x0ctouch hacked\x85R")
        yield b"\x80" + bytes([rng.choice((2, 3, 4, 5))]) + b"".join(parts) + b"."


def test_programs_of_all_instructions_do_no_harm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, used = tmp_path / "results.pkl", set()

    def contents() -> Iterator[bytes]:
        for program in programs(MUTATIONS, 0):
            with contextlib.suppress(Exception):
                used.update(opcode.name for opcode, _, _ in pickletools.genops(program))
            yield program

    assert survive_all(path, contents(), lambda: safe_pickle.load(path), ReleaseError, path.name) > MUTATIONS / 2
    assert len(used) > len(pickletools.opcodes) - 5
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_no_mutation_of_a_release_pickle_does_harm(tmp_path, protocol, monkeypatch):
    """Names, lists, numbers, arrays and tensors as in the released files; calls and bombs among the damage."""
    monkeypatch.chdir(tmp_path)
    rng, path = np.random.default_rng(0), tmp_path / "results.pkl"
    entry = {"model": "new_finetuning_1conv_0.5_img_2500_0.02_18464", "ACC": np.float64(0.8), "pred_labels": [0, 1, 1]}
    entry |= {
        "logits": torch.zeros(3, 2),
        "patches": [[rng.random((4, 5)), 0.31]],
        "counts": np.arange(9).reshape(3, 3),
    }
    content = pickle.dumps([entry, (entry["counts"], ["M", "F"], [22.5])], protocol)
    evil = pickle.dumps([Reduced(os.system, ("touch hacked",)), entry], protocol)
    for original in (content, evil):
        damaged = mutations(original, MUTATIONS // 2, protocol, len(original))
        assert survive_all(path, damaged, lambda: safe_pickle.load(path), ReleaseError, path.name) > 0
    assert not (tmp_path / "hacked").exists()


# ---------------------------------------------------------------- files that are not what they should be


def test_a_git_lfs_pointer_says_what_to_do(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 537042012\n"
    message = _refusal(tmp_path, pointer)
    assert "Git LFS pointer" in message
    assert "537,042,012 bytes" in message
    assert "git lfs pull" in message


def test_every_truncation_is_refused(tmp_path):
    content = pickle.dumps({"a": [np.arange(4), 1.5, "text"], "logits": torch.zeros(2, 2)}, 4)
    for length in range(len(content)):
        _refusal(tmp_path, content[:length])
    assert "truncated" in _refusal(tmp_path, content[:-1])
    assert "empty" in _refusal(tmp_path, b"")


@pytest.mark.parametrize("content", [b"<!DOCTYPE html>", b"PK\x03\x04", bytes(1000), b"(dp0\n."])
def test_other_files_are_no_pickles(tmp_path, content):
    assert "not a pickle" in _refusal(tmp_path, content)


def test_a_missing_file_a_folder_and_a_pipe_are_named(tmp_path):
    with pytest.raises(ReleaseError, match=r"absent\.pkl: no such file"):
        safe_pickle.load(tmp_path / "absent.pkl")
    os.mkfifo(tmp_path / "pipe.pkl")
    for path in (tmp_path, tmp_path / "pipe.pkl"):
        with pytest.raises(ReleaseError, match="not a file"):
            safe_pickle.load(path)
