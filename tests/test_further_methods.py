"""SmoothGrad, Grad-CAM, Occlusion, LRP's composite and random maps, against Captum, zennit and literal loops."""

import copy

import captum.attr
import numpy as np
import pytest
import torch
from brains import SIZE, active_dropout, brains, trained_network
from pretrain_xai.attribution import METHODS, attribute
from pretrain_xai.localization.comparison_maps import reduce_channels
from pretrain_xai.methods.further_methods import NOISE_STREAM
from torch import nn
from torch.nn import functional
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlusFlat


@pytest.fixture(scope="module")
def double():
    return copy.deepcopy(trained_network()).double()


@pytest.fixture(scope="module")
def data():
    images, targets = brains(7, seed=0)
    return images.double(), targets


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8 * expected.abs().max().item())


# ------------------------------------------------------------------------------------------------ oracles


@pytest.mark.filterwarnings("ignore:Input Tensor")
def test_smooth_grad_equals_captums_saliency_of_the_same_noisy_images(double, data):
    images, targets = data[0][:2], data[1][:2]
    ids, share, n_samples = (5, 9), 0.2, 4
    drawn = {"image_ids": torch.tensor(ids), "seed": 3}
    maps = attribute(double, images, targets, "smooth_grad", **drawn, n_samples=n_samples, noise=share)
    saliency = captum.attr.Saliency(double)
    for image, target, image_id, found in zip(images, targets, ids, maps, strict=True):
        expected = torch.zeros_like(image)
        for sample in range(n_samples):
            draw = np.random.default_rng((3, image_id, sample, NOISE_STREAM)).standard_normal((3, SIZE, SIZE))
            noisy = image + share * (image.max() - image.min()) * torch.from_numpy(draw)
            expected += saliency.attribute(noisy[None], target=int(target), abs=False)[0] / n_samples
        assert_close(found, expected)


def test_smooth_grad_without_noise_is_the_gradient(double, data):
    images, targets = data[0][:2], data[1][:2]
    found = attribute(double, images, targets, "smooth_grad", n_samples=2, noise=0)
    assert_close(found, attribute(double, images, targets, "saliency"))


@pytest.mark.filterwarnings("ignore:Setting")
def test_grad_cam_equals_captums_at_the_last_rectifier(double, data):
    images, targets = data
    maps = attribute(double, images, targets, "grad_cam")
    layer = double.features[-2]
    assert isinstance(layer, nn.ReLU) and isinstance(double.features[-3], nn.Conv2d)
    explainer = captum.attr.LayerGradCam(double, layer)
    for i in range(len(images)):
        cam = explainer.attribute(images[i : i + 1], target=int(targets[i]), relu_attributions=True).detach()
        expected = captum.attr.LayerAttribution.interpolate(cam, (SIZE, SIZE), "bilinear")
        assert_close(maps[i].sum(0), expected[0, 0])
        for reduction in ("sum_abs", "abs_sum"):
            np.testing.assert_allclose(reduce_channels(maps[i : i + 1], reduction)[0], expected[0, 0], atol=1e-12)
    assert maps.min() >= 0


