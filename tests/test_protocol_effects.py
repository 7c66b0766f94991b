"""What each switch does to each number: built studies with known changes, and the tiny study as it was run."""

import dataclasses
import os

import numpy as np
import pandas as pd
import pytest
import yaml
from pretrain_xai import batch, paths
from pretrain_xai.classification import prediction_table
from pretrain_xai.paths import Paths
from pretrain_xai.protocol import CORRECTED, PUBLISHED, RESCORED, Protocol, switched_protocols
from pretrain_xai.running import variants
from pretrain_xai.running.stages import STAGES, fingerprint
from pretrain_xai.selection import CORRECT_FOR_ALL, find_intersections, image_list
from pretrain_xai.statistics import protocol_effects
from pretrain_xai.statistics.protocol_effects import ALL_METHODS, RANKING, compare_protocols, noise_floor, order_floor
from pretrain_xai.statistics.resampling import kendall_tau, subject_weights
from pretrain_xai.study import StudyError, load_study
from pretrain_xai.tables import read_scores, read_table, write_table
from scipy import stats

SWITCHES = [field.name for field in dataclasses.fields(Protocol)]
N_IMAGES = 24
CELLS = {corpus: {"learning_rate": 0.001, "seeds": [0]} for corpus in ("natural", "mri")}


# ---------------------------------------------------------------------------------------------------------------------
# which variants there are, and what they share


def test_every_switch_is_rescored_retrained_or_swaps_two_names():
    assert {*RESCORED, *variants.RETRAINED, "swapped_rates"} - {"published"} == set(SWITCHES)
    assert set(paths.FIRST_CHANGED) <= {"", *SWITCHES, "published"}


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_variant_differs_in_its_switch_only(switch):
    variant, study = load_study(f"demo+{switch}"), load_study("demo")
    assert variant.protocol == dataclasses.replace(CORRECTED, **{switch: getattr(PUBLISHED, switch)})
    assert variant.finetuning.selections == study.finetuning.selections


@pytest.mark.parametrize("variant", ["head_kept", "lesion_floor", "published", "reseed1"])
def test_variants_with_networks_of_their_own_have_the_smaller_grid(variant):
    study, grid = load_study(f"demo+{variant}"), load_study("demo").protocols
    assert study.finetuning.depths == grid.depths == [3, 5]
    assert study.attribution.max_images == grid.max_images
    assert not study.attribution.misclassified
    assert len(list(study.runs())) == 2 * 2 * 2, "corpora, depths, pre-trainings"


@pytest.mark.parametrize("variant", ["ties", "swapped_rates", "captum_deep_lift"])
def test_variants_that_share_the_networks_have_the_grid_of_the_study(variant):
    assert list(load_study(f"demo+{variant}").runs()) == list(load_study("demo").runs())


@pytest.fixture
def edited(root):
    """Return a function that changes settings of the tiny study file, which is given as a nested dictionary."""
    file = root / "studies" / "tiny.yaml"

    def edit(change) -> None:
        settings = yaml.safe_load(file.read_text())
        change(settings)
        file.write_text(yaml.safe_dump(settings, sort_keys=False))

    return edit


@pytest.mark.parametrize("seeds", [[0, 1000], [0, 1000, 2000], [5, 116560000], [[3, 999], [2999, 7], [0], [0], [0]]])
def test_further_seeds_are_never_seeds_of_the_study(edited, seeds):
    edited(lambda settings: settings["finetuning"]["selections"]["best"]["mri"].update(seeds=seeds))
    sets = [{run.seed for run in load_study(f"tiny{suffix}").runs()} for suffix in ("", "+reseed1", "+reseed2")]
    assert len(set.union(*sets)) == sum(map(len, sets))


def test_only_the_compared_selection_is_trained_anew(edited):
    edited(lambda settings: settings["finetuning"].update(matching=None))
    edited(lambda settings: settings["finetuning"]["selections"].update(matched=CELLS))
    assert {run.selection for run in load_study("tiny").runs()} == {"best", "matched"}
    for variant in ("reseed1", "head_kept", "published"):
        study = load_study(f"tiny+{variant}")
        assert {run.selection for run in [*study.runs(), *study.untrained_runs()]} == {"best"}
    assert {run.selection for run in load_study("tiny+ties").runs()} == {"best", "matched"}, "no networks of its own"


