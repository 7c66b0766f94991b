"""What jobs ask for: counted as in the built network, enough where it was measured, and within reason."""

import pandas as pd
import pytest
import torch
from pretrain_xai.attribution import METHODS
from pretrain_xai.methods.passes import MAXIMUM_ROWS, PIXEL_BUDGET
from pretrain_xai.networks.models import build_network
from pretrain_xai.networks.training import PREDICTION_BATCH
from pretrain_xai.running import resources
from pretrain_xai.running.resources import count_images, needs, network_size, passes_per_image
from pretrain_xai.running.stages import STAGES
from pretrain_xai.setting_scores import CHUNK
from pretrain_xai.settings.sections import Network
from pretrain_xai.study import load_study
from torch import nn


@pytest.mark.parametrize(
    ("architecture", "width", "side"), [("vgg11", 0.125, 96), ("vgg16", 0.25, 64), ("vgg19", 0.1, 70)]
)
def test_sizes_are_those_of_the_built_network(architecture, width, side):
    settings = Network(architecture=architecture, width=width)
    network = build_network(settings, 2, seed=0)
    outputs, multiply_adds = [], 0

    def count(module, inputs, output):
        nonlocal multiply_adds
        outputs.append(output.numel())
        if isinstance(module, nn.Conv2d):
            multiply_adds += output.numel() * module.in_channels * 9
        if isinstance(module, nn.Linear):
            multiply_adds += module.in_features * module.out_features

    for module in network.modules():
        if isinstance(module, nn.Linear) or module in network.features.children():
            module.register_forward_hook(count)
    network(torch.zeros(1, 3, side, side))
    size = network_size(settings, side)
    linear = sum(module.out_features for module in network.classifier if isinstance(module, nn.Linear))
    assert size.weights == sum(parameter.numel() for parameter in network.parameters())
    assert size.activations == sum(outputs) - linear
    assert size.largest == max(outputs)
    assert size.multiply_adds == multiply_adds


def test_what_is_repeated_here_is_as_it_is_where_it_is_used():
    """Constants whose modules would import torch at every start of Snakemake."""
    assert (resources.PREDICTED, resources.CHUNK) == (PREDICTION_BATCH, CHUNK)
    assert (resources.EXPLAINED_PIXELS, resources.MOST_ROWS) == (PIXEL_BUDGET, MAXIMUM_ROWS)
    for method, (option, default) in resources.PASSES.items():
        assert METHODS[method].options[option] == default
    occlusion = METHODS["occlusion"].options
    assert (occlusion["window"], occlusion["stride"]) == (resources.WINDOW, resources.STRIDE)


def test_passes_follow_the_options_of_the_study():
    demo = load_study("demo")
    assert passes_per_image(demo) == 16 + 5 + 6 * 2
    attribution = demo.attribution.model_copy(update={"methods": ["occlusion", "integrated_gradients"], "options": {}})
    windows = len(range(0, 96 - 16 + 8, 8)) ** 2
    assert passes_per_image(demo.model_copy(update={"attribution": attribution})) == windows + 50


def vgg16(**changes):
    """The demo with the network of the paper."""
    demo = load_study("demo")
    network, dataset = Network(), demo.dataset.model_copy(update={"image_size": 224})
    return demo.model_copy(update={"network": network, "dataset": dataset, **changes})


def test_vgg16_gets_the_memory_that_it_was_measured_to_take():
    """3.3 GiB to explain (README), 4.1 GiB to train all blocks in batches of 32 (docs/slurm.md)."""
    study = vgg16()
    images = count_images(study, slices=None)
    assert 3.3 * 2**30 < needs(study, "08_explanation_metrics", images).mem_mb * 1e6 < 3 * 3.3 * 2**30
    assert 4.1 * 2**30 < needs(study, "05_finetune", images).mem_mb * 1e6 < 3 * 4.1 * 2**30


def test_every_stage_of_the_demo_asks_for_enough_and_not_for_too_much():
    demo = load_study("demo")
    images = count_images(demo, slices=None)
    for stage in STAGES:
        asked = needs(demo, stage, images)
        assert 3000 <= asked.mem_mb <= 4000, stage
        assert 10 <= asked.runtime <= 60, stage
        assert asked.gpu == 0


def test_more_images_and_larger_networks_ask_for_more_time():
    demo, wide = load_study("demo"), vgg16()
    images = count_images(demo, slices=None)
    many = {**images, "test": 2 * images["test"], "train": 2 * images["train"]}
    every = demo.model_copy(update={"attribution": demo.attribution.model_copy(update={"max_images": None})})
    assert needs(wide, "05_finetune", images).runtime > 100 * needs(demo, "05_finetune", images).runtime / 2
    assert needs(every, "08_explanation_metrics", many).runtime > needs(every, "08_explanation_metrics", images).runtime


def test_a_graphics_card_is_asked_for_only_where_the_network_runs_on_one():
    demo = load_study("demo")
    study, unknown = (demo.model_copy(update={"device": device}) for device in ("cuda", "auto"))
    images = count_images(study, slices=None)
    assert not any(needs(either, stage, images).gpu for either in (demo, unknown) for stage in STAGES)
    asking = {stage for stage in STAGES if needs(study, stage, images).gpu}
    assert asking == set(resources.NETWORK_STAGES)
    assert (
        needs(study, "08_explanation_metrics", images).runtime < needs(demo, "08_explanation_metrics", images).runtime
    )


def test_slices_are_counted_once_they_are_made(tmp_path):
    demo = load_study("demo")
    files = demo.model_copy(update={"slices": demo.slices.model_copy(update={"source": "nifti"})})
    table = tmp_path / "slices.csv"
    assert count_images(files, table)["test"] == resources.ASSUMED_IMAGES
    pd.DataFrame({"split": ["train"] * 3 + ["test"] * 2}).to_csv(table, index=False)
    assert count_images(files, table) == {
        "train": 3,
        "validation": 0,
        "test": 2,
        "pretraining": 0,
        "pretraining_validation": 0,
    }
    assert count_images(demo, table)["test"] == 60 * 8


@pytest.mark.parametrize("damaged", [b"", b"split;z\ntest;3\n", b"\xff\xfe\x00"])
def test_a_damaged_table_of_slices_counts_as_none(tmp_path, damaged):
    """The Snakefile reads it before the batch can make it again."""
    demo = load_study("demo")
    files = demo.model_copy(update={"slices": demo.slices.model_copy(update={"source": "nifti"})})
    (tmp_path / "slices.csv").write_bytes(damaged)
    assert count_images(files, tmp_path / "slices.csv")["test"] == resources.ASSUMED_IMAGES
