import copy
import warnings

import captum.attr
import numpy as np
import pytest
import torch
from brains import SIZE, active_dropout, assert_same_state, brains, state, trained_network
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrain_xai.attribution import METHODS, attribute, attribute_all, completeness_delta
from pretrain_xai.methods.deep_lift import rescaled
from pretrain_xai.methods.guard import dropout_per_row
from pretrain_xai.methods.passes import micro_batch_rows
from torch import nn

OPTIONS = {"integrated_gradients": {"n_steps": 3}, "gradient_shap": {"n_samples": 2}, "smooth_grad": {"n_samples": 2}}
OPTIONS |= {"occlusion": {"window": 32, "stride": 32}}
#: the methods that read the network and the target
READING = [method for method in METHODS if method != "random"]
CAPTUM = {"integrated_gradients": captum.attr.IntegratedGradients, "saliency": captum.attr.Saliency}
CAPTUM |= {"input_x_gradient": captum.attr.InputXGradient, "guided_backprop": captum.attr.GuidedBackprop}
CAPTUM |= {"deconvolution": captum.attr.Deconvolution, "lrp": captum.attr.LRP, "deep_lift_captum": captum.attr.DeepLift}
#: what a method is called with beyond the defaults, for the sake of time
CAPTUM_OPTIONS = {"integrated_gradients": {"n_steps": 3}, "saliency": {"abs": False}}


@pytest.fixture(scope="module")
def model():
    return trained_network()


@pytest.fixture(scope="module")
def double(model):
    return copy.deepcopy(model).double()


@pytest.fixture(scope="module")
def data():
    return brains(7, seed=0)


# ------------------------------------------------------------------------------------------------ exactness


@pytest.mark.parametrize("method", METHODS)
def test_maps_do_not_depend_on_batch_neighbours_or_order(model, data, method):
    images, targets = data
    options, ids = OPTIONS.get(method, {}), torch.arange(10, 17)
    expected = attribute(model, images, targets, method, image_ids=ids, **options)
    assert expected.dtype == images.dtype and expected.shape == images.shape and expected.abs().max() > 0
    for batch_size in (1, 2, 32):
        maps = attribute(model, images, targets, method, image_ids=ids, batch_size=batch_size, **options)
        assert torch.equal(maps, expected)
    for order in (torch.arange(6, -1, -1), torch.tensor([4, 2])):
        maps = attribute(model, images[order], targets[order], method, image_ids=ids[order], **options)
        assert torch.equal(maps, expected[order])


@pytest.mark.filterwarnings("ignore:Setting", "ignore:Input Tensor")
@pytest.mark.parametrize("method", CAPTUM)
def test_equals_captum_one_image_at_a_time_in_double_precision(double, data, method):
    images, targets = data[0][:3].double(), data[1][:3]
    explainer, options = CAPTUM[method](double), CAPTUM_OPTIONS.get(method, {})
    rows = [explainer.attribute(images[i : i + 1], target=int(targets[i]), **options).detach() for i in range(3)]
    expected = torch.cat(rows)
    maps = attribute(double, images, targets, method, **OPTIONS.get(method, {}))
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-8 * expected.abs().max().item())


def test_gradient_shap_equals_a_literal_loop_with_the_same_coefficients(double, data):
    images, targets = data[0][:2].double(), data[1][:2]
    maps = attribute(double, images, targets, "gradient_shap", image_ids=torch.tensor([5, 9]), seed=3, n_samples=4)
    for image, target, image_id, found in zip(images, targets, (5, 9), maps, strict=True):
        expected = torch.zeros_like(image)
        for coefficient in np.random.default_rng((3, image_id)).uniform(size=4):
            row = (float(coefficient) * image)[None].requires_grad_()
            expected += image * torch.autograd.grad(double(row)[0, target], row)[0][0] / 4
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_gradient_shap_draws_from_seed_and_image_id(model, data):
    images, targets = data[0][:1].repeat(2, 1, 1, 1), data[1][:1].repeat(2)

    def maps(**settings):
        return attribute(model, images, targets, "gradient_shap", n_samples=1, **settings)

    assert not torch.equal(maps()[0], maps()[1]), "two ids, two draws"
    same = maps(image_ids=torch.tensor([4, 4]))
    assert torch.equal(same[0], same[1])
    assert not torch.equal(maps(seed=1), maps(seed=2))