def test_what_a_study_has_as_published_anyway_is_no_variant(edited):
    edited(lambda settings: settings.update(switches={"head_kept": True, "ties": "strict"}))
    study = load_study("tiny")
    retrained = variants.retrained_variants(study)
    assert "head_kept" not in retrained and "lesion_floor" in retrained
    assert "ties" not in switched_protocols(study.protocol) and "mask_threshold" in switched_protocols(study.protocol)
    edited(lambda settings: settings.update(switches={}, protocol="published"))
    study = load_study("tiny")
    assert variants.retrained_variants(study) == ["reseed1", "reseed2"]
    assert list(switched_protocols(study.protocol)) == ["none"]


def test_a_variant_is_finished_while_its_mark_is_that_of_the_settings_of_now(edited):
    study = load_study("tiny")
    assert variants.variant_states(study)["head_kept"] == "missing"
    build("tiny+head_kept", {})
    build("tiny+lesion_floor", {})
    assert variants.finished_variants(study) == ["lesion_floor", "head_kept"]
    edited(lambda settings: settings["finetuning"]["training"].update(epochs=2))
    states = variants.variant_states(load_study("tiny"))
    assert states["head_kept"] == states["lesion_floor"] == "out of date" and states["reseed1"] == "missing"
    variants.mark_finished("tiny+head_kept")
    assert variants.finished_variants(load_study("tiny")) == ["head_kept"]


CHANGES = {
    "learning rate": lambda of: of["finetuning"]["selections"]["best"]["mri"].update(learning_rate=0.002),
    "shared pre-training": lambda of: of["pretraining"].update(seeds=[5]),
    "shared dataset": lambda of: of["dataset"].update(brain_intensity=0.6),
}


@pytest.mark.parametrize("change", [*CHANGES, "a later batch broke off", "broken mark", "no mark"])
def test_a_variant_is_out_of_date(edited, change):
    build("tiny+head_kept", {})
    path, mark = variants.variant_files("tiny", "head_kept")[2], Paths("tiny+head_kept").finished
    if change in CHANGES:
        edited(CHANGES[change])
    elif "batch" in change:
        os.utime(path, ns=(0, mark.stat().st_mtime_ns + 1))
    else:
        mark.write_text("{") if "broken" in change else mark.unlink()
    assert variants.variant_states(load_study("tiny"))["head_kept"] == "out of date"


def test_the_batch_names_what_is_out_of_date(root, monkeypatch, capsys):
    build("tiny+head_kept", {})
    build("tiny+reseed1", {})
    Paths("tiny+head_kept").finished.unlink()
    monkeypatch.setattr(batch, "run_batch", lambda *_: 0)
    assert batch.run_protocols("tiny", [], retrain=False) == 0
    printed = capsys.readouterr().err
    assert "head_kept (out of date)" in printed and "reseed1" not in printed
    assert "`make protocols STUDY=tiny`" in printed


UNKNOWN = [
    ("tie", r"no variant 'tie'.*did you mean 'ties'"),
    ("reseed3", r"reseed1, reseed2 \(protocols\.reseeds sets how many"),
    ("reseed0", r"no variant 'reseed0'.*did you mean 'reseed"),
]


