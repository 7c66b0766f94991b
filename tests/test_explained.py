"""The difference of the logits in place of one: exact gradients, completeness, and Captum on a module that subtracts."""

import copy
import dataclasses

import captum.attr
import numpy as np
import pandas as pd
import pytest
import torch
from brains import brains, trained_network
from pretrain_xai.attribution import METHODS, attribute
from pretrain_xai.dataset import LesionMasks, Split
from pretrain_xai.errors import UserError
from pretrain_xai.explain import Explainer
from pretrain_xai.localization import relevance_rank_accuracy
from pretrain_xai.networks.models import difference_network
from pretrain_xai.protocol import CORRECTED
from pretrain_xai.sanity import common_share, logit_or_difference
from pretrain_xai.settings.sections import Attribution
from pretrain_xai.statistics.findings import explained_finding
from sentence_numbers import check_findings, save
from small_nets import noise, vgg
from torch import Tensor, nn

#: Captum's classes, and the options of those that need some
CAPTUM = {"integrated_gradients": "IntegratedGradients", "saliency": "Saliency", "input_x_gradient": "InputXGradient"}
CAPTUM |= {"guided_backprop": "GuidedBackprop", "deconvolution": "Deconvolution", "lrp": "LRP"}
CAPTUM |= {"deep_lift_captum": "DeepLift"}
OPTIONS = {"integrated_gradients": {"n_steps": 5}, "saliency": {"abs": False}}


def subtracting(n: int) -> nn.Linear:
    """Return a layer that gives each of n values less the mean of the others."""
    layer = nn.Linear(n, n, bias=False).double().requires_grad_(False)
    layer.weight.copy_((n * torch.eye(n) - torch.ones(n, n)) / (n - 1))
    return layer


def network_of(n_classes: int) -> nn.Module:
    """Return a network whose logits are not opposite, in double precision."""
    network = copy.deepcopy(trained_network()) if n_classes == 2 else vgg(n_classes=n_classes)
    network.classifier[-1].bias.data += torch.arange(n_classes)
    return network.double()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return brains(3, seed=0)[0].double()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_linear_network_has_the_exact_gradients_and_stays_as_it_was(n_classes):
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, n_classes)).eval()
    network.classifier_name = "1"
    before = copy.deepcopy(network[1].weight)
    rows = torch.rand(n_classes, 3, 2, 2)
    maps = attribute(difference_network(network, rows), rows, torch.arange(n_classes), "saliency").flatten(1)
    for c in range(n_classes):
        torch.testing.assert_close(maps[c], before[c] - before[torch.arange(n_classes) != c].mean(0))
    assert torch.equal(network[1].weight, before)


@pytest.mark.filterwarnings("ignore:Setting", "ignore:Input Tensor")
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("method", CAPTUM)
def test_maps_are_those_of_captum_on_a_module_that_subtracts_one_image_at_a_time(method, n_classes, images):
    network, targets = network_of(n_classes), torch.tensor([1, 0, n_classes - 1])
    explainer = getattr(captum.attr, CAPTUM[method])(nn.Sequential(network, subtracting(n_classes)))
    options = OPTIONS.get(method, {})
    expected = [explainer.attribute(images[[i]], target=int(targets[i]), **options).detach() for i in range(3)]
    own = {"n_steps": 5} if method == "integrated_gradients" else {}
    maps = attribute(difference_network(network, images), images, targets, method, **own)
    torch.testing.assert_close(maps, torch.cat(expected), rtol=0, atol=1e-7 * torch.cat(expected).abs().max().item())


