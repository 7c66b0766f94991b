"""Checkpoints along the training: the network of that step to the bit, and only those that add something."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pretrain_xai.errors import SelfCheckError
from pretrain_xai.networks.checkpoints import SPACING, Checkpoints, check_restored, load_checkpoint
from pretrain_xai.networks.models import build_network, freeze_below
from pretrain_xai.networks.training import predict, train
from pretrain_xai.networks.weight_files import WeightsError
from pretrain_xai.settings.sections import Network, Training
from pretrain_xai.study import Run
from pretrain_xai.tables import read_table
from small_nets import noise, same
from torch import nn

NARROW = Network(architecture="vgg11", width=1 / 16)


def network() -> nn.Module:
    fresh = build_network(NARROW, 2, seed=0)
    freeze_below(fresh, 1)
    return fresh


def trained(epochs: int, checkpoints: Checkpoints | None = None) -> tuple[nn.Module, list[float]]:
    one = network()
    settings = Training(epochs=epochs, batch_size=8)
    history = train(one, noise(36), noise(60, 1), settings, learning_rate=0.05, seed=3, checkpoints=checkpoints)
    return one, history["train_loss"].tolist()


def test_a_checkpoint_is_the_training_stopped_at_that_step(tmp_path):
    """To the bit, though the network was validated in between."""
    checkpoints = Checkpoints(tmp_path / "twice.csv", per_epoch=2)
    trained(3, checkpoints)
    checkpoints.save()
    steps = read_table(tmp_path / "twice.csv").set_index("step")
    assert steps.index.tolist() == [3, 5, 8, 10, 13, 15], "twice in each epoch of 5 batches, the last at its end"
    assert steps.at[3, "kept"]
    loaded = network()
    load_checkpoint(tmp_path / "twice", 3, loaded)
    validation = noise(60, 1)
    accuracy = np.mean(predict(loaded, validation.images).argmax(1) == validation.labels)
    assert steps.at[3, "validation_accuracy"] == pytest.approx(accuracy)
    checkpoints = Checkpoints(tmp_path / "once.csv", per_epoch=1)
    trained(3, checkpoints)
    assert checkpoints.rows[0]["step"] == 5
    load_checkpoint(checkpoints.folder, 5, loaded)
    assert same(loaded.state_dict(), trained(1)[0].state_dict())


def test_checkpoints_change_nothing_in_the_training(tmp_path):
    plain, losses = trained(2)
    kept, losses_kept = trained(2, Checkpoints(tmp_path / "kept.csv", per_epoch=5))
    assert same(plain.state_dict(), kept.state_dict()) and losses == losses_kept


def test_only_trained_tensors_are_kept_and_those_of_an_earlier_training_are_gone(tmp_path):
    checkpoints = Checkpoints(tmp_path / "kept.csv", per_epoch=1)
    for folder in (".kept", "kept"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "step99.safetensors").write_bytes(b"old")
    assert checkpoints.take_up([])
    checkpoints.offer(7, network(), 0.5)
    checkpoints.save()
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")} == {
        "kept",
        "kept.csv",
        "kept/step7.safetensors",
    }
    other = build_network(NARROW, 2, seed=1)
    frozen = other.features[0].weight.clone()
    load_checkpoint(tmp_path / "kept", 7, other)
    assert torch.equal(other.features[0].weight, frozen)
    assert torch.equal(other.classifier[0].weight, network().classifier[0].weight)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=30), st.sampled_from([0, 100, 300]))
def test_the_nearest_to_any_accuracy_that_is_looked_for_is_kept(tmp_path_factory, counts, lowest):
    """Whatever common accuracy is chosen from the lowest on, up to the spacing; few below it, and those kept are apart."""
    table = tmp_path_factory.mktemp("kept") / "kept.csv"
    checkpoints = Checkpoints(table, per_epoch=1, lowest_accuracy=lowest / 400)
    for step, count in enumerate(counts, start=1):
        checkpoints.offer(step, nn.Linear(1, 1), float(np.float32(count / 400)))
    kept = np.sort([row["validation_accuracy"] for row in checkpoints.rows if row["kept"]])
    for target in range(lowest, 401):
        nearest = min(abs(count - target) for count in counts) / 400
        assert np.abs(kept - target / 400).min() <= nearest + SPACING + 1e-6
    assert (kept < lowest / 400).sum() <= 1 and (np.diff(kept) > SPACING - 1e-5).all()
    files = {file.name for file in checkpoints.folder.iterdir()}
    assert files == {f"step{row['step']}.safetensors" for row in checkpoints.rows if row["kept"]}


@given(per_epoch=st.integers(1, 40), n_batches=st.integers(1, 60))
def test_checkpoints_are_due_as_often_as_asked_and_at_the_end_of_each_epoch(tmp_path_factory, per_epoch, n_batches):
    checkpoints = Checkpoints(tmp_path_factory.getbasetemp() / "none.csv", per_epoch)
    due = [batch for batch in range(1, n_batches + 1) if checkpoints.is_due(batch, n_batches)]
    assert len(due) == min(per_epoch, n_batches)
    assert due[-1] == n_batches
    gaps = np.diff([0, *due])
    assert gaps.max() - gaps.min() <= 1


def test_a_missing_or_foreign_checkpoint_is_named(tmp_path):
    checkpoints = Checkpoints(tmp_path / "kept.csv", per_epoch=1)
    with pytest.raises(WeightsError, match=r"step4\.safetensors is missing: delete .*\.csv and run the study again"):
        load_checkpoint(tmp_path / "kept", 4, network())
    checkpoints.offer(4, nn.Linear(2, 2), 0.5)
    with pytest.raises(WeightsError, match=r"step4\.safetensors does not fit this network"):
        load_checkpoint(checkpoints.folder, 4, network())


def test_a_restored_network_that_is_another_is_found():
    table = pd.DataFrame({"split": ["validation"] * 40 + ["test"] * 40, "label": 0})
    table["predicted"] = [1] * 4 + [0] * 36 + [1] * 40
    run = Run("matched", "mri", 3, 0)
    check_restored(run, 0.9, table)
    check_restored(run, 0.925, table)  # one image more or less
    with pytest.raises(SelfCheckError, match=r"matched-mri-depth3-seed0 has a validation accuracy of 0.9000, .*0.9500"):
        check_restored(run, 0.95, table)