@pytest.mark.parametrize(("variant", "words"), UNKNOWN)
def test_an_unknown_variant_is_one_line(variant, words):
    with pytest.raises(StudyError, match=words) as error:
        load_study(f"tiny+{variant}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("variant", [*SWITCHES, "published", "reseed1"])
def test_a_variant_shares_what_its_switch_does_not_change(variant):
    """A stage whose fingerprint differs, and all after it, have files of their own; those before are the study's."""
    base, changed = load_study("tiny"), load_study(f"tiny+{variant}")
    name = f"tiny+{variant}"
    for notebook, stage in STAGES.items():
        if paths.owner(name, stage.artefact) == "tiny":
            assert fingerprint(base, notebook) == fingerprint(changed, notebook), (notebook, "would be made again")
    first = "finetuned" if variant == "reseed1" else paths.FIRST_CHANGED.get(variant, "scores")
    assert paths.owner(name, first) == name
    assert Paths(name).scores != Paths("tiny").scores
    assert Paths(name).slices == Paths("tiny").slices


# ---------------------------------------------------------------------------------------------------------------------
# the noise floor


@pytest.mark.parametrize("other_sets", [1, 0])
def test_the_floor_holds_95_of_100_differences_by_retraining_alone(other_sets):
    """Three seeds of six cells with unlike levels; the mean over the cells of one more seed, or the mean itself."""
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([["mri", "natural"], [1, 3, 5], ["lrp"]], names=["a", "b", "quantity"])
    inside = []
    for _ in range(1500):
        level = rng.normal(size=(6, 1))
        seeds, other = level + rng.normal(size=(6, 3)), level[:, 0] + rng.normal(size=6) * other_sets
        numbers = pd.DataFrame(seeds, index=index)
        (width,) = noise_floor(numbers, pd.Series(["lrp"]), pd.Series([1 / 6]), other_sets)
        inside.append(abs(seeds.mean() - other.mean()) < width)
    assert 0.93 < np.mean(inside) < 0.97
    assert np.isnan(noise_floor(numbers[[0]], pd.Series(["lrp"]), pd.Series([1.0]))).all(), "one seed has no floor"


@pytest.mark.parametrize("levels", [np.zeros(8), [0, 0, 0, 5, 10, 15, 20, 25], np.repeat([0, 9], 4), np.arange(8) / 2])
def test_the_order_of_one_more_set_of_seeds_lies_inside_the_floor_95_times_in_100(levels):
    """Methods all tied, three or two groups of them tied, and none; noise of 1, half of it shared by the methods."""
    rng, outside, n_times = np.random.default_rng(0), 0, 300
    for _ in range(n_times):
        noise = rng.normal(size=(4, 6, 8)) + rng.normal(size=(4, 6, 1))
        numbers = np.asarray(levels) + np.sqrt(6 / 2) * noise
        one, mean = numbers[3].mean(axis=0), numbers[:3].mean(axis=(0, 1))
        lost = 1 - kendall_tau(one[:, None], mean[:, None])[0]
        outside += lost > order_floor(numbers[:3], seed=0, n_draws=1000)
    assert outside / n_times < 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / n_times)


def test_an_order_that_no_seed_changes_has_the_floor_0_and_one_set_of_seeds_has_none():
    numbers = np.arange(8) + np.zeros((3, 6, 1)) + np.random.default_rng(0).normal(0, 0.01, (3, 6, 8))
    assert order_floor(numbers, seed=0) == pytest.approx(0)
    assert np.isnan(order_floor(numbers[:1], seed=0))


@pytest.mark.parametrize("ratio", [0.5, 1, 2])
@pytest.mark.parametrize("shares_images", [False, True])
def test_without_an_effect_at_most_5_of_100_differences_are_decided(ratio, shares_images):
    """3 sets of seeds, 6 cells, 1,000 numbers; the chance of the images is `ratio` of that of training, on the means.

    Estimates are means over subjects, so that a thousand comparisons take no longer than one.
    """
    rng, n_numbers, n_subjects = np.random.default_rng(1), 1000, 80
    numbers = [f"number-{n}" for n in range(n_numbers)]
    names = ["pretraining", "finetune_depth", "quantity"]
    index = pd.MultiIndex.from_product([["mri", "natural"], [1, 3, 5], numbers], names=names)
    weights = subject_weights(map(str, range(n_subjects)), 300, 0).to_numpy()

    def chance_of_images() -> np.ndarray:
        noise = rng.normal(size=(1, n_numbers, n_subjects)) * ratio * np.sqrt(n_subjects / 6)
        return np.broadcast_to(noise, (6, n_numbers, n_subjects)).reshape(-1, n_subjects)

    def estimates(images: np.ndarray) -> pd.DataFrame:
        training = rng.normal(size=(6 * n_numbers, 1))
        return pd.DataFrame((images + training) @ weights / weights.sum(axis=0), index=index)

    own = chance_of_images()
    comparison = protocol_effects.Comparison([estimates(own) for _ in range(3)], [1, 3, 5], numbers[:2])
    other = estimates(own if shares_images else chance_of_images())
    effects = comparison.rows(comparison.corrected, other, retrained=True)
    decided = effects["verdict"].isin(["raises", "lowers"]).groupby(effects["effect"]).mean()
    assert decided["mean"] <= 0.06 + 2 * np.sqrt(0.05 * 0.95 / n_numbers)
    assert decided["cell"] <= 0.06
    if not shares_images:
        assert decided["mean"] > 0.02, "the rule is not so careful that nothing is ever decided"


