"""Frozen layers that are run once: the same training, and a network that can't be split is trained whole."""

import tempfile

import numpy as np
import pytest
import torch
from pretrain_xai.dataset import LabelledImages
from pretrain_xai.networks import frozen_prefix
from pretrain_xai.networks.frozen_prefix import Activations, behind_frozen_prefix, split_network
from pretrain_xai.networks.models import build_network, freeze_below
from pretrain_xai.networks.training import as_batch, train
from pretrain_xai.settings.sections import Cache, Network, Standardise, Training
from torch import nn
from torch.nn import functional
from torchvision.models import resnet18

IN_MEMORY, ON_DISK, NOWHERE = Cache(), Cache(memory_gib=0), Cache(memory_gib=0, disk_gib=0)
SETTINGS = Network(architecture="vgg13", width=1 / 8, standardise=Standardise(mean=0.3, std=0.3))


def noise(n_images: int, seed: int, size: int = 32) -> LabelledImages:
    images = np.random.default_rng(seed).random((n_images, size, size), dtype=np.float32)
    return LabelledImages(images, np.arange(n_images) % 2)


def vgg(depth: int, *, first_conv_frozen: bool = False) -> nn.Module:
    network = build_network(SETTINGS, 2, seed=0)
    freeze_below(network, depth, first_conv_frozen=first_conv_frozen)
    return network.train()


def resnet(trained: tuple[str, ...]) -> nn.Module:
    """Return a small ResNet of which only some parts are trained; its frozen batch normalisation keeps its statistics."""
    torch.manual_seed(0)
    network = resnet18(num_classes=2).train()
    for name, part in network.named_children():
        part.requires_grad_(name in trained)
        part.train(name in trained)
    return network


