"""The allow-list reader: plain results come back as they were, everything else is refused and nothing is executed."""

import contextlib
import io
import os
import pickle
import pickletools
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import DAMAGE, WITHIN_A_TEST, damaged
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pretrain_xai import safe_pickle
from pretrain_xai.safe_pickle import ReleaseError


def _load(folder: Path, content: bytes):
    (folder / "results.pkl").write_bytes(content)
    return safe_pickle.load(folder / "results.pkl")


def _refusal(folder: Path, content: bytes) -> str:
    """Return the message of the error, which must be one line that names the file."""
    with pytest.raises(ReleaseError, match=r"results\.pkl: ") as caught:
        _load(folder, content)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < len(str(folder)) + 300
    return str(caught.value)


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

NUMBERS = st.integers() | st.floats() | st.booleans() | st.none() | st.text() | st.binary()
PLAIN = st.recursive(
    NUMBERS, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner), max_leaves=20
)
DTYPES = st.sampled_from(["?", "i1", "u2", "<i4", "i8", "u8", "f2", "f4", "f8", ">f8", ">i4", "U3", "S2"]).map(np.dtype)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ARRAYS = DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))


@WITHIN_A_TEST
@given(value=PLAIN, protocol=st.integers(3, 5))
def test_plain_values_come_back(tmp_path, value, protocol):
    assert _equal(_load(tmp_path, pickle.dumps(value, protocol)), value)


@WITHIN_A_TEST
@given(array=ARRAYS, protocol=st.integers(3, 5), fortran=st.booleans())
def test_arrays_come_back(tmp_path, array, protocol, fortran):
    array = np.asfortranarray(array) if fortran else array
    scalars = [np.float32(array.size), np.bool_(fortran)]
    value = {"arrays": [array, array[..., :1] if array.ndim else array], "scalars": scalars}
    assert _equal(_load(tmp_path, pickle.dumps(value, protocol)), value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8])
def test_tensors_come_back_as_arrays(tmp_path, dtype):
    tensor = torch.arange(12).reshape(6, 2).to(dtype)
    value = [tensor, tensor[2:4], tensor.T, tensor[:, 1], tensor[0, 0], torch.empty(0, dtype=dtype)]
    assert _equal(_load(tmp_path, pickle.dumps(value)), value)


def test_an_array_that_appears_twice_is_one_and_what_follows_the_end_is_not_read(tmp_path):
    first, second = _load(tmp_path, pickle.dumps([np.arange(5.0)] * 2) + bytes(100))
    np.testing.assert_array_equal(first, np.arange(5.0))
    assert first is second and not first.flags.writeable


# ---------------------------------------------------------------- what is refused, with nothing executed


def _storage(numbers: int = 3) -> bytes:
    """Return a storage as torch pickles it inside a tensor."""
    content = io.BytesIO()
    torch.save(torch.zeros(numbers)._typed_storage(), content, _use_new_zipfile_serialization=False)
    return content.getvalue()


def _in_a_tensor(storage: bytes) -> bytes:
    return pickle.dumps([Reduced(torch.storage._load_from_bytes, (storage,))])


@pytest.mark.parametrize("call", [os.system, eval, exec, print, open, getattr, torch.load, np.load, np.fromfile])
def test_a_call_is_refused_by_name(tmp_path, call):
    message = _refusal(tmp_path, pickle.dumps([1, Reduced(call, (f"touch {tmp_path}/executed",))]))
    assert call.__name__ in message and "not on the list" in message


def test_os_system_is_not_executed_at_the_top_or_in_a_storage(tmp_path):
    command = f"touch {tmp_path}/executed"
    evil = pickle.dumps(Reduced(os.system, (command,)))
    start = _storage().index(b"\x80\x02(X\x07\x00\x00\x00storage")
    text = b"X" + struct.pack("<I", len(command)) + command.encode()
    hidden = _in_a_tensor(_storage()[:start] + b"\x80\x02cposix\nsystem\n(" + text + b"tR.")
    for content in (evil, hidden, _in_a_tensor(evil)):
        assert "posix.system" in _refusal(tmp_path, content)
        assert not (tmp_path / "executed").exists()
        with contextlib.suppress(Exception):
            pickle.loads(content)
        assert (tmp_path / "executed").exists(), "the pickle of this test does not do what it should"
        (tmp_path / "executed").unlink()


