"""A model that does not fit starts again with smaller passes, and nothing else is caught."""

import numpy as np
import pytest
import torch
from pretrain_xai.dataset import Split
from pretrain_xai.errors import UserError
from pretrain_xai.memory import within_memory
from pretrain_xai.protocol import CORRECTED
from pretrain_xai.settings.sections import Attribution

SETTINGS = Attribution(methods=["saliency"])
SHORTAGES = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
)


def explain(fitting: int, error: Exception, settings: Attribution = SETTINGS, size: int = 96):
    """Explain nothing, with an error for more than `fitting` rows; return the outcome and the rows that were tried."""
    tried = []

    @within_memory
    def attempt(network, split, image_indices, methods, settings, protocol) -> str:
        tried.append(settings.micro_batch)
        if settings.micro_batch > fitting:
            raise error
        return "scores"

    split = Split(np.zeros((1, size, size)), np.zeros(1), None, None)
    try:
        return attempt(None, split, np.zeros(1), [], settings, CORRECTED), tried
    except Exception as raised:
        return raised, tried


@pytest.mark.parametrize("error", SHORTAGES)
def test_starts_again_with_half_the_rows(error, caplog):
    assert explain(5, error) == (("scores", 4), [32, 16, 8, 4])
    assert SETTINGS.micro_batch is None, "the study's settings stay"
    assert "again with 4" in caplog.text


def test_study_decides_on_the_first_attempt():
    assert explain(99, MemoryError(), SETTINGS.model_copy(update={"micro_batch": 7})) == (("scores", 7), [7])


def test_one_image_that_does_not_fit_is_an_error():
    error, tried = explain(0, MemoryError(), size=224)
    assert isinstance(error, UserError)
    assert "images of 224 x 224 px" in str(error) and "--cores 1" in str(error)
    assert tried == [4, 2, 1]


def test_other_errors_are_not_caught():
    error, tried = explain(0, RuntimeError("shapes do not fit"))
    assert "shapes" in str(error) and tried == [32]