def result(network: nn.Module, cache: Cache | None, **settings):
    """Return the trained tensors and the history."""
    given = Training(**{"epochs": 2, "batch_size": 16, "momentum": 0.9} | settings)
    history = train(network, noise(41, 0), noise(35, 1), given, learning_rate=0.02, seed=3, cache=cache)
    return network.state_dict(), history


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("first_conv_frozen", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_weights_are_those_of_the_plain_loop_after_two_epochs(depth, first_conv_frozen, optimizer):
    networks = [vgg(depth, first_conv_frozen=first_conv_frozen) for _ in range(3)]
    plain, history = result(networks[0], None, optimizer=optimizer)
    kept, history_kept = result(networks[1], IN_MEMORY, optimizer=optimizer)
    for name, tensor in plain.items():
        torch.testing.assert_close(kept[name], tensor, rtol=0, atol=1e-5)
    np.testing.assert_allclose(history_kept.to_numpy(float), history.to_numpy(float), atol=1e-5)
    before = networks[2].state_dict()
    changed = {name for name in kept if not torch.equal(kept[name], before[name])}
    assert changed == {name for name, parameter in networks[1].named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("budget", [ON_DISK, NOWHERE])
def test_where_the_activations_are_changes_no_bit(budget):
    expected, history = result(vgg(2), IN_MEMORY)
    found, other = result(vgg(2), budget)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert history.equals(other)


@pytest.mark.parametrize(("budget", "kind"), [(IN_MEMORY, np.ndarray), (ON_DISK, np.memmap), (NOWHERE, Activations)])
def test_budget_decides_where_the_activations_are(budget, kind, caplog, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    network, data = vgg(1), noise(19, 0)
    behind, (kept,) = behind_frozen_prefix(network, [data], budget)
    assert type(kept.images) is kind
    assert ("finetuning.cache" in caplog.text) == (kind is Activations)
    assert not list(tmp_path.iterdir())  # the file has no name, so that none is left behind
    rows = np.array([2, 3, 18])
    with torch.no_grad():
        logits = network.eval()(as_batch(data.images[rows]))
        torch.testing.assert_close(behind(as_batch(kept.images[rows])), logits, rtol=0, atol=1e-5)


def test_too_little_free_disk_is_seen_before_anything_is_written(monkeypatch, caplog):
    usage = frozen_prefix.shutil.disk_usage("/")
    monkeypatch.setattr(frozen_prefix.shutil, "disk_usage", lambda _: usage._replace(free=10))
    _, (kept,) = behind_frozen_prefix(vgg(1), [noise(4, 0)], ON_DISK)
    assert type(kept.images) is Activations and "has 0.0" in caplog.text


@pytest.mark.parametrize(("depth", "first_conv_frozen", "shape"), [(1, False, 64), (1, True, 64), (2, False, 32)])
def test_prefix_ends_behind_the_pooling(depth, first_conv_frozen, shape):
    """512 channels of 14 px for VGG-16 at 224 px, at depth 1: 1/16 of the side."""
    _, (kept,) = behind_frozen_prefix(vgg(depth, first_conv_frozen=first_conv_frozen), [noise(3, 0, 64)], IN_MEMORY)
    side = 4 if depth == 1 else 8
    assert kept.images.shape == (3, side, side, shape)
    assert kept.images.dtype == np.float32


def test_an_image_has_the_same_activations_whoever_comes_with_it():
    prefix = split_network(vgg(1)).prefix
    images = noise(40, 0).images
    together = Activations(prefix, images)[:]
    order = np.random.default_rng(0).permutation(40)
    assert np.array_equal(Activations(prefix, images)[order], together[order])
    for count in (1, 7, frozen_prefix.PREFIX_BATCH):
        assert np.array_equal(Activations(prefix, images)[:count], together[:count])


def test_nothing_is_kept_where_nothing_but_the_standardising_layer_is_frozen():
    network, data = vgg(5), noise(4, 0)
    assert behind_frozen_prefix(network, [data], IN_MEMORY) == (network, [data])


def test_a_network_with_skip_connections_is_split_between_its_blocks():
    network, data = resnet(("layer3", "layer4", "fc")), noise(18, 0)
    behind, (kept,) = behind_frozen_prefix(network, [data], IN_MEMORY)
    assert kept.images.shape == (18, 4, 4, 128)
    assert {name.split(".")[0] for name, _ in behind.named_parameters()} == {"layer3", "layer4", "fc"}
    assert all(mine is network.get_parameter(name) for name, mine in behind.named_parameters())


def test_batch_normalisation_that_follows_the_batch_is_not_in_the_prefix():
    network = resnet(("layer4", "fc"))
    network.layer2.train()  # its statistics would change
    prefix = split_network(network).prefix
    assert {name.split(".")[0] for name, _ in prefix.named_parameters()} == {"conv1", "bn1", "layer1"}


class Whole(nn.Module):
    """A frozen and a trained layer, with something between them that forbids to split there."""

    def __init__(self, between) -> None:
        super().__init__()
        self.frozen = nn.Conv2d(3, 40, 3).requires_grad_(False)
        self.dropout = nn.Dropout()
        self.trained = nn.Linear(40, 2)
        self.between = between

    def forward(self, x):
        return self.trained(self.between(self, self.frozen(x)).mean((2, 3)))


UNSPLITTABLE = {
    "looks at the image": lambda _, x: x if x.mean() > 0 else -x,
    "depends on the mode": lambda net, x: functional.dropout(x, training=net.training),
    "always draws": lambda _, x: functional.dropout(x),
    "looks at the other images": lambda _, x: x - x.mean(0, keepdim=True),
}


@pytest.mark.parametrize("between", UNSPLITTABLE.values(), ids=UNSPLITTABLE)
def test_a_network_that_cannot_be_split_is_trained_whole(between):
    torch.manual_seed(0)
    network, data = Whole(between).train(), noise(20, 0)
    assert behind_frozen_prefix(network, [data], IN_MEMORY) == (network, [data])


def test_dropout_as_a_module_ends_the_prefix():
    torch.manual_seed(0)
    split = split_network(Whole(lambda net, x: net.dropout(x)).train())
    assert [name for name, _ in split.behind.named_children()] == ["dropout", "trained"]
