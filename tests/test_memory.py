"""A model that does not fit starts again with smaller passes, and nothing else is caught."""

import pytest
import torch
from pretrain_xai.memory import within_memory
from pretrain_xai.study import Attribution

SETTINGS = Attribution(methods=["saliency"])
SHORTAGES = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
)


class Explain:
    """Needs more memory than there is for more than `fitting` rows."""

    def __init__(self, fitting: int, error: Exception):
        self.fitting, self.error, self.tried = fitting, error, []

    def __call__(self, settings: Attribution) -> str:
        self.tried.append(settings.micro_batch)
        if settings.micro_batch > self.fitting:
            raise self.error
        return "scores"


@pytest.mark.parametrize("error", SHORTAGES)
def test_starts_again_with_half_the_rows(error, caplog):
    explain = Explain(5, error)
    result, settings = within_memory(explain, SETTINGS, (96, 96))
    assert (result, settings.micro_batch, explain.tried) == ("scores", 4, [32, 16, 8, 4])
    assert SETTINGS.micro_batch is None, "the study's settings stay"
    assert "again with 4" in caplog.text


def test_study_decides_on_the_first_attempt():
    _, settings = within_memory(Explain(99, MemoryError()), SETTINGS.model_copy(update={"micro_batch": 7}), (96, 96))
    assert settings.micro_batch == 7


def test_one_image_that_does_not_fit_is_an_error():
    with pytest.raises(MemoryError, match="one at a time"):
        within_memory(Explain(0, MemoryError()), SETTINGS, (224, 224))


def test_other_errors_are_not_caught():
    explain = Explain(0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(explain, SETTINGS, (96, 96))
    assert explain.tried == [32]
