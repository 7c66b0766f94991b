"""Frozen layers that are run once: the same training, and a network that can't be split is trained whole."""

import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
import small_nets
import torch
from pretrain_xai.networks import training
from pretrain_xai.networks.models import as_batch, training_mode
from pretrain_xai.networks.training import Activations, behind_frozen_prefix, train
from pretrain_xai.settings.sections import Training
from small_nets import noise, resnet
from torch import nn

KEPT, NOWHERE = 1.0, 0.0


def vgg(depth: int, *, architecture: str = "vgg13", first_conv_frozen: bool = False) -> nn.Module:
    settings = {"width": 1 / 8, "standardise": {"mean": 0.3, "std": 0.3}}
    network = small_nets.vgg(depth, architecture=architecture, first_conv_frozen=first_conv_frozen, **settings)
    training_mode(network)
    return network.to(memory_format=torch.channels_last)  # as a study lays it out


def result(network: nn.Module, cache_gib: float | None):
    """Return the trained tensors and the history."""
    given = Training(epochs=2, batch_size=16, momentum=0.9)
    history = train(network, noise(41), noise(35, 1), given, learning_rate=0.02, seed=3, cache_gib=cache_gib)
    return network.state_dict(), history


@pytest.mark.parametrize("first_conv_frozen", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_weights_are_those_of_the_plain_loop_after_two_epochs(depth, first_conv_frozen):
    plain, history = result(vgg(depth, first_conv_frozen=first_conv_frozen), None)
    kept, history_kept = result(vgg(depth, first_conv_frozen=first_conv_frozen), KEPT)
    for name, tensor in plain.items():
        torch.testing.assert_close(kept[name], tensor, rtol=0, atol=1e-5)
    np.testing.assert_allclose(history_kept.to_numpy(float), history.to_numpy(float), atol=1e-5)


def test_where_the_activations_are_changes_no_bit():
    (expected, history), (found, other) = result(vgg(2), KEPT), result(vgg(2), NOWHERE)
    assert small_nets.same(found, expected) and history.equals(other)


@pytest.mark.parametrize(
    ("budget", "free", "kind"),
    [(KEPT, 2**40, np.memmap), (KEPT, 10, Activations), (NOWHERE, 2**40, Activations)],
)
def test_budget_and_free_disk_decide_where_the_activations_are(budget, free, kind, caplog, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(training.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    network, data = vgg(1), noise(19)
    behind, (kept,) = behind_frozen_prefix(network, [data], budget)
    assert type(kept.images) is kind
    assert ("finetuning.cache_gib" in caplog.text) == (kind is Activations)
    assert not list(tmp_path.iterdir())  # the file has no name, so that none is left behind
    rows = np.array([2, 3, 18])
    with torch.no_grad():
        logits = network.eval()(as_batch(data.images[rows], network))
        torch.testing.assert_close(behind(as_batch(kept.images[rows], behind)), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("depth", "first_conv_frozen", "channels"), [(1, False, 64), (1, True, 64), (2, False, 32)])
def test_prefix_ends_behind_the_pooling(depth, first_conv_frozen, channels):
    """512 channels of 14 px for VGG-16 at 224 px, at depth 1: 1/16 of the side."""
    _, (kept,) = behind_frozen_prefix(vgg(depth, first_conv_frozen=first_conv_frozen), [noise(3, side=64)], KEPT)
    side = 4 if depth == 1 else 8
    assert kept.images.shape == (3, side, side, channels) and kept.images.dtype == np.float32


def test_an_image_has_the_same_activations_whoever_comes_with_it():
    _, (kept,) = behind_frozen_prefix(vgg(1), [noise(40)], NOWHERE)
    together, order = kept.images[:], np.random.default_rng(0).permutation(40)
    assert np.array_equal(kept.images[order], together[order])
    for count in (1, 7, training.PREFIX_BATCH):
        assert np.array_equal(kept.images[:count], together[:count])


def test_frozen_batch_normalisation_is_in_the_prefix_and_one_that_follows_the_batch_is_not():
    network = vgg(1, architecture="vgg11_bn")
    behind, _ = behind_frozen_prefix(network, [noise(3)], KEPT)
    assert behind[0] is network.features[22], "the first convolution of the last block"
    network.features[5].train()
    behind, _ = behind_frozen_prefix(network, [noise(3)], KEPT)
    assert behind[0] is network.features[5]


def test_a_network_is_trained_whole_where_too_little_is_frozen_or_layers_may_not_follow_one_another():
    own, sequence = resnet(2), nn.Sequential(nn.Dropout(), nn.Conv2d(3, 40, 3), nn.Flatten(), nn.Linear(36000, 2))
    own.stem.requires_grad_(False)
    sequence[1].requires_grad_(False)
    for network in (vgg(5), own, sequence.train()):
        data = noise(4)
        assert behind_frozen_prefix(network, [data], KEPT) == (network, [data])
