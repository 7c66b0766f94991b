"""`studies/paper.yaml` is the published recipe, number by number."""

import pytest
from pretrain_xai.protocol import PUBLISHED
from pretrain_xai.study import load_study

#: typed from the released notebooks: learning rates by depth 1 to 5, and the seeds of each depth
GRID = {
    ("best", "imagenet"): (
        ".02 .008 .008 .008 .004",
        "18464 646976 23548 / 55168461 23548 18464876 / 18464876 116560000 98794515 / 98794515 58461 116560000 / "
        "32323548 116560000 58461",
    ),
    ("best", "mri"): (
        ".038 .03 .015 .03 .01",
        "32323548 116560000 18464876 / 94515 23548 18464 / 55168461 6497 32323548 / 18464 22456 55168461 / "
        "23548 58461 55168461",
    ),
    ("matched", "imagenet"): (
        ".02 .0018 .0008 .0006 .0006",
        "18464 646976 23548 / 13246 116560000 5484646 / 55168461 23548 18464876 / 58461 23548 32323548 / "
        "32323548 23548 18464876",
    ),
    ("matched", "mri"): (
        ".038 .01 .005 .005 .005",
        "32323548 116560000 18464876 / 18464876 58461 116560000 / 58461 98794515 55168461 / 18464876 116560000 58461 / "
        "55168461 58461 116560000",
    ),
}


@pytest.fixture(scope="module")
def paper():
    return load_study("paper")


def test_the_grid_is_the_published_one(paper):
    expected = {
        (selection, corpus, depth, int(seed)): float(rates.split()[depth - 1])
        for (selection, corpus), (rates, seeds) in GRID.items()
        for depth, of_depth in enumerate(seeds.split("/"), start=1)
        for seed in of_depth.split()
    }
    found = {(r.selection, r.pretraining, r.finetune_depth, r.seed): paper.learning_rate(r) for r in paper.runs()}
    assert found == expected
    assert len(found) == 2 * 2 * 5 * 3
    assert list(paper.finetuning.selections) == ["best", "matched"]


def test_it_is_corrected_and_can_run_as_published(paper):
    assert paper.protocol_name == "corrected"
    assert paper.model_copy(update={"base_protocol": "published"}).protocol == PUBLISHED
    assert load_study("paper+published").protocol == PUBLISHED