def _array(shape: tuple, content: bytes, dtype: str = "u1") -> Reduced:
    state = (1, shape, np.dtype(dtype), False, content)
    return Reduced(np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state)


DEEP = b"\x85" * 100_000
HOSTILE = [
    # what results never hold
    pickle.dumps(np.array([{"a": 1}, None], dtype=object)),
    pickle.dumps(np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])),
    pickle.dumps(np.array(["2024-01-01"], dtype="M8[D]")),
    pickle.dumps(_array((1,), bytes(8), "O")),
    pickle.dumps({1: "a key that is no text"}),
    pickle.dumps({1, 2}),
    # other ways to reach a name
    b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    b"\x80\x04(S'true'\nios\nsystem\n.",
    b"\x80\x04(cos\nsystem\nX\x04\x00\x00\x00trueo.",
    b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    b"\x80\x04\x82\x01.",  # a registered extension
    b"\x80\x04Pid\n.",  # a persistent id
    b"\x80\x04cnumpy\nndarray\n\x8a\x05\x00\x00\x00\x40\x00\x85R.",  # an array of 1 GB by its class
    b"\x80\x04cnumpy\nndarray\n)\x81.",
    b"\x80\x04ccollections\nOrderedDict\n)R}\x8c\x01a\x8c\x01bsb.",  # sets attributes
    b"\x80\x04ccollections\nOrderedDict\n](K\x01K\x02\x86e\x85R.",
    b"\x80\x04cnumpy.core\nmultiarray._reconstruct\n.",
    b"\x80\x04cnumpy ndarray\nx\n.",
    # sizes that are lies
    pickle.dumps(_array((2**30,), b"x")),
    pickle.dumps(_array((2**62, 2**62, 0), b"")),
    b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",  # bytes
    b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",  # a byte array
    b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"x.",  # a frame
    b"\x80\x04c" + b"a" * 2**20,  # a line
    b"\x80\x04\x8b" + struct.pack("<I", 2**20) + b"\x7f" * 2**20 + b".",  # an integer
    _in_a_tensor(_storage().replace(b"cpuq\x03K\x03", b"cpuq\x03J\x00\x00\x00\x40")),
    pickle.dumps(torch.zeros(1).expand(2**30)),
    # keys whose hash exhausts the C stack
    b"\x80\x04})" + DEEP + b"K\x01s.",
    b"\x80\x04ccollections\nOrderedDict\n)R)" + DEEP + b"K\x01s.",
    _in_a_tensor(_storage()[:15] + b"\x80\x02})" + DEEP + b"K\x01s."),
]


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_pickles_are_refused_before_they_allocate(tmp_path, content):
    room = 100 * content.count(b"\x85")  # each of these instructions makes a small object
    assert _peak(lambda: _refusal(tmp_path, content)) < 2 * len(content) + 2**20 + room


HARMLESS = [b")" + DEEP, b"(" * 100_000 + b"t" * 100_000, b"K\x01r\xff\xff\xff\xff"]


@pytest.mark.parametrize("content", HARMLESS, ids=range(3))
def test_deep_nesting_and_distant_slots_of_the_memo_are_harmless(tmp_path, content):
    assert _peak(lambda: _load(tmp_path, b"\x80\x04" + content + b".")) < 2**20 + 300 * len(content)


def test_arrays_of_the_same_bytes_take_them_once(tmp_path):
    arrays = [_array((2**20,), content) for content in [bytes(2**20)] * 100]
    assert _peak(lambda: _load(tmp_path, pickle.dumps(arrays, 4))) < 2**21


# ---------------------------------------------------------------- damaged files, and programs of all instructions


def _survive(folder: Path, content: bytes) -> None:
    """Read a file, which must give a value or one line, take little memory and execute nothing."""
    with contextlib.suppress(ReleaseError):
        assert _peak(lambda: _load(folder, content)) < 2**22
        return
    _refusal(folder, content)
    assert not Path("hacked").exists()


