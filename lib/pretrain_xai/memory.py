"""Start again with smaller passes when memory runs out."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from pretrain_xai.dataset import Split
from pretrain_xai.errors import UserError
from pretrain_xai.methods.micro_batches import micro_batch_rows
from pretrain_xai.protocol import Protocol
from pretrain_xai.settings.sections import Attribution

T = TypeVar("T")


class TooLittleMemoryError(UserError):
    """Not even one image at a time can be explained."""


def within_memory(explain: Callable[..., T]) -> Callable[..., tuple[T, int]]:
    """Let `explain` start the whole model again with half the rows of a pass when memory runs out, down to one.

    All maps of a model come from passes of one shape, so nothing that an interrupted attempt computed is kept. The decorated
    function returns the result and the rows of the passes that it comes from, which are to be recorded. Keyword arguments
    reach `explain` as they are.

    Raises
    ------
    TooLittleMemoryError
        One image at a time is too much.
    """

    @functools.wraps(explain)
    def explain_within(
        network: nn.Module,
        split: Split,
        image_indices: np.ndarray,
        methods: Sequence[str],
        settings: Attribution,
        protocol: Protocol,
        **further: Any,
    ) -> tuple[T, int]:
        rows = settings.micro_batch or micro_batch_rows(*split.images.shape[1:3])
        while True:
            tried = settings.model_copy(update={"micro_batch": rows})
            try:
                return explain(network, split, image_indices, methods, tried, protocol, **further), rows
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if rows == 1:
                    height, width = split.images.shape[1:3]
                    raise TooLittleMemoryError(
                        f"memory ran out though images of {height} x {width} px were explained one at a time: run one job "
                        "at a time (`python -m pretrain_xai.batch STUDY --cores 1`), or choose a smaller "
                        "dataset.image_size or network.width"
                    ) from error
            # outside of the handler, whose error keeps the tensors of the failed pass alive
            logging.getLogger(__name__).warning("memory ran out with %d images a pass: again with %d", rows, rows // 2)
            rows //= 2
            torch.cuda.empty_cache()

    return explain_within


def _out_of_memory(error: Exception) -> bool:
    # torch raises a plain RuntimeError where the system refuses memory, and a class of its own for a GPU
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