# ---------------------------------------------------------------------------------------------------------------------
# built studies


def build(name: str, shifts: dict[str, float], error: float = 0.0, images=range(N_IMAGES - 4)) -> None:
    """Write the results of a study whose medians are 0.3 + 0.01 x place of the method + shift of method and run."""
    study, rng = load_study(name), np.random.default_rng(0)
    labels = np.arange(N_IMAGES) % 2
    spread = rng.permutation(np.linspace(-0.05, 0.05, N_IMAGES))
    table = pd.DataFrame({"image_index": range(N_IMAGES), "subject": [f"sub-{n // 3}" for n in range(N_IMAGES)]})
    write_table(table, Paths(name).dataset / "test" / "images.csv")
    predictions = []
    for number, run in enumerate([*study.runs(), *study.untrained_runs()]):
        rows = []
        for place, method in enumerate([*study.attribution.methods, *(["sobel"] if run.pretraining == "none" else [])]):
            level = 0.3 + 0.01 * place + shifts.get(method, 0) + shifts.get(run.pretraining, 0)
            level += error * (-1) ** number if run.pretraining != "none" else 0
            values = {"image_index": range(N_IMAGES), "value": level + spread, "method": method}
            rows.append(pd.DataFrame(values | dataclasses.asdict(run)))
        scores = pd.concat(rows).assign(metric="relevance_rank_accuracy", chance=0.05)
        write_table(scores[scores["image_index"].isin(images)], Paths(name).scores / f"{run.name}.parquet")
        if run.pretraining != "none":
            logits = np.stack([1 - labels, labels], axis=1) + rng.normal(0, 0.1, (N_IMAGES, 2))
            predictions.append(prediction_table(run, "test", labels, logits))
            write_table(predictions[-1], Paths(name).finetuned(run.name) / "predictions.parquet")
        if name == "tiny":
            write_switches(name, run.name, scores, predictions[-1])
    write_table(find_intersections(pd.concat(predictions)), Paths(name).intersections)
    if name != "tiny":
        variants.mark_finished(name)


def write_switches(name: str, run: str, scores: pd.DataFrame, predictions: pd.DataFrame) -> None:
    """Write scores that switches raise by known amounts; dropout gets image 0 wrong."""
    shifts = {"mask_threshold": 0.001, "channel_reduction": 0.2, "captum_deep_lift": 0.04}
    switched = []
    for switch in ("none", *RESCORED):
        concerned = scores[scores["method"].isin(RESCORED.get(switch) or scores["method"].unique())]
        switched.append(concerned.assign(switch=switch, value=concerned["value"] + shifts.get(switch, 0)))
    write_table(pd.concat(switched), Paths(name).switch_scores / f"{run}.parquet")
    wrong = predictions.assign(predicted=predictions["predicted"].where(predictions["image_index"] > 0, 1))
    write_table(wrong, Paths(name).switch_predictions / f"{run}.parquet")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> pd.DataFrame:
    """Return the comparison of a built study whose seeds differ by 0, 0.02 and -0.02, by the parity of the run."""
    import shutil

    root = tmp_path_factory.mktemp("built")
    shutil.copytree(paths.REPOSITORY / "studies", root / "studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRETRAIN_XAI_ROOT", str(root))
        build("tiny", {"mri": 0.3})
        build("tiny+reseed1", {"mri": 0.3}, error=0.02)
        build("tiny+reseed2", {"mri": 0.3}, error=-0.02)
        build("tiny+head_kept", {"mri": 0.3, "lrp": 0.01}, images=range(12))
        build("tiny+first_conv_frozen", {"mri": 0.3}, images=range(N_IMAGES - 4, N_IMAGES))
        build("tiny+lesion_floor", {"mri": 0.3, "lrp": 0.2, "sobel": -0.1})
        build("tiny+published", {"natural": 0.3, "saliency": 0.5})
        study = load_study("tiny")
        finished = variants.finished_variants(study)
        assert finished == ["reseed1", "reseed2", "first_conv_frozen", "lesion_floor", "head_kept", "published"]
        yield compare_protocols(study, "best", finished)


