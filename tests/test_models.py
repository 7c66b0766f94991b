"""Networks: torchvision's VGG at any width, what fine-tuning leaves alone, and weight files."""

import pytest
import torch
import torchvision
from pretrain_xai.networks.models import (
    CONFIGURATIONS,
    blocks,
    build_network,
    evaluation_mode,
    freeze_below,
    load_finetuned,
    load_pretrained,
    load_weights,
    save_weights,
)
from pretrain_xai.networks.training import train
from pretrain_xai.networks.weight_files import WeightsError
from pretrain_xai.paths import Paths
from pretrain_xai.settings.sections import Network, Standardise, Training
from pretrain_xai.study import Run, load_study
from small_nets import noise, same
from torch import nn

NARROW = Network(architecture="vgg11", width=1 / 32)


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("architecture", [*CONFIGURATIONS, *(f"{name}_bn" for name in CONFIGURATIONS)])
def test_width_1_has_the_names_shapes_and_layers_of_torchvision(architecture):
    with torch.device("meta"):
        ours = build_network(Network(architecture=architecture), n_classes=2, seed=0)
        theirs = getattr(torchvision.models, architecture)(num_classes=2)
    assert list(shapes(ours).items()) == list(shapes(theirs).items())
    assert str(ours.features) == str(theirs.features).replace(", inplace=True", "").replace("inplace=True", "")
    assert str(ours.classifier) == str(theirs.classifier).replace("inplace=True", ""), "no ReLU works in place"
    assert not any(module.training for module in ours.modules())


def test_torchvisions_network_with_our_weights_gives_our_logits():
    ours = build_network(NARROW, n_classes=2, seed=0)
    with torch.device("meta"):
        theirs = torchvision.models.VGG(ours.features, init_weights=False)
    theirs.classifier = ours.classifier
    images = torch.rand((3, 3, 40, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(images), theirs.eval()(images))


def test_one_seed_gives_one_network():
    one, again, other = (state(build_network(NARROW, 2, seed=seed)) for seed in (3, 3, 4))
    assert same(one, again)
    assert not torch.equal(one["features.0.weight"], other["features.0.weight"])
    assert not torch.equal(one["classifier.6.weight"], other["classifier.6.weight"])


def test_weights_are_drawn_as_by_he():
    network = build_network(Network(architecture="vgg11", width=0.25), 2, seed=0)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            fan = layer.out_channels * 9
        elif isinstance(layer, nn.Linear) and layer.out_features > 2:
            fan = layer.in_features
        else:
            continue
        assert layer.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.1)
        assert not layer.bias.any()


def test_the_standardising_layer_is_fixed_and_does_what_it_says():
    network = build_network(NARROW.model_copy(update={"standardise": Standardise(mean=0.3, std=0.2)}), 2, seed=0)
    plain = build_network(NARROW, 2, seed=0)
    images = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    standardised = network.standardise(images)
    torch.testing.assert_close(standardised, (images - 0.3) / 0.2, rtol=0, atol=1e-5)
    torch.testing.assert_close(network(images), plain((images - 0.3) / 0.2), rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in network.standardise.parameters())


@pytest.mark.parametrize("architecture", CONFIGURATIONS)
def test_blocks_end_with_max_pooling_and_are_all_the_features(architecture):
    network = build_network(Network(architecture=architecture, width=1 / 64), 2, seed=0)
    found = blocks(network)
    assert len(found) == 5
    assert [layer for block in found for layer in block] == list(network.features)
    assert all([isinstance(layer, nn.MaxPool2d) for layer in block].index(True) == len(block) - 1 for block in found)


# released: features[25:], [18:], [11:], [6:]; the 0-based first layers of the blocks are 24, 17, 10, 5
@pytest.mark.parametrize(
    ("depth", "corrected", "published"), [(1, 24, 26), (2, 17, 19), (3, 10, 12), (4, 5, 7), (5, 0, 0)]
)
def test_vgg16_is_frozen_below_these_layers(depth, corrected, published):
    """Layer 25, 18, 11 or 6 is a ReLU: published, the first layer with unfrozen weights is the one after it."""
    network = build_network(Network(width=1 / 64), 2, seed=0)
    for first_conv_frozen, first in ((False, corrected), (True, published)):
        freeze_below(network, depth, first_conv_frozen=first_conv_frozen)
        for number, layer in enumerate(network.features):
            assert all(parameter.requires_grad == (number >= first) for parameter in layer.parameters()), number
        assert all(parameter.requires_grad for parameter in network.classifier.parameters())


