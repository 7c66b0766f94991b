"""Checkpoints along the training: the network of that step to the bit, and only those that add something."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pretrain_xai.dataset import LabelledImages
from pretrain_xai.networks.checkpoints import SPACING, CheckpointError, Checkpoints, load_checkpoint
from pretrain_xai.networks.models import build_network, freeze_below
from pretrain_xai.networks.training import predict, train
from pretrain_xai.settings.sections import Network, Training
from torch import nn

NARROW = Network(architecture="vgg11", width=1 / 16)


def noise(n_images: int, seed: int = 0) -> LabelledImages:
    rng = np.random.default_rng(seed)
    return LabelledImages(rng.random((n_images, 32, 32), dtype=np.float32), np.arange(n_images) % 2)


def network() -> nn.Module:
    fresh = build_network(NARROW, 2, seed=0)
    freeze_below(fresh, 1)
    return fresh


def trained(epochs: int, checkpoints: Checkpoints | None = None) -> tuple[nn.Module, list[float]]:
    one = network()
    settings = Training(epochs=epochs, batch_size=8)
    history = train(one, noise(36), noise(60, 1), settings, learning_rate=0.05, seed=3, checkpoints=checkpoints)
    return one, history["train_loss"].tolist()


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_checkpoint_is_the_training_stopped_at_that_step(tmp_path):
    """To the bit, though the network was validated in between."""
    checkpoints = Checkpoints(tmp_path, per_epoch=2)
    trained(3, checkpoints)
    steps = checkpoints.table().set_index("step")
    assert steps.index.tolist() == [3, 5, 8, 10, 13, 15], "twice in each epoch of 5 batches, the last at its end"
    assert steps.at[3, "kept"]
    loaded = network()
    load_checkpoint(tmp_path, 3, loaded)
    validation = noise(60, 1)
    accuracy = np.mean(predict(loaded, validation.images).argmax(1) == validation.labels)
    assert steps.at[3, "validation_accuracy"] == pytest.approx(accuracy)
    checkpoints = Checkpoints(tmp_path, per_epoch=1)
    trained(3, checkpoints)
    assert checkpoints.rows[0]["step"] == 5
    load_checkpoint(tmp_path, 5, loaded)
    assert same(loaded, trained(1)[0])


def test_checkpoints_change_nothing_in_the_training(tmp_path):
    plain, losses = trained(2)
    kept, losses_kept = trained(2, Checkpoints(tmp_path, per_epoch=5))
    assert same(plain, kept) and losses == losses_kept


def test_only_trained_tensors_are_kept_and_those_of_an_earlier_training_are_gone(tmp_path):
    (tmp_path / "step99.safetensors").write_bytes(b"old")
    checkpoints = Checkpoints(tmp_path, per_epoch=1)
    checkpoints.take_up([])
    checkpoints.offer(7, network(), 0.5)
    assert [file.name for file in tmp_path.iterdir()] == ["step7.safetensors"]
    other = build_network(NARROW, 2, seed=1)
    frozen = other.features[0].weight.clone()
    load_checkpoint(tmp_path, 7, other)
    assert torch.equal(other.features[0].weight, frozen)
    assert torch.equal(other.classifier[0].weight, network().classifier[0].weight)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=30), st.sampled_from([100, 200, 300]))
def test_the_nearest_to_any_accuracy_that_is_looked_for_is_kept(tmp_path_factory, counts, lowest):
    """Whatever common accuracy is chosen from the lowest on, up to the spacing; and few below it."""
    checkpoints = Checkpoints(tmp_path_factory.mktemp("kept"), per_epoch=1, lowest_accuracy=lowest / 400)
    for step, count in enumerate(counts, start=1):
        checkpoints.offer(step, nn.Linear(1, 1), count / 400)
    kept = np.array([row["validation_accuracy"] for row in checkpoints.rows if row["kept"]])
    for target in range(lowest, 401):
        nearest = min(abs(count - target) for count in counts) / 400
        assert np.abs(kept - target / 400).min() <= nearest + SPACING + 1e-9
    assert (kept < lowest / 400).sum() <= 1
    files = {file.name for file in checkpoints.folder.iterdir()}
    assert files == {f"step{row['step']}.safetensors" for row in checkpoints.rows if row["kept"]}


@given(st.lists(st.integers(0, 400), max_size=30))
def test_every_accuracy_has_a_kept_one_near_it_and_kept_ones_are_apart(tmp_path_factory, counts):
    checkpoints = Checkpoints(tmp_path_factory.mktemp("kept"), per_epoch=1)
    linear = nn.Linear(1, 1)
    for step, count in enumerate(counts, start=1):
        checkpoints.offer(step, linear, float(np.float32(count / 400)))
    table = checkpoints.table()
    kept = np.sort(table.loc[table["kept"].astype(bool), "validation_accuracy"].to_numpy(dtype=float))
    assert (np.diff(kept) > SPACING - 1e-5).all()
    for accuracy in table["validation_accuracy"]:
        assert np.abs(kept - accuracy).min() <= SPACING
    assert len(list(checkpoints.folder.iterdir())) == len(kept)


@given(per_epoch=st.integers(1, 40), n_batches=st.integers(1, 60))
def test_checkpoints_are_due_as_often_as_asked_and_at_the_end_of_each_epoch(tmp_path_factory, per_epoch, n_batches):
    checkpoints = Checkpoints(tmp_path_factory.getbasetemp() / "none", per_epoch)
    due = [batch for batch in range(1, n_batches + 1) if checkpoints.is_due(batch, n_batches)]
    assert len(due) == min(per_epoch, n_batches)
    assert due[-1] == n_batches
    gaps = np.diff([0, *due])
    assert gaps.max() - gaps.min() <= 1


def test_a_missing_or_foreign_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"step4\.safetensors is missing.*run the study again"):
        load_checkpoint(tmp_path / "checkpoints", 4, network())
    (tmp_path / "step4.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"step4\.safetensors is no checkpoint of this network"):
        load_checkpoint(tmp_path, 4, network())
    Checkpoints(tmp_path, per_epoch=1).offer(4, nn.Linear(2, 2), 0.5)
    with pytest.raises(CheckpointError, match="is no checkpoint of this network"):
        load_checkpoint(tmp_path, 4, network())