def row(effects: pd.DataFrame, switch: str, quantity: str, effect: str = "mean", **cell) -> pd.Series:
    chosen = effects.query("switch == @switch and quantity == @quantity and effect == @effect")
    for name, value in cell.items():
        chosen = chosen[chosen[name] == value]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_the_floor_is_that_of_the_formula(built):
    """Seeds of every cell differ by 0.02, so the pooled deviation is 0.02, with 4 cells and 8 degrees of freedom."""
    quantile = stats.t.ppf(0.975, 8)
    for effect, share in (("mean", 1 / 4), ("corpus", 1.0), ("depth", 1.0)):
        expected = pytest.approx(quantile * 0.02 * np.sqrt(4 / 3 * share))
        assert row(built, "head_kept", "lrp", effect)["floor"] == expected
    one = row(built, "head_kept", "lrp", "cell", pretraining="mri", finetune_depth=5)
    assert one["floor"] == pytest.approx(quantile * 0.02 * np.sqrt(4 / 3))
    assert row(built, "none", "lrp", "corpus")["floor"] == pytest.approx(quantile * 0.02 * np.sqrt(1 / 3))


VERDICTS = [("lesion_floor", "lrp", 0.2, "raises"), ("lesion_floor", "saliency", 0.0, "undecided")]
VERDICTS += [("lesion_floor", "sobel", -0.1, "lowers"), ("head_kept", "lrp", 0.01, "undecided")]
VERDICTS += [("head_kept", "sobel", 0.0, "undecided"), ("lesion_floor", "accuracy", 0.0, "undecided")]
VERDICTS += [("mask_threshold", "lrp", 0.001, "raises"), ("channel_reduction", "lrp", 0.2, "raises")]
VERDICTS += [("ties", "lrp", 0.0, "unchanged"), ("dropout_active", "accuracy", -1 / N_IMAGES, "undecided")]


@pytest.mark.parametrize(("switch", "quantity", "difference", "verdict"), VERDICTS)
def test_verdicts_of_known_changes(built, switch, quantity, difference, verdict):
    found = row(built, switch, quantity)
    assert found["difference"] == pytest.approx(difference, abs=1e-12)
    assert found["difference"] == pytest.approx(found["switched"] - found["corrected"])
    assert found["verdict"] == verdict


def test_images_are_those_scored_in_both_where_the_test_images_are_the_same(built):
    same = built.groupby("switch")["same_images"].first()
    assert same["head_kept"] and same["ties"]
    assert not same["lesion_floor"] and not same["published"]
    found = row(built, "first_conv_frozen", "lrp")  # no image was scored in both
    assert not found["same_images"] and np.isfinite(found["difference"])


def test_a_decided_change_below_the_floor_is_said(built):
    found = row(built, "mask_threshold", "lrp")
    assert found["below_floor"] and found[["low", "high"]].tolist() == pytest.approx([0.001, 0.001])
    assert not row(built, "channel_reduction", "lrp")["below_floor"]


def test_the_effect_of_the_corpus_and_its_change(built):
    own = row(built, "none", "lrp", "corpus")
    assert own["corrected"] == pytest.approx(0.3) and own["verdict"] == "raises"
    turned = row(built, "published", ALL_METHODS, "corpus")
    assert turned["corrected"] == pytest.approx(0.3) and turned["switched"] == pytest.approx(-0.3)
    assert turned["verdict"] == "lowers"
    assert row(built, "none", "lrp", "depth")["verdict"] == "undecided"


def test_the_order_of_methods(built):
    methods = load_study("tiny").attribution.methods
    corrected = np.arange(len(methods))
    for switch, changed in (("published", {"saliency": 50}), ("lesion_floor", {"lrp": 20}), ("channel_reduction", {})):
        switched = [place + changed.get(method, 0) for place, method in enumerate(methods)]
        found = row(built, switch, RANKING)
        assert found["switched"] == pytest.approx(stats.kendalltau(corrected, switched).statistic)
        assert found["floor"] == pytest.approx(0)  # the seeds agree on it
    assert row(built, "published", RANKING)["verdict"] == "lowers"
    assert row(built, "channel_reduction", RANKING)["verdict"] == "unchanged"