def test_several_methods_at_once_equal_each_alone_and_share_the_gradient(model, data):
    images, targets = data[0][:3], data[1][:3]
    together = attribute_all(model, images, targets, METHODS, options=OPTIONS)
    for method, maps in together.items():
        assert torch.equal(maps, attribute(model, images, targets, method, **OPTIONS.get(method, {})))
    passes = []
    with_hook = copy.deepcopy(model)
    with_hook.classifier[-1].register_forward_hook(lambda *_: passes.append(1))
    attribute_all(with_hook, images, targets, ["saliency", "input_x_gradient"])
    assert len(passes) == 1


def test_every_pass_has_the_same_number_of_rows(model, data):
    shapes = set()
    with_hook = copy.deepcopy(model)
    with_hook.classifier[-1].register_forward_hook(lambda module, arguments, logits: shapes.add(tuple(logits.shape)))
    methods = [method for method in METHODS if method != "deep_lift_captum"]
    attribute_all(with_hook, *data, methods, options=OPTIONS, batch_size=3)
    assert shapes == {(micro_batch_rows(SIZE, SIZE), 2)}
    assert [micro_batch_rows(size, size) for size in (32, 96, 224, 2000)] == [32, 32, 4, 1]
    shapes.clear()
    attribute(with_hook, *data, "saliency", micro_batch=5)
    assert shapes == {(5, 2)}


@pytest.mark.parametrize("rows", [1, 2, 4, 8, 16, 32])
def test_a_row_is_computed_alike_at_every_place_of_a_pass(rows):
    """What `micro_batch_rows` relies on, of matrix products as wide as VGG's."""
    layers = nn.Sequential(nn.Linear(25_088, 256), nn.ReLU(), nn.Linear(256, 2)).requires_grad_(False)
    one = torch.rand(1, 25_088, generator=torch.Generator().manual_seed(0))
    same = one.repeat(rows, 1).requires_grad_()
    logits = layers(same)
    (gradients,) = torch.autograd.grad(logits[:, 0].sum(), same)
    assert torch.equal(logits, logits[:1].expand_as(logits))
    assert torch.equal(gradients, gradients[:1].expand_as(gradients))


def test_no_images_give_no_maps(model):
    maps = attribute_all(model, torch.zeros(0, 3, SIZE, SIZE), torch.zeros(0, dtype=torch.long), METHODS)
    assert {tuple(found.shape) for found in maps.values()} == {(0, 3, SIZE, SIZE)}


# ------------------------------------------------------------------------------------------------ completeness


def relative_misses(network, images, targets, method):
    maps = attribute(network, images, targets, method)
    with torch.no_grad():
        logits = network(torch.cat([images, torch.zeros_like(images[:1])])).double()
    difference = (logits[:-1] - logits[-1]).gather(1, targets[:, None])[:, 0]
    size = difference.abs()
    return (maps.double().sum((1, 2, 3)) - difference).abs() / torch.maximum(size, size.mean())


def test_deep_lift_is_complete_where_captums_is_not(model, double, data):
    images, targets = data
    assert relative_misses(model, images, targets, "deep_lift").max() < 1e-3
    assert relative_misses(double, images.double(), targets, "deep_lift").max() < 1e-6
    captums = relative_misses(double, images.double(), targets, "deep_lift_captum")
    assert captums.median() > 0.01, "Captum's DeepLift became complete: drop ours"


grids = st.lists(st.integers(-2, 2), min_size=72, max_size=72).map(lambda v: torch.tensor(v).double().view(2, 1, 6, 6))


@given(grids, st.sampled_from([(2, 2, 0), (3, 2, 1), (3, 1, 0)]))
@settings(max_examples=150, deadline=None)
def test_max_pool_rule_is_complete_and_bounded_also_with_ties_and_overlap(pair, pool):
    module = nn.Sequential(nn.MaxPool2d(*pool), nn.ReLU())
    image, reference = pair[:1].requires_grad_(), pair[1:]
    with rescaled(module, reference):
        output = module(image)
    multipliers = torch.autograd.grad(output.sum(), image)[0]
    expected = (module(image) - module(reference)).sum()
    torch.testing.assert_close((multipliers * (image - reference)).sum(), expected, rtol=0, atol=1e-12)
    assert multipliers.min() >= 0
    if pool[1] == pool[0]:
        assert multipliers.max() <= 1