@pytest.mark.parametrize(("first_conv_frozen", "frozen"), [(False, 38_720), (True, 112_576)])
def test_frozen_parameters_of_vgg16_at_four_blocks(first_conv_frozen, frozen):
    with torch.device("meta"):
        network = build_network(Network(), 2, seed=0)
    freeze_below(network, 4, first_conv_frozen=first_conv_frozen)
    assert sum(parameter.numel() for parameter in network.parameters() if not parameter.requires_grad) == frozen


@pytest.mark.parametrize("first_conv_frozen", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_training_changes_every_trainable_tensor_and_no_other(depth, first_conv_frozen):
    settings = Network(architecture="vgg13", width=1 / 16, standardise=Standardise(mean=0.5, std=0.3))
    network = build_network(settings, 2, seed=0)
    freeze_below(network, depth, first_conv_frozen=first_conv_frozen)
    before = state(network)
    train(network, noise(16), noise(16), Training(epochs=1, batch_size=4), learning_rate=0.05, seed=0)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith("standardise") for name in changed)


@pytest.mark.parametrize("depth", [0, 6, -1])
def test_there_are_five_depths(depth):
    with pytest.raises(ValueError, match=f"must be 1 to 5, found {depth}"):
        freeze_below(build_network(NARROW, 2, seed=0), depth)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("dropout_active", [False, True])
def test_evaluation_mode_gives_each_module_its_mode_back(fails, dropout_active):
    network = build_network(NARROW, 2, seed=0).train()
    network.features[3].eval()
    network.classifier[2].eval()
    before = [module.training for module in network.modules()]
    try:
        with evaluation_mode(network, dropout_active=dropout_active):
            awake = {type(module) for module in network.modules() if module.training}
            assert awake == ({nn.Dropout} if dropout_active else set())
            if fails:
                raise RuntimeError("out of memory")
    except RuntimeError:
        assert fails
    assert [module.training for module in network.modules()] == before
    assert {True, False} == set(before)


def test_weights_survive_the_file_to_the_bit(tmp_path):
    network, other = (build_network(NARROW, 2, seed=seed) for seed in (0, 1))
    network.to(memory_format=torch.channels_last)  # as training leaves it
    for name in ("a", "b"):
        save_weights(tmp_path / name, network)
    load_weights(tmp_path / "a", other)
    assert same(state(network), state(other))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_missing_or_broken_weight_file_is_an_error_and_changes_nothing(tmp_path):
    network = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2))
    before = state(network)
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors can't be read .*make it first"):
        load_weights(tmp_path / "nowhere.safetensors", network)
    save_weights(tmp_path / "whole", network)
    whole = (tmp_path / "whole").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "broken").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="broken"):
            load_weights(tmp_path / "broken", network)
    assert same(state(network), before)


@pytest.mark.parametrize(
    ("pretraining", "head_kept", "kept"),
    [("mri", True, True), ("mri", False, False), ("natural", True, False), ("natural", False, False)],
)
def test_only_the_mri_head_is_kept_and_only_as_published(root, pretraining, head_kept, kept):
    study = load_study("tiny").model_copy(update={"switches": {"head_kept": head_kept}})
    n_classes = {"mri": 2, "natural": 16}[pretraining]
    trained = build_network(study.network, n_classes, seed=99)
    save_weights(Paths("tiny").pretrained(pretraining), trained)
    network, again, other = (load_pretrained(study, Run("best", pretraining, 1, seed)) for seed in (5, 5, 6))
    heads = ("classifier.6.weight", "classifier.6.bias")
    body = {name: tensor for name, tensor in state(trained).items() if name not in heads}
    assert same({name: tensor for name, tensor in state(network).items() if name not in heads}, body)
    assert network.classifier[-1].weight.shape[0] == 2
    assert same(state(network), state(again))
    assert same(state(network), state(other)) == kept
    if kept:
        assert same(state(network), state(trained))


def test_load_finetuned_reads_the_runs_own_file_and_builds_the_untrained_network(root):
    study = load_study("tiny")
    run = Run("best", "mri", 1, 0)
    trained = build_network(study.network, 2, seed=42)
    save_weights(Paths("tiny").finetuned(run.name) / "weights.safetensors", trained)
    assert same(state(load_finetuned(study, run)), state(trained))
    untrained = load_finetuned(study, Run("best", "none", 0, 7))
    assert same(state(untrained), state(build_network(study.network, 2, seed=7)))
    with pytest.raises(WeightsError, match=r"best-mri-depth5-seed0/weights\.safetensors can't be read"):
        load_finetuned(study, Run("best", "mri", 5, 0))