def test_intervals_are_quantiles_of_drawn_subjects(built):
    """The accuracy under dropout, by a literal loop over draws: image 0, of subject 0, is wrong."""
    rng = np.random.default_rng(1)
    counts = [np.sum(rng.integers(0, N_IMAGES // 3, N_IMAGES // 3) == 0) for _ in range(4000)]
    expected = -np.quantile(counts, [0.975, 0.025]) / N_IMAGES
    found = row(built, "dropout_active", "accuracy")
    np.testing.assert_allclose([found["low"], found["high"]], expected, atol=1e-12)
    assert protocol_effects.RESAMPLES >= 1000


def test_a_switch_of_one_method_changes_the_mean_of_all(built):
    """The mean over the methods and their order, and nothing of the methods that it does not concern."""
    n_methods = len(load_study("tiny").attribution.methods)
    assert row(built, "captum_deep_lift", "deep_lift")["difference"] == pytest.approx(0.04)
    for effect, difference in (("mean", 0.04 / n_methods), ("corpus", 0), ("depth", 0)):
        found = row(built, "captum_deep_lift", ALL_METHODS, effect)
        assert found["difference"] == pytest.approx(difference, abs=1e-12)
    quantities = built.groupby("switch")["quantity"].unique().map(set)
    assert quantities["captum_deep_lift"] == {"deep_lift", ALL_METHODS, RANKING}
    assert quantities["gradient_shap_unseeded"] == {"gradient_shap", ALL_METHODS, RANKING}
    assert quantities["signed_edges"] == {"sobel"}


def test_a_study_without_a_method_is_compared_without_its_switch(edited):
    edited(lambda settings: settings["attribution"].update(methods=["saliency", "lrp", "gradient_shap"]))
    build("tiny", {})
    switches = set(compare_protocols(load_study("tiny"), "best", [])["switch"])
    assert "captum_deep_lift" not in switches
    assert {"gradient_shap_unseeded", "mask_threshold", "signed_edges"} <= switches


def test_a_published_study_is_compared_with_nothing(edited):
    edited(lambda settings: settings.update(protocol="published"))
    build("tiny", {})
    effects = compare_protocols(load_study("tiny"), "best", [])
    assert set(effects["switch"]) == {"none"}
    assert protocol_effects.conclusions(effects)[-1].startswith("Nothing is left to compare")


def test_another_selection_is_compared_without_retrained_variants(edited):
    edited(lambda settings: settings["finetuning"].update(matching=None))
    edited(lambda settings: settings["finetuning"]["selections"].update(matched=CELLS))
    build("tiny", {})
    build("tiny+head_kept", {})
    effects = compare_protocols(load_study("tiny"), "matched", ["head_kept"])
    assert not effects["retrained"].any() and "mask_threshold" in set(effects["switch"])


# ---------------------------------------------------------------------------------------------------------------------
# the tiny study as it was run


def test_corrected_values_are_the_medians_of_the_study_and_switches_change_them(tiny):
    effects = read_table(Paths(tiny).data / "protocols.csv")
    scores = read_scores(tiny).query("metric == 'relevance_rank_accuracy' and selection == 'best'")
    images = image_list(read_table(Paths(tiny).intersections), "best", CORRECT_FOR_ALL)
    scores = scores[scores["image_index"].isin(images)]
    medians = scores.groupby(["pretraining", "finetune_depth", "method"], observed=True)["value"].median()
    rescored = effects[effects["switch"].isin(RESCORED) & (effects["effect"] == "cell")]
    rescored = rescored[rescored["quantity"].isin(scores["method"].unique())]
    assert len(rescored) > 100
    for found in rescored.itertuples():
        assert found.corrected == pytest.approx(medians[found.pretraining, found.finetune_depth, found.quantity])
    changed = set(effects.loc[effects["difference"].abs() > 0, "switch"])
    assert {"mask_threshold", "channel_reduction", "signed_edges", "dropout_active"} <= changed
