"""The training loop: repeatable, able to learn, and by the published rules."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pretrain_xai.dataset import LabelledImages
from pretrain_xai.errors import UserError
from pretrain_xai.networks import training
from pretrain_xai.networks.training import has_settled, is_checkpoint, predict, train
from pretrain_xai.settings.sections import Training
from small_nets import noise, same, vgg
from torch import nn


def halves(n_images: int, seed: int) -> LabelledImages:
    """Return images whose bright half, left or right, is the class."""
    data = noise(n_images, seed)
    for image, label in zip(data.images, data.labels, strict=True):
        image[:, slice(16, 32) if label else slice(16)] *= 0.3
    return data


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))


def accuracy(network: nn.Module, data: LabelledImages) -> float:
    return np.mean(predict(network, data.images).argmax(1) == data.labels)


def result(seed: int, settings: Training) -> tuple[dict[str, torch.Tensor], list[float]]:
    network, before = vgg(), torch.get_rng_state()
    history = train(network, noise(20), noise(10, 1), settings, learning_rate=0.05, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    return network.state_dict(), history["train_loss"].tolist()


OPTIMISERS = [{"optimizer": "sgd"}, {"optimizer": "adamw", "schedule": "one_cycle", "clip_norm": 1.0}]


@pytest.mark.parametrize("settings", OPTIMISERS)
def test_a_seed_repeats_the_training_to_the_bit_whatever_the_global_generators_do(settings):
    settings = Training(epochs=2, batch_size=8, **settings)
    torch.manual_seed(1)
    (weights, losses), (again, losses_again), (other, other_losses) = (result(seed, settings) for seed in (3, 3, 4))
    assert same(weights, again) and losses == losses_again and losses != other_losses
    assert not any(tensor.equal(other[name]) for name, tensor in weights.items() if tensor.ndim > 1)


def test_a_training_that_diverges_says_so_at_once():
    with pytest.raises(UserError, match=r"diverged in epoch 1.* lower the learning rate \(100\)"):
        train(vgg(), noise(20), noise(10, 1), Training(epochs=3, batch_size=8), learning_rate=100.0, seed=0)


def test_what_can_be_learnt_is_learnt_and_noise_is_not():
    settings = Training(epochs=6, batch_size=16, optimizer="adamw")
    network = linear()
    history = train(network, halves(128, 0), halves(64, 1), settings, learning_rate=1e-3, seed=0)
    assert accuracy(network, halves(200, 2)) > 0.95
    assert history["train_loss"].iloc[-1] < 0.5 * history["train_loss"].iloc[0]
    network = linear()
    train(network, noise(128, 0), noise(64, 1), settings, learning_rate=1e-3, seed=0)
    assert accuracy(network, noise(200, 2)) < 0.65


def test_undecided_images_are_learnt_as_even_odds_and_count_in_no_accuracy():
    """Half of the images are grey and undecided, all with the label 1: without that, the network says 1 of grey."""

    def mixed(n: int, seed: int, **options) -> LabelledImages:
        shown = halves(n, seed)
        grey = np.full_like(shown.images, 0.5)
        return LabelledImages(np.concatenate([shown.images, grey]), np.r_[shown.labels, np.ones(n, int)], **options)

    settings, odds, accuracies = Training(epochs=30, batch_size=16, optimizer="adamw"), [], []
    for undecided in (None, np.arange(256) >= 128):
        network, known = linear(), {"undecided": undecided}
        history = train(network, mixed(128, 0, **known), mixed(128, 1, **known), settings, learning_rate=1e-3, seed=0)
        logits = predict(network, np.full_like(halves(1, 0).images, 0.5))
        odds.append(logits[0, 1] - logits[0, 0])
        accuracies.append(accuracy(network, halves(128, 1)))
    assert odds[0] > 1 and abs(odds[1]) < 0.5
    best = history.loc[history["checkpoint"], "validation_accuracy"].iloc[-1]
    assert best == pytest.approx(accuracies[1]) and accuracies[1] > 0.9


def test_every_image_is_seen_once_per_epoch_in_an_order_of_its_own():
    data = LabelledImages(np.ones((23, 32, 32), np.float32) * np.arange(23)[:, None, None], np.arange(23) % 2)
    seen, network = [], linear()
    network.register_forward_pre_hook(lambda layer, given: seen.append(given[0][:, 0, 0, 0].int().tolist()))
    train(network, data, noise(1), Training(epochs=2, batch_size=5), learning_rate=1e-9, seed=0)
    batches = [batch for batch in seen if batch != seen[5]]  # not those of the validation
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3] * 2
    first, second = list(itertools.chain(*batches[:5])), list(itertools.chain(*batches[5:]))
    assert sorted(first) == sorted(second) == list(range(23)) and first != second


def test_accuracy_and_loss_are_means_over_batches():
    """Three batches of 4, 4 and 1: the last image counts as much as four others, as in the released code."""
    data, network = noise(9), linear()
    batches = np.split(np.random.default_rng(0).permutation(9), [4, 8])
    logits = predict(network, data.images)
    right = logits.argmax(1) == data.labels
    losses = -torch.log_softmax(torch.from_numpy(logits), 1).numpy()[np.arange(9), data.labels]
    history = train(network, data, data, Training(epochs=1, batch_size=4), learning_rate=1e-12, seed=0)
    assert history.at[0, "train_accuracy"] == pytest.approx(np.mean([right[batch].mean() for batch in batches]))
    assert history.at[0, "train_loss"] == pytest.approx(np.mean([losses[batch].mean() for batch in batches]), rel=1e-5)
    assert history.at[0, "validation_accuracy"] == pytest.approx(right.mean())
    assert history.at[0, "validation_loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_learning_rates_follow_the_schedule():
    step = train(linear(), noise(4), noise(4), Training(epochs=16), learning_rate=0.1, seed=0)
    assert step["learning_rate"].tolist() == pytest.approx([0.1] * 7 + [0.01] * 7 + [0.001] * 2)
    cycle = train(linear(), noise(4), noise(4), Training(epochs=10, schedule="one_cycle"), learning_rate=0.1, seed=0)
    rates = cycle["learning_rate"].tolist()
    assert max(rates) == pytest.approx(0.1) and rates.index(max(rates)) in (2, 3)
    assert rates[0] == pytest.approx(0.1 / 25) and rates[-1] < 0.01


def test_gradients_are_scaled_down_to_the_norm(monkeypatch):
    def step(optimizer) -> None:
        gradients = [parameter.grad.flatten() for parameter in optimizer.param_groups[0]["params"]]
        seen.append(torch.cat(gradients).norm().item())

    seen, bright = [], LabelledImages(noise(8).images * 1000, noise(8).labels)
    monkeypatch.setattr(torch.optim.SGD, "step", step)
    for norm in (0.25, None):
        train(linear(), bright, bright, Training(epochs=1, clip_norm=norm), learning_rate=0.1, seed=0)
    assert seen[0] == pytest.approx(0.25, rel=1e-3) and seen[1] > 10


def published_epochs(accuracies: list[tuple], acc_dif: float | None, stop_value: float | None) -> list[bool]:
    """Replay the published rules on (validation, training) accuracies: for each epoch that is run, is it a checkpoint?"""
    checkpoints, best = [], 0.0
    for epoch, (validation, trained) in enumerate(accuracies):
        better = round(validation, 4) > best and (acc_dif is None or abs(validation - trained) <= acc_dif)
        checkpoints.append(epoch == 0 or better)
        if checkpoints[-1]:
            best = round(validation, 4)
        if epoch >= 3 and stop_value is not None:
            last = [(accuracies[past - 1][0], *accuracies[past]) for past in (epoch - 2, epoch - 1, epoch)]
            if all(abs(now - before) < stop_value and now < fitted for before, now, fitted in last):
                break
    return checkpoints


#: few different values, so that ties, the limits themselves and three small changes in a row are common
ACCURACY = st.sampled_from([0.5, 0.70001, 0.70004, 0.702, 0.705, 0.71, 0.75, 0.8])


@given(
    accuracies=st.lists(st.tuples(ACCURACY, ACCURACY), min_size=1, max_size=12),
    acc_dif=st.sampled_from([None, 0.005, 0.05, 0.06]),
    stop_value=st.sampled_from([None, 0.001, 0.004, 0.005, 0.05]),
)
def test_checkpoints_and_stop_are_those_of_the_published_rules(accuracies, acc_dif, stop_value):
    history = []
    for validation, trained in accuracies:
        row = {"validation_accuracy": validation, "train_accuracy": trained}
        row["checkpoint"] = is_checkpoint(row, history, acc_dif)
        history.append(row)
        if has_settled(history, stop_value):
            break
    assert [row["checkpoint"] for row in history] == published_epochs(accuracies, acc_dif, stop_value)


def test_the_best_checkpoint_is_left_in_the_network_when_validation_has_settled(monkeypatch):
    """The validation accuracies are a script."""
    script, snapshots = [0.5, 0.7, 0.6, 0.9, 0.8, 0.8, 0.8, 0.8, 0.95], []

    def validate(network, *_):
        snapshots.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"validation_loss": 0.0, "validation_accuracy": script[len(snapshots) - 1]}

    monkeypatch.setattr(training, "_validate", validate)
    network, settings = linear(), Training(epochs=9, stop_value=0.005, optimizer="adamw")
    history = train(network, halves(64, 0), noise(4), settings, learning_rate=1e-2, seed=0)
    assert history["epoch"].tolist() == list(range(8)) and history["train_accuracy"].iloc[-1] > 0.8
    assert history["checkpoint"].tolist() == [True, True, False, True, False, False, False, False]
    assert [same(network.state_dict(), snapshot) for snapshot in snapshots].index(True) == 3
    assert not network.training


@pytest.mark.parametrize("training_mode", [True, False])
def test_predict_is_the_plain_network_in_evaluation_mode_and_leaves_its_mode(training_mode):
    network, data = vgg().train(training_mode), noise(training.PREDICTION_BATCH + 7)
    logits = predict(network, data.images)
    assert {module.training for module in network.modules()} == {training_mode}
    assert logits.dtype == np.float32
    with torch.no_grad():
        plain = [network.eval()(torch.from_numpy(image).expand(1, 3, 32, 32)) for image in data.images]
    np.testing.assert_allclose(logits, torch.cat(plain).numpy(), rtol=1e-4, atol=1e-5)


def test_active_dropout_makes_predictions_vary_with_the_seed_alone():
    network, images, before = vgg(), noise(8).images, torch.random.get_rng_state()
    assert np.array_equal(predict(network, images), predict(network, images, seed=1))
    one, again, other = (predict(network, images, dropout_active=True, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_dropout_is_awake_in_validation_only_if_asked_and_drawn_anew_in_every_epoch():
    """With the same masks in every epoch the stopping rule would see less change than in the released code."""
    losses = {}
    for active in (False, True):
        given = {"learning_rate": 1e-12, "seed": 0, "dropout_active": active}
        losses[active] = train(vgg(), noise(8), noise(64), Training(epochs=3), **given)["validation_loss"].round(6)
    assert losses[False].nunique() == 1 and losses[True].nunique() == 3
    assert losses[False][0] not in losses[True].tolist()
