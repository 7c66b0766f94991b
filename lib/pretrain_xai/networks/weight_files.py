"""Read networks' weights that others have trained, without being able to run anything that a file may ask for.

Three kinds of files, told apart by how they begin: safetensors, torch's zip, and what torch wrote before 1.6. The last two
hold a pickle, which torch's restricted unpickler reads (`weights_only=True`). A whole pickled network is read, too: its
classes are replaced by a stand-in that only keeps tensors by their names.
"""

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pretrain_xai.errors import UserError, did_you_mean
from pretrain_xai.provenance import atomic_path, sha256
from pretrain_xai.safe_pickle import LFS_POINTER

#: what a pickled network may consist of, besides torchvision's VGG; nothing of these classes is used but their names
_LAYERS = (nn.Sequential, nn.Conv2d, nn.Linear, nn.ReLU, nn.BatchNorm2d, nn.Dropout, nn.MaxPool2d, nn.AdaptiveAvgPool2d)
_ADVICE = "make it first, or get it again from its authors, best as a state_dict or as safetensors"


class WeightsError(UserError):
    """A weight file is missing, broken, unsafe or does not fit the network."""


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file by their names, on the CPU; nothing in the file is ever executed.

    Raises
    ------
    WeightsError
        One line naming the file, what was found and what to do: for a missing file, a Git LFS pointer, a damaged file,
        one that asks for code, and one that holds no tensors by name.
    """
    try:
        with path.open("rb") as file:
            start = file.read(1024)
        if start.startswith(LFS_POINTER):
            raise ValueError("a Git LFS pointer in place of the file, run `git lfs pull` in its repository")
        state = _read_pickled(path) if start.startswith((b"PK", b"\x80")) else load_file(path)
        if not isinstance(state, dict) or not state:
            raise ValueError(f"holds {type(state).__name__} without names; tensors by name are expected")
        for name, tensor in state.items():
            plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_meta
            if not isinstance(name, str) or not plain or tensor.is_quantized or tensor.is_complex():
                found = getattr(tensor, "dtype", type(tensor).__name__)
                raise ValueError(f"holds {found} under {str(name)[:40]!r}; plain tensors by name are expected")
    except Exception as error:  # a damaged file can fail in any way; all of them mean the same to the reader
        raise WeightsError(f"{path} can't be read, nothing was executed ({_line(error)}); {_ADVICE}") from None
    return {name: tensor.detach() for name, tensor in state.items()}


def save_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors by their names as safetensors, atomically."""
    with atomic_path(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary)


def torchvision_state(name: str, architecture: str) -> dict[str, Tensor]:
    """Return torchvision's own weights, such as IMAGENET1K_V1, from its cache; downloaded when they are not there.

    Raises
    ------
    WeightsError
        There are none of this name, they can't be downloaded, or the cached file is damaged.
    """
    path = cached_file(name, architecture)
    if not path.is_file():
        try:
            torchvision_weights(name, architecture).get_state_dict(progress=False, check_hash=True, weights_only=True)
        except Exception as error:
            what = f"{name} of {architecture} can't be downloaded ({_line(error)})"
            raise WeightsError(f"{what}; bring {path}, or give a local file under pretraining.weights") from None
    if (digest := re.search(r"-([0-9a-f]{8,})\.", path.name)) and not sha256(path).startswith(digest[1]):
        raise WeightsError(f"{path}: damaged, its checksum is not {digest[1]}; delete it, and it is downloaded again")
    return read_state(path)


def torchvision_weights(name: str, architecture: str) -> Any:
    """Return torchvision's entry of this name; a WeightsError names those that there are."""
    from torchvision import models  # a second to import

    known = models.get_model_weights(architecture).__members__
    if name not in known:
        what = f"{name!r} is no path of a weight file, and {architecture} has {', '.join(known)}"
        raise WeightsError(f"pretraining.weights: {what}{did_you_mean(name, known)}")
    return known[name]


def cached_file(name: str, architecture: str) -> Path:
    """Return where torchvision keeps these weights."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(torchvision_weights(name, architecture).url).name)


def fitting(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: object, may_lack: Iterable[str] = ()
) -> dict[str, Tensor]:
    """Return `state` in the order and dtypes of `expected`, if its names and shapes are those of `expected`.

    Parameters
    ----------
    source : path or str
        Where `state` comes from, for the message.
    may_lack : names of parts, such as `classifier`
        Of each of which `state` may have nothing at all.

    Raises
    ------
    WeightsError
        Naming the first names and shapes that differ, or the first values that are not finite.
    """
    absent = tuple(f"{part}." for part in may_lack if not any(name.startswith(f"{part}.") for name in state))
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items() if not name.startswith(absent)}
    differing = [
        f"{name}: {found.get(name, 'missing')}, expected {wanted.get(name, 'nothing')}"
        for name in dict.fromkeys([*wanted, *found])
        if found.get(name) != wanted.get(name)
    ]
    if differing:
        raise WeightsError(f"{source} does not fit this network: {'; '.join(differing[:3])} ({len(differing)} differ)")
    if broken := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise WeightsError(f"{source}: {broken[0]} holds values that are not finite ({len(broken)} tensors); {_ADVICE}")
    return {name: state[name].to(expected[name].dtype) for name in wanted}


class _Part:
    """Stands in for every class of a pickled network: keeps its tensors and parts, and can do nothing."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        own = state["_parameters"] | state["_buffers"]
        self.tensors = {name: tensor for name, tensor in own.items() if tensor is not None}
        for part, below in state["_modules"].items():
            self.tensors |= {f"{part}.{name}": tensor for name, tensor in below.tensors.items()}


def _read_pickled(path: Path) -> Any:
    if zipfile.is_zipfile(path) and (damaged := zipfile.ZipFile(path).testzip()):  # torch looks at no checksum
        raise ValueError(f"the checksum of {damaged[:80]!r} is wrong")
    names = [*(f"{layer.__module__}.{layer.__name__}" for layer in _LAYERS), "torchvision.models.vgg.VGG"]
    with torch.serialization.safe_globals([(_Part, name) for name in names]):
        found = torch.load(path, map_location="cpu", weights_only=True)
    return found.tensors if isinstance(found, _Part) else found


def _line(error: Exception) -> str:
    """Return one short line of what an error says, without torch's advice to switch its safety off."""
    text = re.split(r"trusted source\. |WeightsUnpickler error: ", " ".join(str(error).split()))[-1]
    return f"{type(error).__name__}: {text.partition('. ')[0]}"[:200]
