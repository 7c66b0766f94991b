"""Networks: torchvision's VGG at any width, what fine-tuning leaves alone, and weight files."""

import pytest
import torch
import torchvision
from pretrain_xai.networks import models
from pretrain_xai.networks.weight_files import WeightsError, save_state
from pretrain_xai.paths import Paths
from pretrain_xai.settings.sections import Network
from pretrain_xai.study import Run, load_study
from small_nets import changed_by_training, same, vgg
from torch import nn

STANDARDISE = {"mean": 0.3, "std": 0.2}


def images(count: int, side: int) -> torch.Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", [*models.CONFIGURATIONS, *(f"{name}_bn" for name in models.CONFIGURATIONS)])
def test_width_1_has_the_names_shapes_and_layers_of_torchvision(architecture):
    with torch.device("meta"):
        ours = models.build_network(Network(architecture=architecture), n_classes=2, seed=0)
        theirs = getattr(torchvision.models, architecture)(num_classes=2)
    ours_shapes, shapes = ([(name, t.shape) for name, t in net.state_dict().items()] for net in (ours, theirs))
    assert ours_shapes == shapes
    for part in ("features", "classifier"):
        printed = str(getattr(theirs, part)).replace(", inplace=True", "").replace("inplace=True", "")
        assert str(getattr(ours, part)) == printed, "no ReLU works in place"
    assert not any(module.training for module in ours.modules())
    found = models.blocks(ours)
    assert len(found) == 5 and [layer for block in found for layer in block] == list(ours.features)
    assert all([isinstance(layer, nn.MaxPool2d) for layer in block].index(True) == len(block) - 1 for block in found)


def test_torchvisions_network_with_our_weights_gives_our_logits():
    ours = vgg()
    with torch.device("meta"):
        theirs = torchvision.models.VGG(ours.features, init_weights=False)
    theirs.classifier = ours.classifier
    with torch.no_grad():
        assert torch.equal(ours(images(3, 40)), theirs.eval()(images(3, 40)))


def test_one_seed_gives_one_network_with_weights_drawn_as_by_he():
    one, again, other = (vgg(seed=seed, width=0.25) for seed in (3, 3, 4))
    assert same(one.state_dict(), again.state_dict())
    for layer, another in zip(one.modules(), other.modules(), strict=True):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert not layer.weight.equal(another.weight) and not layer.bias.any()
            fan = layer.out_channels * 9 if isinstance(layer, nn.Conv2d) else layer.in_features
            assert layer.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.1)


def test_the_standardising_layer_does_what_it_says():
    network, x = vgg(standardise=STANDARDISE), images(2, 32)
    torch.testing.assert_close(network.standardise(x), (x - 0.3) / 0.2, rtol=0, atol=1e-5)
    torch.testing.assert_close(network(x), vgg()((x - 0.3) / 0.2), rtol=1e-4, atol=1e-5)


# released: features[25:], [18:], [11:], [6:]; the 0-based first layers of the blocks are 24, 17, 10, 5
@pytest.mark.parametrize(
    ("depth", "corrected", "published"), [(1, 24, 26), (2, 17, 19), (3, 10, 12), (4, 5, 7), (5, 0, 0)]
)
def test_vgg16_is_frozen_below_these_layers(depth, corrected, published):
    """Layer 25, 18, 11 or 6 is a ReLU: published, the first layer with unfrozen weights is the one after it."""
    for first_conv_frozen, first in ((False, corrected), (True, published)):
        network = vgg(depth, first_conv_frozen=first_conv_frozen, architecture="vgg16", width=1 / 64)
        for number, layer in enumerate(network.features):
            assert all(parameter.requires_grad == (number >= first) for parameter in layer.parameters()), number
        assert all(parameter.requires_grad for parameter in network.classifier.parameters())


@pytest.mark.parametrize(("first_conv_frozen", "frozen"), [(False, 38_720), (True, 112_576)])
def test_frozen_parameters_of_vgg16_at_four_blocks(first_conv_frozen, frozen):
    with torch.device("meta"):
        network = vgg(4, first_conv_frozen=first_conv_frozen, architecture="vgg16", width=1.0)
    assert sum(parameter.numel() for parameter in network.parameters() if not parameter.requires_grad) == frozen


@pytest.mark.parametrize(("depth", "first_conv_frozen"), [(1, False), (2, True), (4, False), (4, True), (5, False)])
def test_training_changes_every_trainable_tensor_and_no_other(depth, first_conv_frozen):
    network = vgg(depth, first_conv_frozen=first_conv_frozen, architecture="vgg13", standardise=STANDARDISE)
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert changed_by_training(network) == trainable
    assert not any(name.startswith("standardise") for name in trainable)


def test_frozen_batch_normalisation_keeps_its_running_means():
    network = vgg(2, architecture="vgg11_bn")
    changed = {int(name.split(".")[1]) for name in changed_by_training(network) if name.startswith("features")}
    first_open = [number for number, layer in enumerate(network.features) if isinstance(layer, nn.MaxPool2d)][2] + 1
    assert min(changed) == first_open


@pytest.mark.parametrize("dropout_active", [False, True])
def test_evaluation_mode_gives_each_module_its_mode_back(dropout_active):
    network = vgg().train()
    network.features[3].eval()
    network.classifier[2].eval()
    before = [module.training for module in network.modules()]
    with pytest.raises(RuntimeError, match="memory"), models.evaluation_mode(network, dropout_active=dropout_active):
        awake = {type(module) for module in network.modules() if module.training}
        assert awake == ({nn.Dropout} if dropout_active else set())
        raise RuntimeError("out of memory")
    assert [module.training for module in network.modules()] == before


def test_load_finetuned_reads_the_runs_own_file_and_builds_the_untrained_network(root):
    study, run = load_study("tiny"), Run("best", "mri", 1, 0)
    trained = models.build_network(study.network, 2, seed=42).to(
        memory_format=torch.channels_last
    )  # as training leaves it
    save_state(Paths("tiny").finetuned(run.name) / "weights.safetensors", trained.state_dict())
    assert same(models.load_finetuned(study, run).state_dict(), trained.state_dict())
    untrained = models.load_finetuned(study, Run("best", "none", 0, 7))
    assert same(untrained.state_dict(), models.build_network(study.network, 2, seed=7).state_dict())
    with pytest.raises(WeightsError, match=r"best-mri-depth5-seed0/weights\.safetensors can't be read"):
        models.load_finetuned(study, Run("best", "mri", 5, 0))