class OneRectifier(nn.Module):
    """The same rectifier behind both convolutions and in the classifier."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.relu = nn.Conv2d(3, 5, 5, stride=4), nn.Conv2d(5, 4, 3), nn.ReLU()
        self.hidden, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def features(self, x):
        return self.relu(self.last(self.relu(self.first(x))))

    def forward(self, x):
        return self.head(self.relu(self.hidden(self.features(x).mean((2, 3)))))


def test_grad_cam_of_a_rectifier_that_is_used_again(data):
    torch.manual_seed(0)
    network, images, targets = OneRectifier().double().eval(), data[0], data[1]
    maps = attribute(network, images, targets, "grad_cam")
    for image, target, found in zip(images, targets, maps, strict=True):
        activations = network.features(image[None]).detach().requires_grad_()
        logits = network.head(network.relu(network.hidden(activations.mean((2, 3)))))
        (gradient,) = torch.autograd.grad(logits[0, target], activations)
        cam = functional.relu((gradient.mean((2, 3), keepdim=True) * activations).sum(1, keepdim=True)).detach()
        assert_close(found.sum(0), functional.interpolate(cam, (SIZE, SIZE), mode="bilinear")[0, 0])
    assert maps.max() > 0


@pytest.mark.parametrize(("window", "stride"), [(20, 12), (16, 16), (64, 5)])
def test_occlusion_equals_captums(double, data, window, stride):
    images, targets = data[0][:2], data[1][:2]
    maps = attribute(double, images, targets, "occlusion", window=window, stride=stride)
    explainer = captum.attr.Occlusion(double)
    shape = {"sliding_window_shapes": (3, window, window), "strides": (3, stride, stride), "baselines": 0}
    for i in range(2):
        expected = explainer.attribute(images[i : i + 1], target=int(targets[i]), **shape)[0]
        torch.testing.assert_close(maps[i].float(), expected.float(), rtol=1e-6, atol=1e-6)
    # Captum divides in single precision; its sums, before it does, are exact
    explainer.use_weights = False
    starts = [start * stride for start in range(-(-(SIZE - window) // stride) + 1)]
    covered = np.sum([(np.arange(SIZE) >= s) & (np.arange(SIZE) < s + window) for s in starts], axis=0)
    for i in range(2):
        summed = explainer.attribute(images[i : i + 1], target=int(targets[i]), **shape)[0]
        assert summed.dtype == torch.float64
        assert_close(maps[i], summed / torch.from_numpy(np.outer(covered, covered)))


def test_lrp_equals_zennit_on_one_image(double, data):
    """The composite without the standardising layer in front, whose relevance it passes on."""
    images, targets = data[0][:3], data[1][:3]
    maps = attribute(double, images, targets, "lrp_epsilon_plus_flat")
    network = copy.deepcopy(double).requires_grad_(False)
    standardise, network.standardise = network.standardise, None
    with Gradient(network, EpsilonPlusFlat()) as attributor:
        for i in range(3):
            start = torch.eye(2, dtype=torch.float64)[targets[i]]
            _, relevance = attributor(standardise(images[i : i + 1]), lambda output, start=start: output * start)
            assert_close(maps[i], relevance[0])


def test_lrp_composite_differs_from_input_x_gradient(double, data):
    images, targets = data
    methods = ("lrp", "input_x_gradient", "lrp_epsilon_plus_flat")
    maps = {method: attribute(double, images, targets, method).sum(1) for method in methods}

    def correlation(method):
        return np.corrcoef(maps[method].numpy().ravel(), maps["input_x_gradient"].numpy().ravel())[0, 1]

    assert correlation("lrp") > 0.99
    assert abs(correlation("lrp_epsilon_plus_flat")) < 0.5


def test_random_maps_come_from_seed_and_image_id_and_are_uniform(double, data):
    images, targets = data

    def maps(**settings):
        return attribute(double, images, targets, "random", **settings)

    found = maps(image_ids=torch.arange(7))
    assert torch.equal(found, attribute(double, torch.ones_like(images), 1 - targets, "random"))
    assert not torch.equal(found, maps(seed=1)) and not torch.equal(found[0], found[1])
    values = found.sum(1).numpy()
    assert values.min() >= 0 and values.max() <= 1
    shares, _ = np.histogram(values, bins=10, range=(0, 1))
    np.testing.assert_allclose(shares / values.size, 0.1, atol=0.01)


def test_active_dropout_scales_no_relevance(double, data):
    """Relevance that dropout lets through stays what it was: the map sums to the logit as far as biases allow."""
    images, targets = data
    network = copy.deepcopy(double)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer is not network.standardise:
            nn.init.zeros_(layer.bias)
    active_dropout(network)
    logits = []
    network.register_forward_hook(lambda module, arguments, output: logits.append(output.detach()))
    maps = attribute(network, images, targets, "lrp_epsilon_plus_flat", allow_dropout=True)
    logit = logits[0][torch.arange(7), targets]
    torch.testing.assert_close(maps.sum((1, 2, 3)), logit, rtol=0.02, atol=1e-3)


def test_every_method_has_a_name_for_figures():
    from pretrain_xai.names import label

    assert all(label(method) != method.replace("_", " ") for method in METHODS)
