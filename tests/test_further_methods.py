"""SmoothGrad, Grad-CAM, Occlusion, LRP's composite and random maps, against Captum, zennit and literal loops."""

import copy

import captum.attr
import numpy as np
import pytest
import torch
from pretrain_xai.attribution import METHODS, attribute
from pretrain_xai.localization.comparison_maps import reduce_channels
from pretrain_xai.methods.further_methods import NOISE_STREAM
from pretrain_xai.networks.models import build_network
from pretrain_xai.settings.sections import Network, Standardise
from test_attribution import assert_same_state, state
from torch import nn
from torch.nn import functional
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlusFlat, NameMapComposite
from zennit.rules import Epsilon, Flat, Norm, Pass, ZPlus

SIZE = 64
OPTIONS = {"smooth_grad": {"n_samples": 3}, "occlusion": {"window": 20, "stride": 12}}
NEW = ["smooth_grad", "grad_cam", "occlusion", "lrp_epsilon_plus_flat", "random"]


def brains(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy squares on black, the class a brighter spot on the left or on the right."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(2, size=n)
    images = np.zeros((n, SIZE, SIZE))
    images[:, 8:56, 8:56] = rng.uniform(0.2, 0.6, (n, 48, 48))
    for image, target in zip(images, targets, strict=True):
        image[28:36, 16 + 24 * target : 24 + 24 * target] += 0.4
    return torch.tensor(images, dtype=torch.float32)[:, None].repeat(1, 3, 1, 1), torch.tensor(targets)


@pytest.fixture(scope="module")
def model():
    """A trained network of the library, with its standardising layer."""
    settings = Network(architecture="vgg11", width=0.0625, standardise=Standardise(mean=0.3, std=0.3))
    network = build_network(settings, n_classes=2, seed=0)
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=2e-3)
    for step in range(25):
        images, targets = brains(16, 100 + step)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(images), targets).backward()
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return network


@pytest.fixture(scope="module")
def double(model):
    return copy.deepcopy(model).double()


@pytest.fixture(scope="module")
def data():
    return brains(7, seed=0)


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8 * expected.abs().max().item())


@pytest.mark.parametrize("method", NEW)
def test_maps_do_not_depend_on_batch_neighbours_or_order(model, data, method):
    images, targets = data
    options, ids = OPTIONS.get(method, {}), torch.arange(10, 17)
    expected = attribute(model, images, targets, method, image_ids=ids, **options)
    assert expected.shape == images.shape and expected.dtype == images.dtype
    assert expected.flatten(1).abs().amax(1).min() > 0
    for batch_size in (1, 2, 7):
        maps = attribute(model, images, targets, method, image_ids=ids, batch_size=batch_size, **options)
        assert torch.equal(maps, expected)
    back = torch.arange(6, -1, -1)
    maps = attribute(model, images[back], targets[back], method, image_ids=ids[back], **options)
    assert torch.equal(maps, expected[back])


@pytest.mark.parametrize("method", NEW)
def test_double_precision_differs_by_rounding_alone(model, double, data, method):
    images, targets = data
    single = attribute(model, images[:2], targets[:2], method, **OPTIONS.get(method, {}))
    maps = attribute(double, images[:2].double(), targets[:2], method, **OPTIONS.get(method, {}))
    assert maps.dtype == torch.float64
    agreement = np.corrcoef(single.numpy().ravel(), maps.numpy().ravel())[0, 1]
    assert agreement > 0.99


# ------------------------------------------------------------------------------------------------ oracles


@pytest.mark.filterwarnings("ignore:Input Tensor")
def test_smooth_grad_equals_captums_saliency_of_the_same_noisy_images(double, data):
    images, targets = data[0][:2].double(), data[1][:2]
    ids, share, n_samples = (5, 9), 0.2, 4
    maps = attribute(
        double,
        images,
        targets,
        "smooth_grad",
        image_ids=torch.tensor(ids),
        seed=3,
        n_samples=n_samples,
        noise=share,
    )
    saliency = captum.attr.Saliency(double)
    for image, target, image_id, found in zip(images, targets, ids, maps, strict=True):
        expected = torch.zeros_like(image)
        for sample in range(n_samples):
            draw = np.random.default_rng((3, image_id, sample, NOISE_STREAM)).standard_normal((3, SIZE, SIZE))
            noisy = image + share * (image.max() - image.min()) * torch.from_numpy(draw)
            expected += saliency.attribute(noisy[None], target=int(target), abs=False)[0] / n_samples
        assert_close(found, expected)


def test_smooth_grad_without_noise_is_the_gradient(double, data):
    images, targets = data[0][:2].double(), data[1][:2]
    found = attribute(double, images, targets, "smooth_grad", n_samples=2, noise=0)
    assert_close(found, attribute(double, images, targets, "saliency"))


@pytest.mark.filterwarnings("ignore:Setting")
def test_grad_cam_equals_captums_at_the_last_rectifier(double, data):
    images, targets = data[0].double(), data[1]
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
    network, images, targets = OneRectifier().double().eval(), data[0].double(), data[1]
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
    images, targets = data[0][:2].double(), data[1][:2]
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
    images, targets = data[0][:3].double(), data[1][:3]
    maps = attribute(double, images, targets, "lrp_epsilon_plus_flat")
    network = copy.deepcopy(double)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    standardise, network.standardise = network.standardise, None
    with Gradient(network, EpsilonPlusFlat()) as attributor:
        for i in range(3):
            start = torch.eye(2, dtype=torch.float64)[targets[i]]
            _, relevance = attributor(standardise(images[i : i + 1]), lambda output, start=start: output * start)
            assert_close(maps[i], relevance[0])


