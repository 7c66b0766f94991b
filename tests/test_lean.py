"""The lean form of a network is the network."""

import pytest
import torch
from pretrain_xai.attribution import attribute_all
from pretrain_xai.methods.passes import input_gradients, lean
from pretrain_xai.networks.models import build_network
from pretrain_xai.settings.sections import Network, Standardise
from torch import nn


def network(standardise: bool = True) -> nn.Module:
    layer = Standardise(mean=0.3, std=0.3) if standardise else None
    return build_network(Network(architecture="vgg11", width=0.125, standardise=layer), n_classes=2, seed=0)


def images(size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Noise with a constant background, where max pools have ties."""
    noise = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)
    noise[..., : size // 3, :] = 0
    return noise


def split(model: nn.Module, size: int, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Return beginning and rest as one network."""
    return nn.Sequential(*lean(model, torch.zeros(1, 3, size, size, dtype=dtype)))


@pytest.mark.parametrize(("size", "standardise"), [(64, True), (96, False), (224, True), (256, False)])
def test_logits_and_gradients_are_the_models(size, standardise):
    model, x, targets = network(standardise).double(), images(size, torch.float64), torch.tensor([0, 1, 0])
    parts = split(model, size, torch.float64)
    assert len(parts[0]) == 1 + standardise, "the standardising layer and the first convolution"
    torch.testing.assert_close(parts(x), model(x), rtol=1e-12, atol=1e-12)
    expected = input_gradients(model, x, targets)
    torch.testing.assert_close(input_gradients(parts, x, targets), expected, rtol=0, atol=1e-12)


def test_rectifier_behind_its_pool_changes_no_bit_of_the_gradient():
    """Also where a window is constant, or has no positive value."""
    before = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3 * 32 * 32, 2)).eval()
    x, targets = images(64) - 0.5, torch.tensor([0, 1, 0])
    after = split(before, 64)
    assert [type(layer) for layer in after[1][:2]] == [nn.MaxPool2d, nn.ReLU]
    assert torch.equal(input_gradients(after[1], x, targets), input_gradients(before, x, targets))


def test_batch_normalisation_belongs_to_the_beginning():
    model = build_network(Network(architecture="vgg11_bn", width=0.125), n_classes=2, seed=0)
    assert [type(layer) for layer in split(model, 32)[0]] == [nn.Conv2d, nn.BatchNorm2d]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return (x + self.convolution(x)).mean((2, 3))


def hooked():
    model = network()
    model.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize("model", [Residual(), hooked(), nn.Sequential(nn.Conv2d(3, 3, 1), Residual())])
def test_what_may_do_anything_else_is_left_whole(model):
    parts = split(model.eval(), 32)
    assert parts[1][-1] in (model, model[-1] if isinstance(model, nn.Sequential) else None)
    assert torch.equal(parts(images(32)), model(images(32)))


@pytest.mark.parametrize("place", ["features", "avgpool", "classifier.0", "features.1", "features.2"])
def test_a_hooked_part_sees_what_it_saw(place):
    """Hooks on containers, on what would be merged and on what would change places."""
    model, seen = network(), []
    expected_of = images(64)
    handle = model.get_submodule(place).register_forward_hook(
        lambda module, arguments, output: seen.append((arguments[0], output))
    )
    model(expected_of)
    (expected,) = seen
    parts = split(model, 64)
    seen.clear()
    parts(expected_of)
    assert len(seen) == 1
    assert all(torch.equal(found, known) for found, known in zip(seen[0], expected, strict=True))
    handle.remove()


@pytest.mark.parametrize("place", [1, 3, 5])
def test_active_dropout_anywhere_draws_for_the_rows_of_a_pass(place):
    layers = [
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(20),
        nn.Flatten(),
        nn.Linear(1600, 2),
    ]
    layers.insert(place, nn.Dropout())
    model = nn.Sequential(*layers).eval()
    model[place].train()
    x, targets, methods = images(32), torch.tensor([0, 1, 0]), ["integrated_gradients", "saliency", "smooth_grad"]
    maps = attribute_all(model, x, targets, methods, allow_dropout=True)
    one = attribute_all(model, x[1:2], targets[1:2], methods, allow_dropout=True, image_ids=torch.tensor([1]))
    assert all(torch.equal(maps[method][1:2], one[method]) for method in methods)
