"""The lean form of a network is the network."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pretrain_xai.lean import lean
from pretrain_xai.micro_batches import input_gradients, step_runs
from pretrain_xai.models import build_network
from pretrain_xai.study import Network, Standardise
from torch import nn
from torchvision.models import vgg11_bn


def network(standardise: bool = True) -> nn.Module:
    settings = Network(
        architecture="vgg11", width=0.125, standardise=Standardise(mean=0.3, std=0.3) if standardise else None
    )
    return build_network(settings, n_classes=2, seed=0)


def images(size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Noise with a constant background, where max pools have ties."""
    noise = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)
    noise[..., : size // 3, :] = 0
    return noise


def whole(parts):
    return nn.Sequential(parts.beginning, parts.rest)


@pytest.mark.parametrize("size", [64, 96, 224, 256])
@pytest.mark.parametrize("standardise", [True, False])
def test_logits_and_gradients_are_the_models(size, standardise):
    model, x, targets = network(standardise).double(), images(size, torch.float64), torch.tensor([0, 1, 0])
    parts = lean(model, x[:1])
    assert len(parts.beginning) == 1 + standardise, "the standardising layer and the first convolution"
    torch.testing.assert_close(whole(parts)(x), model(x), rtol=1e-12, atol=1e-12)
    expected = input_gradients(model, x, targets)
    torch.testing.assert_close(input_gradients(whole(parts), x, targets), expected, rtol=0, atol=1e-12)


def test_beginning_is_affine():
    parts = lean(network(), images(64)[:1])
    x, black = images(64), torch.zeros(1, 3, 64, 64)
    begun, start = parts.beginning(x), parts.beginning(black)
    torch.testing.assert_close(parts.beginning(0.3 * x), start + 0.3 * (begun - start))


def test_rectifier_behind_its_pool_changes_no_bit_of_the_gradient():
    """Also where a window is constant, or has no positive value."""
    before = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3 * 32 * 32, 2)).eval()
    x, targets = images(64) - 0.5, torch.tensor([0, 1, 0])
    after = lean(before, x[:1])
    assert [type(layer) for layer in after.rest[:2]] == [nn.MaxPool2d, nn.ReLU]
    assert torch.equal(input_gradients(after.rest, x, targets), input_gradients(before, x, targets))


def test_batch_normalisation_belongs_to_the_beginning():
    model = vgg11_bn(init_weights=False).eval()
    assert [type(layer) for layer in lean(model, images(32)[:1]).beginning] == [nn.Conv2d, nn.BatchNorm2d]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return (x + self.convolution(x)).mean((2, 3))


def with_hook(place):
    model = network()
    place(model).register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    "model", [Residual(), with_hook(lambda model: model), nn.Sequential(nn.Conv2d(3, 3, 1), Residual())]
)
def test_what_may_do_anything_else_is_left_whole(model):
    parts = lean(model.eval(), images(32)[:1])
    assert parts.rest is model or isinstance(parts.rest[-1], Residual)
    assert torch.equal(whole(parts)(images(32)), model(images(32)))


def test_a_hooked_part_is_left_whole():
    calls = []
    model = network()
    model.features.register_forward_hook(lambda *_: calls.append(1))
    parts = lean(model, images(64)[:1])
    calls.clear()
    whole(parts)(images(64))
    assert calls == [1]


def test_model_is_not_changed():
    model = network()
    before = copy.deepcopy(model.state_dict())
    lean(model, images(64)[:1])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 40))
def test_steps_are_packed_whole_and_in_order(n_images, n_steps, n_rows):
    passes = list(step_runs(n_images, n_steps, n_rows))
    assert len(passes) == -(-n_images * n_steps // n_rows)
    found = []
    for runs in passes:
        rows = [row for run in runs for row in range(run.rows.start, run.rows.stop)]
        assert rows == list(range(len(rows))) and len(rows) <= n_rows
        for run in runs:
            assert run.rows.stop - run.rows.start == run.images.stop - run.images.start
            found += [(run.step, image) for image in range(run.images.start, run.images.stop)]
    assert found == [(step, image) for step in range(n_steps) for image in range(n_images)]
