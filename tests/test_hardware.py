"""Where networks run: as the study file says, batches follow the network, and a card that is not there is said at once."""

import numpy as np
import pytest
import torch
from pretrain_xai import batch
from pretrain_xai.errors import UserError
from pretrain_xai.networks import models
from pretrain_xai.networks.models import as_batch, device_name, find_device, on_card, place
from pretrain_xai.networks.training import predict, train
from pretrain_xai.running.prerequisites import unmet
from pretrain_xai.settings.sections import Training
from pretrain_xai.study import load_study
from small_nets import noise, vgg
from torch import nn

IMAGES = noise(6).images


def demo(**changes):
    return load_study("demo").model_copy(update=changes)


@pytest.mark.parametrize(("there", "chosen"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_a_card_if_there_is_one(monkeypatch, there, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert find_device("auto").type == chosen
    assert find_device("cpu").type == "cpu"
    assert [on_card(demo(device=device)) for device in ("cpu", "auto", "cuda")] == [False, there, True]


def test_a_card_that_is_not_there_ends_the_batch_at_once_but_not_on_a_cluster(monkeypatch, root, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"device: cuda, .* set device: auto or cpu in the study file"):
        place(vgg(), demo(device="cuda"))
    (root / "studies" / "card.yaml").write_text((root / "studies" / "tiny.yaml").read_text() + "device: cuda\n")
    assert batch.main(["card", "--dry-run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(unmet(load_study("card"), on_cluster=True)) == []


def test_batches_follow_the_network(monkeypatch):
    """To a device that every torch has: tensors on it have a shape and no values."""
    monkeypatch.setattr(models, "find_device", lambda setting: torch.device("meta"))
    placed = place(vgg(), demo(device="cuda"))
    assert {tensor.device.type for tensor in placed.state_dict().values()} == {"meta"}
    assert placed(as_batch(IMAGES, placed)).device.type == "meta"
    assert device_name(placed) == "meta"


def test_values_lie_channels_last_in_weights_batches_and_kept_activations():
    placed, seen = place(vgg(2), demo()), []
    for layer in placed.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    train(placed, noise(6), noise(6), Training(epochs=1, batch_size=4), learning_rate=0.01, seed=0, cache_gib=1.0)
    assert seen and all(values.is_contiguous(memory_format=torch.channels_last) for values in seen)
    np.testing.assert_allclose(
        predict(placed, IMAGES), predict(placed.to(memory_format=torch.contiguous_format), IMAGES), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_batches_of_grey_and_colour_are_float32_with_three_channels(colour, dtype):
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3) if colour else (2, 4, 5), dtype=np.uint8)
    batch = as_batch(images[::-1] if dtype == np.uint8 else images[::-1].astype(dtype) / 255, nn.Identity())
    assert batch.dtype == torch.float32 and batch.is_contiguous(memory_format=torch.channels_last)
    expected = images if colour else np.stack([images] * 3, axis=-1)
    np.testing.assert_allclose(batch, expected[::-1].transpose(0, 3, 1, 2) / 255, atol=1e-6)
