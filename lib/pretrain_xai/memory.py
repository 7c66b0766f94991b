"""Start again with smaller passes when memory runs out."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from pretrain_xai.micro_batches import micro_batch_rows
from pretrain_xai.study import Attribution

T = TypeVar("T")


def within_memory(
    explain: Callable[[Attribution], T], settings: Attribution, image_shape: tuple[int, int]
) -> tuple[T, Attribution]:
    """Call `explain(settings)`; if memory runs out, start the whole model again with half the rows of a pass, down to one.

    All maps of a model come from passes of one shape, so nothing that an interrupted attempt computed is kept.

    Parameters
    ----------
    image_shape : (height, width)
        Decides on the rows of the first attempt where the settings do not.

    Returns
    -------
    result of `explain`, and the settings that it was called with last, whose `micro_batch` is to be recorded.

    Raises
    ------
    MemoryError
        One image at a time is too much.
    """
    rows = settings.micro_batch or micro_batch_rows(*image_shape)
    while True:
        tried = settings.model_copy(update={"micro_batch": rows})
        try:
            return explain(tried), tried
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            if rows == 1:
                raise MemoryError("memory ran out though images were explained one at a time: free some") from error
        # outside of the handler, whose error keeps the tensors of the failed pass alive
        logging.getLogger(__name__).warning("memory ran out with %d images a pass: again with %d", rows, rows // 2)
        rows //= 2
        torch.cuda.empty_cache()


def _out_of_memory(error: Exception) -> bool:
    # torch raises a plain RuntimeError where the system refuses memory, and a class of its own for a GPU
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