def test_completeness_delta_is_the_sum_less_the_difference_to_black(double, data):
    images, targets = data[0].double(), data[1]
    maps = torch.rand(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = completeness_delta(double, images, targets, maps)
    with torch.no_grad():
        for i, (image, target) in enumerate(zip(images, targets, strict=True)):
            difference = double(image[None])[0, target] - double(torch.zeros_like(image)[None])[0, target]
            assert abs(found[i] - (maps[i].sum() - difference)) < 1e-8
    fine = attribute(double, images[:2], targets[:2], "integrated_gradients", n_steps=100)
    coarse = attribute(double, images[:2], targets[:2], "integrated_gradients", n_steps=2)
    misses = [completeness_delta(double, images[:2], targets[:2], m).abs().mean() for m in (fine, coarse)]
    assert misses[0] < misses[1] / 2


# ------------------------------------------------------------------------------------------------ guards


@pytest.mark.parametrize("method", METHODS)
def test_the_model_and_torchs_generator_are_left_as_they_were(model, data, method):
    network, generator = copy.deepcopy(model).requires_grad_(True), torch.get_rng_state()
    network.classifier[1].register_forward_hook(lambda *_: None)
    before = state(network)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attribute(network, data[0][:2], data[1][:2], method, **OPTIONS.get(method, {}))
    assert torch.equal(torch.get_rng_state(), generator)
    assert_same_state(before, state(network))


UNFIT = [
    (lambda network: network.features.train(), "training mode: features.*eval"),
    (lambda network: setattr(network.features[1], "inplace", True), "features.1.*inplace=False"),
]


@pytest.mark.parametrize(("spoil", "message"), UNFIT)
def test_unfit_models_are_refused(model, data, spoil, message):
    network = copy.deepcopy(model)
    spoil(network)
    for allow_dropout in (False, True):
        with pytest.raises(ValueError, match=message):
            attribute(network, *data, "saliency", allow_dropout=allow_dropout)


@pytest.mark.parametrize("mode", [1, 2])  # warnings, as on a card, and errors
def test_captums_deep_lift_runs_where_deterministic_algorithms_are_asked_for(model, data, mode):
    """As in every notebook, which calls `configure_torch`; and the setting is as before afterwards."""
    before = torch.get_deterministic_debug_mode()
    try:
        torch.set_deterministic_debug_mode(mode)
        attribute(model, *data, "deep_lift_captum")
        assert torch.get_deterministic_debug_mode() == mode
    finally:
        torch.set_deterministic_debug_mode(before)


RELU = nn.ReLU()


class OwnReLU(nn.ReLU):
    pass


WITHOUT_RULE = [
    ("deep_lift", [nn.Sigmoid()], r"no rule for Sigmoid \(0\)"),
    ("deep_lift", [RELU, RELU], "0 is called 2 times in a pass"),
    *((method, [OwnReLU()], "no rule for the function relu") for method in ("deep_lift", "lrp", "guided_backprop")),
    ("guided_backprop", [nn.Softplus()], "no rule for Softplus"),
    ("lrp_epsilon_plus_flat", [nn.BatchNorm2d(3)], "no rule for BatchNorm2d"),
    ("grad_cam", [], "needs a convolution"),
]


@pytest.mark.parametrize(("method", "layers", "words"), WITHOUT_RULE)
def test_networks_for_which_a_method_has_no_rule_are_refused(data, method, layers, words):
    with pytest.raises(TypeError, match=words):
        attribute(nn.Sequential(*layers, nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 2)).eval(), *data, method)


