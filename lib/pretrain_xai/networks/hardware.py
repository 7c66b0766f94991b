"""Where networks run, on the processor or a graphics card, and in which order their values lie in memory.

A network is placed once; the batches that it gets follow it.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from pretrain_xai.errors import UserError
from pretrain_xai.study import Study


class DeviceError(UserError):
    """The study asks for a device that is not there."""


def find_device(setting: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device of a study; `auto` is a graphics card if there is one.

    Raises
    ------
    DeviceError
        A graphics card is asked for, and torch finds none.
    """
    there = torch.cuda.is_available()
    if setting == "cuda" and not there:
        raise DeviceError(
            "device: cuda, but torch finds no graphics card here; set device: auto or cpu in the study file, run where there "
            "is a card (on a cluster PROFILE=slurm asks for one), or see that driver and torch fit (`nvidia-smi`)"
        )
    return torch.device("cuda" if there and setting != "cpu" else "cpu")


def on_card(study: Study) -> bool:
    """Return whether networks run on a graphics card: one that is here, or that the jobs of a cluster are to have."""
    return study.device == "cuda" or find_device(study.device).type == "cuda"


def place(network: nn.Module, study: Study) -> nn.Module:
    """Move the network to the study's device and lay out its weights as `channels_last` says; return it."""
    order = torch.channels_last if study.channels_last else torch.contiguous_format
    return network.to(find_device(study.device)).to(memory_format=order)


def as_batch(images: np.ndarray | Tensor, network: nn.Module) -> Tensor:
    """Return images as a float32 tensor of shape (n, 3, height, width) in [0, 1]; grey becomes three copies.

    It is on the network's device and in its order of memory. Activations, float32 of shape (n, height, width, channels), keep
    their channels and values.
    """
    if isinstance(images, Tensor):  # is one
        return images
    tensor = torch.from_numpy(np.array(images)).to(device_of(network))  # a copy: memory-mapped files are read-only
    tensor = tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()
    tensor = tensor[..., None].expand(*tensor.shape, 3) if tensor.ndim == 3 else tensor
    return tensor.permute(0, 3, 1, 2).contiguous(memory_format=memory_format_of(network))


def device_of(network: nn.Module) -> torch.device:
    """Return the device of the network's weights; the processor if it has none."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def memory_format_of(network: nn.Module) -> torch.memory_format:
    """Return the order in which the network's convolutions have their values, channels last if in doubt."""
    channels_last = {"memory_format": torch.channels_last}  # a kernel of one pixel is contiguous in both orders
    kernels = (kernel for kernel in network.parameters() if kernel.ndim == 4)
    decided = (kernel for kernel in kernels if kernel.is_contiguous() != kernel.is_contiguous(**channels_last))
    first = next(decided, None)
    return torch.contiguous_format if first is not None and first.is_contiguous() else torch.channels_last


def device_name(network: nn.Module) -> str:
    """Return what provenance calls the network's device, such as `cpu` or `cuda (NVIDIA H100)`."""
    device = device_of(network)
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def generators_of(network: nn.Module) -> list[torch.device]:
    """Return the cards whose generators the network draws from, beside the processor's, for `torch.random.fork_rng`."""
    device = device_of(network)
    return [device] if device.type == "cuda" else []