@pytest.mark.parametrize("n_classes", [2, 3])
def test_complete_methods_sum_to_the_difference_of_the_logits(n_classes, images):
    network, targets = network_of(n_classes), torch.tensor([1, 0, n_classes - 1])
    with torch.no_grad():
        logits = network(torch.cat([images, torch.zeros_like(images[:1])]))
    own = logits.gather(1, torch.cat([targets, targets[:1]])[:, None])[:, 0]
    black = torch.stack([logits[-1, c] - (logits[-1].sum() - logits[-1, c]) / (n_classes - 1) for c in targets])
    wanted = own[:3] - (logits[:3].sum(1) - own[:3]) / (n_classes - 1) - black
    folded = difference_network(network, images)
    for method, options, tolerance in (("deep_lift", {}, 1e-6), ("integrated_gradients", {"n_steps": 200}, 0.02)):
        sums = attribute(folded, images, targets, method, **options).sum((1, 2, 3))
        torch.testing.assert_close(sums, wanted, rtol=tolerance, atol=tolerance * wanted.abs().max().item())
    plain = vgg(n_classes=n_classes).double()  # the epsilon rule keeps what no bias takes
    sums = attribute(difference_network(plain, images), images, targets, "lrp").sum((1, 2, 3))
    found = subtracting(n_classes)(plain(images)).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(sums, found.detach(), rtol=1e-3, atol=1e-6)


def test_a_network_without_two_logits_of_a_last_linear_layer_is_refused(images):
    flat, linear = nn.Flatten(), nn.Linear(3 * 64 * 64, 2).double()
    for layers in ([flat], [flat, linear, nn.LogSoftmax(1)], [flat, linear, nn.Linear(2, 1).double()]):
        network = nn.Sequential(*layers).eval()
        network.classifier_name = "1" if layers[1:] else "0"
        with pytest.raises(UserError, match="two or more logits, and an nn"):
            difference_network(network, images)
    with pytest.raises(UserError, match="needs two or more logits"):
        difference_network(nn.Sequential(flat, linear).eval(), images)  # which says of no part that it classifies


def explainer_of(network: nn.Module, explained: str) -> Explainer:
    data = noise(6)
    masks = LesionMasks(np.random.default_rng(1).random(data.images.shape).astype(np.float32), 0.9)
    split = Split(data.images, data.labels, masks, pd.DataFrame())
    return Explainer(network, split, Attribution(methods=["saliency", "deep_lift"], explained=explained), CORRECTED)


def test_the_setting_decides_what_is_explained_and_its_scores_are_compared(tmp_path):
    network, chunk = vgg(), np.arange(6)
    explainer = explainer_of(network, "difference")
    one, other = (explainer_of(network, name).explain(chunk, ["deep_lift"]) for name in ("logit", "difference"))
    assert (one.predicted == other.predicted).all() and not np.allclose(one.maps["deep_lift"], other.maps["deep_lift"])
    assert other.deltas["deep_lift"].abs().max() < 1e-4
    folded = difference_network(network, torch.rand(1, 3, 32, 32))
    alone = dataclasses.replace(explainer_of(network, "logit"), network=folded)
    np.testing.assert_array_equal(alone.explain(chunk, ["deep_lift"]).maps["deep_lift"], other.maps["deep_lift"])
    table = logit_or_difference(explainer, chunk, METHODS).set_index("method")
    maps = explainer.example_maps(chunk, ["deep_lift"])["deep_lift"]
    expected = relevance_rank_accuracy(maps, explainer.split.masks[chunk]).mean()
    assert table.at["deep_lift", "difference"] == pytest.approx(expected)
    assert table["change"].drop("random").abs().max() > 0 and table.at["random", "change"] == 0
    table = table.reset_index().assign(pretraining="natural", common_share=0.123)
    save({"explained": table}, tmp_path)
    assert check_findings([explained_finding(table)], tmp_path) == 4


def test_where_the_logits_are_opposite_nothing_changes():
    network = vgg()
    network.classifier[-1].weight.data[1] = -network.classifier[-1].weight[0]
    explainer = explainer_of(network, "logit")
    assert (logit_or_difference(explainer, np.arange(6), ["saliency", "lrp"])["change"] == 0).all()
    logits = network(torch.rand(9, 3, 32, 32)).detach().numpy()
    assert common_share(logits) == pytest.approx(0, abs=1e-5)
    logits = np.random.default_rng(0).normal(size=(9, 2))
    assert common_share(logits) == pytest.approx(np.std(logits.sum(1)) / np.std(logits[:, 1] - logits[:, 0]))