def test_lrp_rules_by_layer(double, data):
    """The same as every rule written out by the layer's name."""
    images, targets = data[0][:2].double(), data[1][:2]
    rules = {nn.Conv2d: ZPlus, nn.Linear: Epsilon, nn.ReLU: Pass, nn.AdaptiveAvgPool2d: Norm}
    named = [((name,), rules[type(module)]()) for name, module in double.named_modules() if type(module) in rules]
    named = [(("features.0",), Flat()), (("standardise",), Pass()), *named]
    network = copy.deepcopy(double)
    with Gradient(network, NameMapComposite(named)) as attributor:
        for i in range(2):
            start = torch.eye(2, dtype=torch.float64)[targets[i]]
            _, relevance = attributor(images[i : i + 1], lambda output, start=start: output * start)
            assert_close(attribute(double, images, targets, "lrp_epsilon_plus_flat")[i], relevance[0])


def test_lrp_composite_differs_from_input_x_gradient(double, data):
    images, targets = data[0].double(), data[1]
    maps = {
        m: attribute(double, images, targets, m).sum(1) for m in ("lrp", "input_x_gradient", "lrp_epsilon_plus_flat")
    }

    def correlation(method):
        return np.corrcoef(maps[method].numpy().ravel(), maps["input_x_gradient"].numpy().ravel())[0, 1]

    assert correlation("lrp") > 0.99
    assert abs(correlation("lrp_epsilon_plus_flat")) < 0.5


def test_random_maps_come_from_seed_and_image_id_and_are_uniform(model, data):
    images, targets = data

    def maps(**settings):
        return attribute(model, images, targets, "random", **settings)

    found = maps(image_ids=torch.arange(7))
    assert torch.equal(found, attribute(model, torch.ones_like(images), 1 - targets, "random"))
    assert not torch.equal(found, maps(seed=1)) and not torch.equal(found[0], found[1])
    values = found.sum(1).numpy()
    assert values.min() >= 0 and values.max() <= 1
    shares, _ = np.histogram(values, bins=10, range=(0, 1))
    np.testing.assert_allclose(shares / values.size, 0.1, atol=0.01)


# ------------------------------------------------------------------------------------------------ guards


@pytest.mark.parametrize("method", NEW)
def test_model_is_left_as_it_was_also_after_an_exception(model, data, method):
    network = copy.deepcopy(model).requires_grad_(True)
    network.standardise.requires_grad_(False)
    network.features[3].register_full_backward_hook(lambda *_: None)
    calls = []

    def fail_at_second(*_):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("planted")

    network.classifier[1].register_forward_hook(fail_at_second)
    before = state(network)
    images, targets = data
    attribute(network, images[:1], targets[:1], method, **OPTIONS.get(method, {}), micro_batch=32)
    assert_same_state(before, state(network))
    if method != "random":
        with pytest.raises(RuntimeError, match="planted"):
            attribute(network, images, targets, method, **OPTIONS.get(method, {}), micro_batch=2)
        assert_same_state(before, state(network))


def test_active_dropout_scales_no_relevance(model, data):
    """Relevance that dropout lets through stays what it was: the map sums to the logit as far as biases allow."""
    images, targets = data[0].double(), data[1]
    network = copy.deepcopy(model).double()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer is not network.standardise:
            nn.init.zeros_(layer.bias)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    logits = []
    network.register_forward_hook(lambda module, arguments, output: logits.append(output.detach()))
    maps = attribute(network, images, targets, "lrp_epsilon_plus_flat", allow_dropout=True)
    logit = logits[0][torch.arange(7), targets]
    torch.testing.assert_close(maps.sum((1, 2, 3)), logit, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        ("smooth_grad", {"noise": -0.1}, ValueError, "noise=-0.1, a finite number from 0"),
        ("smooth_grad", {"noise": float("nan")}, ValueError, "noise=nan"),
        ("smooth_grad", {"noise": float("inf")}, ValueError, "noise=inf"),
        ("smooth_grad", {"noise": "0.1"}, ValueError, "noise='0.1'"),
        ("smooth_grad", {"noise": True}, ValueError, "noise=True"),
        ("smooth_grad", {"n_samples": 2.0}, ValueError, "n_samples=2.0, a whole number from 1"),
        ("smooth_grad", {"noize": 0.1}, TypeError, "did you mean 'noise'.*n_samples=25, noise=0.15"),
        ("occlusion", {"window": 8, "stride": 9}, ValueError, "stride must be at most window"),
        ("occlusion", {"window": 65}, ValueError, "window=65 and stride=8 for images with a side of 64 px"),
        ("grad_cam", {"window": 8}, TypeError, "no option 'window'.*none"),
    ],
)
def test_wrong_options_are_refused_with_a_reason(model, data, method, options, error, message):
    with pytest.raises(error, match=message):
        attribute(model, *data, method, **options)


def test_networks_without_a_rule_or_a_convolution_are_refused(data):
    normalised = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 62 * 62, 2)).eval()
    with pytest.raises(TypeError, match=r"no rule for 1 \(BatchNorm2d"):
        attribute(normalised, *data, "lrp_epsilon_plus_flat")
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 2)).eval()
    with pytest.raises(TypeError, match="grad_cam needs a convolution"):
        attribute(linear, *data, "grad_cam")


def test_every_new_method_has_a_name_for_figures():
    from pretrain_xai.names import label

    assert set(NEW) <= set(METHODS)
    assert all(label(method) != method.replace("_", " ") for method in NEW)
