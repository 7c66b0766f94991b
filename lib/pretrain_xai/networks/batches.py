"""Images as the batches that networks take."""

import numpy as np
import torch
from torch import Tensor


def as_batch(images: np.ndarray) -> Tensor:
    """Return images as a channels-last float32 tensor of shape (n, 3, height, width) in [0, 1]; grey becomes three copies.

    Activations, float32 of shape (n, height, width, channels), keep their channels and values.
    """
    tensor = torch.from_numpy(np.array(images))  # a copy: memory-mapped files are read-only
    tensor = tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()
    tensor = tensor[..., None].expand(*tensor.shape, 3) if tensor.ndim == 3 else tensor
    return tensor.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
