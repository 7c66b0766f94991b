"""Checkpoints along the training: the network of that step to the bit, and only those that add something."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretrain_xai.networks.checkpoints import SPACING, Checkpoints, load_checkpoint
from pretrain_xai.networks.matching import NOTED, RATE
from pretrain_xai.networks.training import predict, train
from pretrain_xai.networks.weight_files import WeightsError
from pretrain_xai.settings.sections import Training
from pretrain_xai.tables import read_table
from sklearn.metrics import roc_auc_score
from small_nets import noise, same, vgg
from torch import nn

VALIDATION = noise(60, 1)


def rates(value: float) -> dict[str, float]:
    return dict.fromkeys(NOTED, value)


def trained(epochs: int, checkpoints: Checkpoints | None = None) -> nn.Module:
    network, settings = vgg(1), Training(epochs=epochs, batch_size=8)
    train(network, noise(36), VALIDATION, settings, learning_rate=0.05, seed=3, checkpoints=checkpoints)
    return network


def test_a_checkpoint_is_the_training_stopped_at_that_step(tmp_path):
    """To the bit, though the network was validated in between, which changes nothing in the training either."""
    checkpoints = Checkpoints(tmp_path / "twice.csv", per_epoch=2)
    assert same(trained(3, checkpoints).state_dict(), trained(3).state_dict())
    checkpoints.save()
    steps = read_table(tmp_path / "twice.csv").set_index("step")
    assert steps.index.tolist() == [3, 5, 8, 10, 13, 15], "twice in each epoch of 5 batches, the last at its end"
    assert steps.at[3, "kept"]
    loaded = vgg(1)
    load_checkpoint(tmp_path / "twice", 3, loaded)
    logits = predict(loaded, VALIDATION.images)
    right = [np.mean(logits.argmax(1)[VALIDATION.labels == label] == label) for label in (1, 0)]
    area = roc_auc_score(VALIDATION.labels, logits[:, 1] - logits[:, 0])
    assert steps.loc[3, NOTED].tolist() == pytest.approx([np.mean(right), *right, area, min(right)])
    checkpoints = Checkpoints(tmp_path / "once.csv", per_epoch=1)
    trained(3, checkpoints)
    load_checkpoint(checkpoints.folder, 5, loaded)
    assert same(loaded.state_dict(), trained(1).state_dict())


def test_checkpoints_hold_the_running_means_of_open_batch_normalisation(tmp_path):
    """A network that is restored from one is the network that was validated."""
    network, data, seen = vgg(2, architecture="vgg11_bn"), noise(24), {}

    class Remembering(Checkpoints):
        def offer(self, step, network, validated):
            super().offer(step, network, rates(step / 100))  # each is new, so each is kept
            seen[step] = predict(network, data.images)

    checkpoints = Remembering(tmp_path / "kept.csv", per_epoch=3)
    train(network, data, data, Training(epochs=3, batch_size=4), learning_rate=0.01, seed=0, checkpoints=checkpoints)
    assert len(seen) > 1
    for step, logits in seen.items():
        load_checkpoint(checkpoints.folder, step, network)
        np.testing.assert_array_equal(predict(network, data.images), logits)


def test_only_trained_tensors_are_kept_and_those_of_an_earlier_training_are_gone(tmp_path):
    checkpoints = Checkpoints(tmp_path / "kept.csv", per_epoch=1)
    for folder in (".kept", "kept"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "step99.safetensors").write_bytes(b"old")
    checkpoints.take_up([])
    checkpoints.offer(7, vgg(1), rates(0.5))
    checkpoints.save()
    found = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")}
    assert found == {"kept", "kept.csv", "kept/step7.safetensors"}
    other, frozen = vgg(seed=1), vgg(seed=1).features[0].weight
    load_checkpoint(tmp_path / "kept", 7, other)
    assert other.features[0].weight.equal(frozen) and other.classifier[0].weight.equal(vgg().classifier[0].weight)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=30), st.sampled_from([0, 100, 300]))
def test_the_nearest_to_any_accuracy_that_is_looked_for_is_kept(tmp_path_factory, counts, lowest):
    """Whatever common accuracy is chosen from the lowest on, up to the spacing; few below it, and those kept are apart."""
    checkpoints = Checkpoints(tmp_path_factory.mktemp("kept") / "kept.csv", 1, lowest_rate=lowest / 400)
    for step, count in enumerate(counts, start=1):
        checkpoints.offer(step, nn.Linear(1, 1), rates(count / 400))
    kept = np.sort([row[RATE] for row in checkpoints.rows if row["kept"]])
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
    assert len(due) == min(per_epoch, n_batches) and due[-1] == n_batches
    assert np.ptp(np.diff([0, *due])) <= 1


def test_a_missing_or_foreign_checkpoint_is_named(tmp_path):
    checkpoints = Checkpoints(tmp_path / "kept.csv", per_epoch=1)
    with pytest.raises(WeightsError, match=r"step4\.safetensors can't be read, .*No such file"):
        load_checkpoint(tmp_path / "kept", 4, vgg())
    checkpoints.offer(4, nn.Linear(2, 2), rates(0.5))
    with pytest.raises(WeightsError, match=r"step4\.safetensors does not fit this network"):
        load_checkpoint(checkpoints.folder, 4, vgg())
