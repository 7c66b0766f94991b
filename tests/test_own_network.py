"""A network of your own: built, frozen by its blocks, trained, explained by the methods that can, and run by the batch."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import small_nets
import torch
import yaml
from pretrain_xai import paths
from pretrain_xai.attribution import METHODS, attribute, completeness_delta
from pretrain_xai.batch import main
from pretrain_xai.errors import UserError
from pretrain_xai.networks import models
from pretrain_xai.networks.weight_files import save_state
from pretrain_xai.paths import Paths
from pretrain_xai.running.prerequisites import check_network
from pretrain_xai.running.stages import code_digest, fingerprint
from pretrain_xai.settings.sections import Network
from pretrain_xai.study import Run, Study, load_study
from pretrain_xai.tables import read_table
from small_nets import changed_by_training, same
from torch import nn

OWN = Network(**small_nets.SETTINGS)
FUNCTIONAL = {"module": "small_nets:with_functional_relu"}
ABLE = [name for name in METHODS if name not in ("lrp", "lrp_epsilon_plus_flat")]


def settings_with(methods: list[str], depths: list[int], **changes) -> dict[str, Any]:
    settings = yaml.safe_load((paths.REPOSITORY / "studies" / "tiny.yaml").read_text())
    settings["network"] = small_nets.SETTINGS | changes
    settings["finetuning"]["depths"], settings["attribution"]["methods"] = depths, methods
    del settings["protocols"]
    return settings


def study_with(method: str = "deep_lift", depth: int = 4, **changes) -> Study:
    return Study.model_validate(settings_with([method], [1, depth], **changes) | {"name": "tiny"})


def images(count: int, side: int = 32) -> torch.Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(1))


def test_the_seed_gives_the_weights_and_leaves_torchs_own_generator_alone():
    before = torch.random.get_rng_state()
    one, again, other = (models.build_network(OWN, 2, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(one, again) and not one["stem.weight"].equal(other["stem.weight"])


@pytest.mark.parametrize(("depth", "first_conv_frozen"), [(1, False), (2, True), (3, False), (4, True)])
def test_training_changes_the_last_blocks_and_the_classifier_and_nothing_else(depth, first_conv_frozen):
    """Running means of frozen batch normalisation neither."""
    settings = Network(**small_nets.SETTINGS | {"module": "small_nets:frozen"})  # not by what the function says
    network = models.build_network(settings, 2, seed=0)
    models.freeze_below(network, depth, first_conv_frozen=first_conv_frozen)
    open_blocks = [["stem", "norm"], ["layer1"], ["layer2"], ["layer3"]][-depth:]
    trained = ("fc.", *(f"{name}." for block in open_blocks for name in block))
    expected = {name for name in network.state_dict() if name.startswith(trained)}
    if first_conv_frozen and depth < 4:
        expected.remove(f"{open_blocks[0][0]}.conv1.weight")
    assert changed_by_training(network) == expected


@pytest.mark.parametrize("bias", [True, False])
def test_a_new_head_has_a_bias_where_the_old_one_had(bias):
    """Else weights that were saved after fine-tuning would not fit to the network as it is built."""
    network = models.build_network(OWN, 2, seed=0)
    network.fc = nn.Linear(network.fc.in_features, 2, bias=bias)
    assert ("fc.bias" in models.replace_head(network, 5, seed=0).state_dict()) == bias


def test_weights_are_read_like_those_of_a_vgg(root):
    study, trained = study_with(), models.build_network(OWN, 5, seed=7)
    save_state(root / "own.safetensors", trained.state_dict())
    state = models.pretrained_state(study.network, "own.safetensors")
    assert same(state, trained.state_dict())
    save_state(Paths("tiny").pretrained("natural"), state)
    network = models.load_pretrained(study, Run("best", "natural", 1, 0))
    assert network.fc.out_features == 2 and network.stem.weight.equal(trained.stem.weight)


def warmed_up() -> nn.Module:
    """Return the network with running means of real passes, so that images make a difference."""
    network = models.build_network(OWN, 2, seed=0).train()
    for _ in range(20):
        network(images(16))
    return network.eval()


@pytest.mark.parametrize("method", ABLE)
def test_methods_that_can_explain_it_as_they_explain_a_vgg(method):
    network = warmed_up()
    x, targets = images(5), torch.tensor([0, 1, 0, 1, 1])
    options = {"integrated_gradients": {"n_steps": 64}, "occlusion": {"window": 16, "stride": 16}}.get(method, {})
    maps = attribute(network, x, targets, method, **options)
    assert maps.shape == x.shape and maps.any()
    again = attribute(network, x[3:], targets[3:], method, image_ids=torch.tensor([3, 4]), **options)
    assert torch.equal(again, maps[3:])


@pytest.mark.parametrize(("method", "limit"), [("deep_lift", 1e-9), ("integrated_gradients", 0.03)])
def test_complete_methods_are_complete_through_sums_of_branches_and_batch_normalisation(method, limit):
    network, x, targets = warmed_up().double(), images(5).double(), torch.tensor([0, 1, 0, 1, 1])
    options = {"integrated_gradients": {"n_steps": 200}}.get(method, {})
    maps = attribute(network, x, targets, method, **options)
    difference = (network(x) - network(torch.zeros_like(x))).gather(1, targets[:, None])[:, 0].detach()
    assert completeness_delta(network, x, targets, maps).abs().max() < limit * difference.abs().mean()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "lrp"}, ["lrp can't explain", "no rule for the function add", "saliency"]),
        ({"method": "lrp_epsilon_plus_flat"}, ["no rule for BatchNorm2d (norm)"]),
        (FUNCTIONAL, ["no rule for the function relu (relu)", "integrated_gradients"]),
        ({"module": "small_nets:in_place"}, ["work in place: layer2.relu1", "inplace=False"]),
        ({"module": "small_nets:three_logits"}, ["gives (2, 3) for two images", "(2, 2)"]),
        ({"module": "small_nets:too_small_images"}, ["can't be used", "size"]),
        ({"module": "nowhere.nets:build"}, ["nowhere.nets:build can't be imported", "No module named", "studies"]),
        ({"module": "small_nets:resnot"}, ["module 'small_nets' has no attribute 'resnot'"]),
        ({"module": "small_nets:broken"}, ["small_nets:broken", "RuntimeError: no 2 classes today"]),
        ({"module": "small_nets:no_module"}, ["small_nets:no_module", "'int' object"]),
        ({"blocks": ["stem", "layer1", "layer2", "layer3"]}, ["norm.weight once"]),
        ({"blocks": [["stem", "norm"], "layer1", "layer2", "layr3"]}, ["no part 'layr3'", "did you mean 'layer3'"]),
        ({"blocks": [["stem", "norm"], "layer1", "layer1", "layer2", "layer3"]}, ["['layer1', 'layer1']"]),
        ({"classifier": "layer3"}, ["network.classifier: layer3 has no nn.Linear"]),
        ({"depth": 5}, ["finetuning.depths: 5 is too deep, small_nets:resnet has 4 blocks"]),
    ],
)
def test_what_can_not_be_built_trained_or_explained_is_one_line_before_anything_runs(changes, words):
    with pytest.raises(UserError) as error:
        check_network(study_with(**changes))
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words)


@pytest.mark.parametrize(("module", "fits"), [("resnet", True), ("log_softmax", False)])
def test_differences_of_logits_need_logits_of_the_last_linear_layer(module, fits):
    study = study_with("saliency", module=f"small_nets:{module}")
    check_network(study)
    wanted = study.attribution.model_copy(update={"explained": "difference"})
    with nullcontext() if fits else pytest.raises(UserError, match="explained: difference needs two or more logits"):
        check_network(study.model_copy(update={"attribution": wanted}))


def test_every_vgg_passes_with_the_methods_of_the_demo():
    study = load_study("demo")
    for architecture in ("vgg11", "vgg19", "vgg16_bn"):
        check_network(study.model_copy(update={"network": Network(architecture=architecture)}))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"module": "nets", "blocks": ["a"]}, "module"),
        ({"module": "nets:build"}, "blocks must name the blocks"),
        ({"module": "nets:build", "blocks": ["a"], "width": 0.5}, "width can't be set for a network of your own"),
        ({"architecture": "vgg11", "blocks": ["a"]}, "blocks can't be set for a VGG"),
    ],
)
def test_settings_of_both_kinds_do_not_mix(network, words):
    with pytest.raises(ValueError, match=words):
        Network(**network)


def test_the_code_of_the_network_counts_for_what_is_made_with_it(root):
    nets = root / "studies" / "nets_of_the_study.py"
    shutil.copy(Path(small_nets.__file__), nets)
    study = study_with(module="nets_of_the_study:resnet")
    before = [fingerprint(study, notebook) for notebook in ("05_finetune", "07_find_intersections")]
    nets.write_text(nets.read_text().replace("stride=2, padding=2", "stride=1, padding=2"))
    code_digest.cache_clear()
    after = [fingerprint(study, notebook) for notebook in ("05_finetune", "07_find_intersections")]
    assert before[0] != after[0] and before[1] == after[1]


@pytest.mark.system
def test_the_batch_fine_tunes_and_explains_it_from_weights_of_your_own(tiny_root, root, capfd):
    """The data of the finished tiny study, and a study as small as one may be: one corpus, depth and seed."""
    data = root / "data" / "resnet"
    for folder in ("dataset", "slices"):
        shutil.copytree(tiny_root / "data" / "tiny" / folder, data / folder)
    shutil.copy2(tiny_root / "data" / "tiny" / "lesions.npz", data)
    shutil.copy(Path(small_nets.__file__), root / "studies" / "small_nets_of_mine.py")
    methods = ["integrated_gradients", "deep_lift", "guided_backprop", "saliency"]
    settings = settings_with(methods, [2], module="small_nets_of_mine:resnet")
    settings["pretraining"] = {"corpora": ["imagenet"], "weights": {"imagenet": "data/own.safetensors"}}
    settings["finetuning"]["selections"] = {"best": {"imagenet": {"learning_rate": 0.001, "seeds": [0]}}}
    settings["attribution"]["misclassified"] = False
    (root / "studies" / "resnet.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    assert main(["resnet"]) == 2
    assert "pretraining.weights.imagenet: no such file" in capfd.readouterr().err

    own, run = models.build_network(OWN, 10, seed=5), Run("best", "imagenet", 2, 0)
    save_state(root / "data" / "own.safetensors", own.state_dict())
    assert main(["resnet"]) == 0, capfd.readouterr().err
    assert "04_pretrain" in capfd.readouterr().out
    network = models.load_finetuned(load_study("resnet"), run)
    assert network.stem.weight.equal(own.stem.weight)
    assert not network.layer3.conv1.weight.equal(own.layer3.conv1.weight)
    assert set(read_table(Paths("resnet").scores / f"{run.name}.parquet")["method"]) >= set(methods)
    assert (Paths("resnet").figures / "report.html").is_file()