#: lines and words that an instruction may read
LINES = [b"posix\nsystem\n", b"builtins\nexec\n", b"numpy\nndarray\n", b"1\n", b"'touch hacked'\n", b"\n"]
WORDS = [b"touch hacked", b"posix", b"system", b"numpy", b"ndarray", b"<f8", b"", b"\xff", b"x" * 40]


def _arguments(opcode: pickletools.OpcodeInfo) -> st.SearchStrategy[bytes]:
    """Return a strategy for arguments that an instruction can read, of a size that may be a lie."""
    if opcode.arg is None:
        return st.just(b"")
    if opcode.arg.n == pickletools.UP_TO_NEWLINE:
        return st.sampled_from(LINES)
    if opcode.arg.n >= 0:
        return st.binary(min_size=opcode.arg.n, max_size=opcode.arg.n)
    width = 1 if opcode.arg.n == pickletools.TAKEN_FROM_ARGUMENT1 else 8 if opcode.arg.name.endswith("8") else 4
    sized = [(word, size) for word in WORDS for size in (len(word), len(word), 255, 2**31 - 1, 2**62)]
    return st.sampled_from([size.to_bytes(8, "little")[:width] + word for word, size in sized])


CALLS = [b"cposix\nsystem\n", b"\x8c\x05posix\x8c\x06system\x93", b"(\x8c\x0ctouch hackediposix\nsystem\n"]
INSTRUCTIONS = st.sampled_from(pickletools.opcodes).flatmap(
    lambda opcode: _arguments(opcode).map(lambda argument: opcode.code.encode("latin-1") + argument)
)
CALLED = st.sampled_from([call + b"\x8c\x0ctouch hacked\x85R" for call in CALLS])
PROGRAMS = st.lists(INSTRUCTIONS | CALLED, max_size=25)


@WITHIN_A_TEST
@given(program=PROGRAMS, protocol=st.sampled_from([b"\x02", b"\x03", b"\x04", b"\x05"]))
def test_programs_of_all_instructions_do_no_harm(tmp_path, monkeypatch, program, protocol):
    monkeypatch.chdir(tmp_path)
    _survive(tmp_path, b"\x80" + protocol + b"".join(program) + b".")


@WITHIN_A_TEST
@given(protocol=st.integers(3, 5), evil=st.booleans(), damage=DAMAGE)
def test_no_damage_to_a_release_pickle_does_harm(tmp_path, monkeypatch, protocol, evil, damage):
    """Names, lists, numbers, arrays and tensors as in the released files, with a call among the damage."""
    monkeypatch.chdir(tmp_path)
    entry = {"model": "new_finetuning_1conv_0.5_img_2500_0.02_18464", "ACC": np.float64(0.8), "pred_labels": [0, 1, 1]}
    entry |= {"logits": torch.zeros(3, 2), "patches": [[np.ones((4, 5)), 0.31]], "counts": np.arange(9).reshape(3, 3)}
    call = [Reduced(os.system, ("touch hacked",))] if evil else []
    _survive(tmp_path, damaged(pickle.dumps([*call, entry, (entry["counts"], ["M", "F"], [22.5])], protocol), damage))


# ---------------------------------------------------------------- files that are not what they should be


def test_every_truncation_is_refused(tmp_path):
    content = pickle.dumps({"a": [np.arange(4), 1.5, "text"], "logits": torch.zeros(2, 2)}, 4)
    for length in range(len(content)):
        _refusal(tmp_path, content[:length])
    assert "truncated" in _refusal(tmp_path, content[:-1])


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", bytes(1000), b"(dp0\n."])
def test_other_files_are_no_pickles(tmp_path, content):
    assert "not a pickle" in _refusal(tmp_path, content)


def test_a_missing_file_a_folder_and_a_pipe_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.pkl")
    for path in (tmp_path / "absent.pkl", tmp_path, tmp_path / "pipe.pkl"):
        with pytest.raises(ReleaseError, match=f"{path}: can't be read, .*no such file"):
            safe_pickle.load(path)