def replaced(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


WRONG_ARGUMENTS = [
    (lambda x, t: {"images": replaced(x, (3, 0, 5, 5), float("nan"))}, ValueError, r"not finite.*image 3$"),
    (lambda x, t: {"images": replaced(x, (slice(1, 3), 0, 5, 5), float("inf"))}, ValueError, "image 1, 2$"),
    (lambda x, t: {"images": x[:, :1]}, ValueError, "shape"),
    (lambda x, t: {"images": x[0]}, ValueError, "shape"),
    (lambda x, t: {"targets": t[:3]}, ValueError, r"targets are torch.int64 of shape \(3,\)"),
    (lambda x, t: {"targets": t + 0.5}, ValueError, "targets are torch.float32"),
    (lambda x, t: {"image_ids": torch.arange(3)}, ValueError, "image_ids are"),
    (lambda x, t: {"targets": t - 1}, ValueError, "targets contain -1"),
    (lambda x, t: {"batch_size": 0}, ValueError, "batch_size is 0"),
    (lambda x, t: {"micro_batch": -1}, ValueError, "micro_batch is -1"),
    (lambda x, t: {"method": "salency"}, ValueError, "did you mean 'saliency'.*guided_backprop"),
    (lambda x, t: {"n_step": 5}, TypeError, "did you mean 'n_steps'.*n_steps=50"),
    (lambda x, t: {"n_steps": 0}, ValueError, "n_steps=0, a whole number from 1"),
    (lambda x, t: {"n_steps": 2.5}, ValueError, "n_steps=2.5"),
    (lambda x, t: {"method": "lrp", "n_steps": 5}, TypeError, "lrp has no option 'n_steps'.*none"),
    (lambda x, t: {"method": "smooth_grad", "noise": -0.1}, ValueError, "noise=-0.1, a finite number from 0"),
    (lambda x, t: {"method": "smooth_grad", "noise": float("nan")}, ValueError, "noise=nan"),
    (lambda x, t: {"method": "smooth_grad", "noise": "0.1"}, ValueError, "noise='0.1'"),
    (lambda x, t: {"method": "smooth_grad", "noise": True}, ValueError, "noise=True"),
    (lambda x, t: {"method": "occlusion", "window": 8, "stride": 9}, ValueError, "stride must be at most window"),
    (lambda x, t: {"method": "occlusion", "window": 65}, ValueError, "window=65 and stride=8 .* side of 64 px"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG_ARGUMENTS)
def test_wrong_arguments_are_refused_with_a_reason(model, data, change, error, message):
    images, targets = data
    arguments = {"images": images, "targets": targets, "method": "integrated_gradients", **change(images, targets)}
    with pytest.raises(error, match=message):
        attribute(model, **arguments)


@pytest.mark.parametrize("method", READING)
def test_target_out_of_range_is_refused_by_every_method(model, data, method):
    with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        attribute(model, data[0][:1], torch.tensor([2]), method)


def test_maps_that_are_not_finite_are_refused(model, data):
    network = copy.deepcopy(model)
    with torch.no_grad():
        network.classifier[-1].weight.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"map of saliency for image id 10, 11"):
        attribute(network, data[0][:2], data[1][:2], "saliency", image_ids=torch.tensor([10, 11]))


# ------------------------------------------------------------------------------------------------ active dropout


@pytest.fixture(scope="module")
def with_dropout(model):
    return active_dropout(copy.deepcopy(model))


def test_active_dropout_must_be_allowed(with_dropout, data):
    with pytest.raises(ValueError, match=r"classifier.2, classifier.5.*allow_dropout"):
        attribute(with_dropout, *data, "saliency")


@pytest.mark.parametrize("method", READING)
def test_active_dropout_draws_per_image(model, with_dropout, data, method):
    images, targets = data[0][:3], data[1][:3]
    options = dict(OPTIONS.get(method, {}))
    generator = torch.get_rng_state()
    maps = attribute(with_dropout, images, targets, method, allow_dropout=True, **options)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not torch.equal(maps, attribute(model, images, targets, method, **options))
    order = torch.tensor([2, 0])
    options |= {"allow_dropout": True}
    part = attribute(with_dropout, images[order], targets[order], method, image_ids=order, batch_size=1, **options)
    assert torch.equal(part, maps[order])
    other = attribute(with_dropout, images, targets, method, seed=1, **options)
    assert not torch.equal(maps, other)


def test_deep_lift_is_complete_under_each_dropout_mask(with_dropout, data):
    maps = attribute(with_dropout, *data, "deep_lift", allow_dropout=True, seed=4)
    delta = completeness_delta(with_dropout, *data, maps, allow_dropout=True, seed=4)
    assert delta.abs().max() < 1e-3
    assert completeness_delta(with_dropout, *data, maps, allow_dropout=True, seed=5).abs().max() > 1e-2


def test_dropout_masks_differ_between_images_steps_copies_and_modules():
    network = active_dropout(nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5)).eval())
    ones = torch.ones(4, 10_000)
    keys = dropout_per_row(network, seed=0)
    keys[:] = [(0, 0), (0, 1)]
    first = network(ones)
    keys[:] = [(1, 0), (0, 1)]
    second = network(ones)
    masks = [*first, second[0], second[2]]
    assert not any(torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])
    assert torch.equal(first[1], second[1])
    for mask in masks:
        assert set(mask.unique().tolist()) == {0, 4} and abs(mask.mean() - 1) < 0.1
