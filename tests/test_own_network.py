"""A network of your own: built, frozen by its blocks, trained, explained by the methods that can, and run by the batch."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import small_nets
import torch
import yaml
from pretrain_xai import paths
from pretrain_xai.attribution import METHODS, attribute, completeness_delta
from pretrain_xai.batch import check_files_and_network, main
from pretrain_xai.errors import UserError
from pretrain_xai.networks.checkpoints import Checkpoints, load_checkpoint
from pretrain_xai.networks.models import (
    NetworkError,
    build_network,
    freeze_below,
    load_finetuned,
    load_pretrained,
    pretrained_state,
    replace_head,
    save_weights,
)
from pretrain_xai.networks.training import predict, train
from pretrain_xai.networks.weight_files import WeightsError
from pretrain_xai.paths import Paths
from pretrain_xai.running.prerequisites import check_network
from pretrain_xai.running.stages import fingerprint
from pretrain_xai.settings.sections import Network, Training
from pretrain_xai.study import Run, Study, StudyError, load_study
from pretrain_xai.tables import read_table
from small_nets import noise
from torch import nn

OWN = Network(**small_nets.SETTINGS)
ABLE = [name for name in METHODS if name not in ("lrp", "lrp_epsilon_plus_flat")]


def study_with(**changes) -> Study:
    settings = yaml.safe_load((paths.REPOSITORY / "studies" / "tiny.yaml").read_text())
    settings["network"] = small_nets.SETTINGS | changes
    settings["finetuning"]["depths"] = [1, 4]
    settings["attribution"]["methods"] = ["integrated_gradients", "guided_backprop", "deep_lift"]
    del settings["protocols"]
    return Study.model_validate(settings | {"name": "tiny"})


def images(count: int, side: int = 32) -> torch.Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------- what is built and trained


def test_the_seed_gives_the_weights_and_leaves_torchs_own_generator_alone():
    before = torch.random.get_rng_state()
    one, again, other = (build_network(OWN, 2, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["stem.weight"], other["stem.weight"])
    assert not any(module.training for module in build_network(OWN, 2, seed=0).modules())


@pytest.mark.parametrize("first_conv_frozen", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_training_changes_the_last_blocks_and_the_classifier_and_nothing_else(depth, first_conv_frozen):
    """Running means of frozen batch normalisation neither."""
    settings = Network(**small_nets.SETTINGS | {"module": "small_nets:frozen"})  # not by what the function says
    network = build_network(settings, 2, seed=0)
    freeze_below(network, depth, first_conv_frozen=first_conv_frozen)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    train(network, noise(16), noise(16), Training(epochs=1, batch_size=4), learning_rate=0.05, seed=0)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    open_blocks = [["stem", "norm"], ["layer1"], ["layer2"], ["layer3"]][-depth:]
    trained = ("fc.", *(f"{name}." for block in open_blocks for name in block))
    expected = {name for name in before if name.startswith(trained)}
    if first_conv_frozen and depth < 4:
        expected.remove(f"{open_blocks[0][0]}.conv1.weight")
    assert changed == expected


def test_frozen_batch_normalisation_of_a_vgg_keeps_its_running_means():
    network = build_network(Network(architecture="vgg11_bn", width=1 / 16), 2, seed=0)
    freeze_below(network, 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    train(network, noise(16), noise(16), Training(epochs=1, batch_size=4), learning_rate=0.05, seed=0)
    changed = {
        int(name.split(".")[1])
        for name, tensor in network.features.state_dict(prefix="features.").items()
        if not torch.equal(tensor, before[name])
    }
    first_open = [number for number, layer in enumerate(network.features) if isinstance(layer, nn.MaxPool2d)][2] + 1
    assert changed and min(changed) >= first_open


@pytest.mark.parametrize("bias", [True, False])
def test_a_new_head_has_a_bias_where_the_old_one_had(bias):
    """Else weights that were saved after fine-tuning would not fit to the network as it is built."""
    network = build_network(OWN, 2, seed=0)
    network.fc = nn.Linear(network.fc.in_features, 2, bias=bias)
    assert ("fc.bias" in replace_head(network, 5, seed=0).state_dict()) == bias


def test_checkpoints_hold_the_running_means_of_open_batch_normalisation(tmp_path):
    """A network that is restored from one is the network that was validated."""
    network = build_network(OWN, 2, seed=0)
    freeze_below(network, 2)
    data, seen = noise(24), {}

    class Remembering(Checkpoints):
        def offer(self, step, network, accuracy):
            super().offer(step, network, step / 100)  # each is new, so each is kept
            seen[step] = predict(network, data.images)

    checkpoints = Remembering(tmp_path / "kept.csv", per_epoch=3)
    train(network, data, data, Training(epochs=3, batch_size=4), learning_rate=0.05, seed=0, checkpoints=checkpoints)
    kept = [row["step"] for row in checkpoints.rows if row["kept"]]
    assert len(kept) > 1
    for step in kept:
        load_checkpoint(checkpoints.folder, step, network)
        np.testing.assert_array_equal(predict(network, data.images), seen[step])


def test_the_head_is_replaced_and_weights_are_read_like_those_of_a_vgg(root):
    study = study_with()
    trained = replace_head(build_network(OWN, 2, seed=7), 5, seed=0)
    assert trained.fc.out_features == 5
    save_weights(root / "own.safetensors", trained)
    save_weights(Paths("tiny").pretrained("natural"), trained)
    state = pretrained_state(study.network, "own.safetensors")
    assert state.keys() == trained.state_dict().keys()
    network = load_pretrained(study, Run("best", "natural", 1, 0))
    assert network.fc.out_features == 2 and torch.equal(network.stem.weight, trained.stem.weight)
    with pytest.raises(WeightsError, match="torchvision has no weights 'IMAGENET1K_V1' of small_nets:resnet"):
        pretrained_state(study.network, "IMAGENET1K_V1")
    save_weights(Paths("tiny").finetuned("x") / "weights.safetensors", network)
    with pytest.raises(WeightsError, match="make it first"):
        load_finetuned(study, Run("best", "natural", 1, 0))


# ---------------------------------------------------------------- what explains it


def warmed_up() -> nn.Module:
    """Return the network with running means of real passes, so that images make a difference."""
    network = build_network(OWN, 2, seed=0).train()
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
    ("builder", "method", "words"),
    [
        ("resnet", "lrp", ["lrp can't explain small_nets:resnet", "no rule for the function add", "saliency"]),
        ("resnet", "lrp_epsilon_plus_flat", ["no rule for BatchNorm2d (norm)"]),
        ("with_functional_relu", "guided_backprop", ["no rule for the function relu (relu)", "integrated_gradients"]),
        ("with_functional_relu", "deep_lift", ["no rule for the function relu (relu)"]),
        ("in_place", "saliency", ["work in place: layer2.relu1", "inplace=False"]),
        ("three_logits", "saliency", ["gives (2, 3) for two images", "(2, 2)"]),
        ("too_small_images", "saliency", ["can't be used", "size"]),
    ],
)
def test_what_can_not_be_explained_is_one_line_before_anything_runs(builder, method, words):
    study = study_with(module=f"small_nets:{builder}")
    study = study.model_copy(update={"attribution": study.attribution.model_copy(update={"methods": [method]})})
    with pytest.raises(StudyError) as error:
        check_network(study)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_every_vgg_passes_with_the_methods_of_the_demo():
    study = load_study("demo")
    for architecture in ("vgg11", "vgg19", "vgg16_bn"):
        check_network(study.model_copy(update={"network": Network(architecture=architecture)}))
    composite = study.attribution.model_copy(update={"methods": ["lrp_epsilon_plus_flat"]})
    with pytest.raises(StudyError, match=r"no rule for BatchNorm2d \(features\.1\)"):
        check_network(study.model_copy(update={"network": Network(architecture="vgg11_bn"), "attribution": composite}))


def test_a_depth_that_the_network_has_not_is_refused():
    study = study_with()
    finetuning = study.finetuning.model_copy(update={"depths": [1, 5]})
    with pytest.raises(StudyError, match=r"finetuning\.depths: 5 is too deep, small_nets:resnet has 4 blocks"):
        check_network(study.model_copy(update={"finetuning": finetuning}))


# ---------------------------------------------------------------- wrong study files


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"module": "nowhere.nets:build"},
            ["nowhere.nets:build can't be imported", "No module named 'nowhere'", "studies"],
        ),
        ({"module": "small_nets:resnot"}, ["module 'small_nets' has no attribute 'resnot'"]),
        ({"module": "small_nets:broken"}, ["small_nets:broken", "RuntimeError: no 2 classes today"]),
        ({"module": "small_nets:no_module"}, ["gives int, not an nn.Module"]),
        ({"blocks": ["stem", "layer1", "layer2", "layer3"]}, ["norm.weight is in no block"]),
        ({"blocks": [["stem", "norm"], "layer1", "layer2", "layr3"]}, ["no part 'layr3'", "did you mean 'layer3'"]),
        ({"blocks": [["stem", "norm"], "layer1", "layer1", "layer2", "layer3"]}, ["in layer1 and layer1"]),
        ({"classifier": "layer3"}, ["network.classifier: layer3 has no nn.Linear"]),
    ],
)
def test_what_does_not_fit_the_network_is_one_line(changes, words):
    with pytest.raises(NetworkError) as error:
        check_files_and_network(study_with(**changes))
    assert isinstance(error.value, UserError) and "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"module": "nets", "blocks": ["a"]}, "network.module"),
        ({"module": "nets:build"}, "blocks must name the blocks"),
        ({"module": "nets:build", "blocks": ["a"], "width": 0.5}, "width can't be set for a network of your own"),
        ({"architecture": "vgg11", "blocks": ["a"]}, "blocks can't be set for a VGG"),
    ],
)
def test_settings_of_both_kinds_do_not_mix(root, network, words):
    settings = yaml.safe_load((root / "studies" / "tiny.yaml").read_text()) | {"network": network}
    (root / "studies" / "own.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(StudyError) as error:
        load_study("own")
    assert words in str(error.value)


# ---------------------------------------------------------------- the whole way


def test_the_code_of_the_network_counts_for_what_is_made_with_it(root):
    nets = root / "studies" / "nets_of_the_study.py"
    shutil.copy(Path(small_nets.__file__), nets)
    study = study_with(module="nets_of_the_study:resnet")
    before = [fingerprint(study, notebook) for notebook in ("05_finetune", "07_find_intersections")]
    nets.write_text(nets.read_text().replace("stride=2, padding=2", "stride=1, padding=2"))
    import pretrain_xai.running.stages

    pretrain_xai.running.stages.code_digest.cache_clear()
    after = [fingerprint(study, notebook) for notebook in ("05_finetune", "07_find_intersections")]
    assert before[0] != after[0] and before[1] == after[1]


@pytest.mark.system
def test_the_batch_fine_tunes_and_explains_it_from_weights_of_your_own(tiny_root, root, capfd):
    """The data of the finished tiny study; notebooks 04b, 05, 07 and 08 of one model."""
    shutil.copytree(tiny_root / "data" / "tiny" / "dataset", root / "data" / "resnet" / "dataset")
    shutil.copytree(tiny_root / "data" / "tiny" / "slices", root / "data" / "resnet" / "slices")
    shutil.copy2(tiny_root / "data" / "tiny" / "lesions.npz", root / "data" / "resnet" / "lesions.npz")
    shutil.copy(Path(small_nets.__file__), root / "studies" / "small_nets_of_mine.py")
    settings = yaml.safe_load((root / "studies" / "tiny.yaml").read_text())
    settings["network"] = small_nets.SETTINGS | {"module": "small_nets_of_mine:resnet"}
    settings["pretraining"] = {"corpora": ["imagenet"], "weights": {"imagenet": "data/own.safetensors"}}
    settings["finetuning"]["depths"] = [2]
    settings["finetuning"]["selections"] = {"best": {"imagenet": {"learning_rate": 0.001, "seeds": [0]}}}
    settings["attribution"]["methods"] = ["integrated_gradients", "deep_lift", "guided_backprop", "saliency"]
    del settings["protocols"]
    (root / "studies" / "resnet.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    target = "data/resnet/scores/best-imagenet-depth2-seed0.parquet"
    assert main(["resnet", target]) == 2
    assert "pretraining.weights.imagenet: no such file" in capfd.readouterr().err

    own = build_network(OWN, 10, seed=5)
    save_weights(root / "data" / "own.safetensors", own)
    assert main(["resnet", target]) == 0, capfd.readouterr().err
    printed = capfd.readouterr().out
    assert "04b_take_weights" in printed and "02_make_slices" not in printed
    study, run = load_study("resnet"), Run("best", "imagenet", 2, 0)
    network = load_finetuned(study, run)
    assert torch.equal(network.stem.weight, own.stem.weight)
    assert not torch.equal(network.layer3.conv1.weight, own.layer3.conv1.weight)
    predictions = read_table(Paths("resnet").finetuned(run.name) / "predictions.parquet")
    test = np.load(Paths("resnet").dataset / "test" / "images.npy")
    logits = predictions.loc[predictions["split"] == "test", ["logit_0", "logit_1"]].to_numpy()
    np.testing.assert_allclose(logits, predict(network, test), atol=1e-5)
    scores = read_table(root / target)
    assert set(scores["method"]) == set(settings["attribution"]["methods"])

    # the whole study, as small as one may be: one corpus, depth, seed and method, and no misclassified images
    settings["attribution"] |= {"methods": ["guided_backprop"], "misclassified": False}
    (root / "studies" / "resnet.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    assert main(["resnet"]) == 0, capfd.readouterr().err
    assert (Paths("resnet").figures / "report.html").is_file()
