"""The reader of the authors' release and the tables from it, on small releases written here and on the real files."""

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import DAMAGE, WITHIN_A_TEST, damaged
from hypothesis import given
from hypothesis import strategies as st
from pretrain_xai import paths, run_notebook
from pretrain_xai.paths import Paths
from pretrain_xai.published import Release, compare, read_release
from pretrain_xai.published.read import METHODS, model_columns, selection_of
from pretrain_xai.safe_pickle import ReleaseError
from release import RELEASE
from sklearn.metrics import roc_auc_score

needs_release = pytest.mark.skipif(not RELEASE.is_dir(), reason=f"needs the authors' release in {RELEASE}")
N_IMAGES = 20
#: as the two notebooks of the authors spell them
COUNT_METHODS = ["gradient", "gradshap", "deeplift", "saliency", "inputXGrad", "backprop", "deconv", "LRP"]
RATIO_METHODS = ["gradient", "gradientshap", "deeplift", "saliency", "InputXGradient", "backprop", "deconv", "LRP"]


# ---------------------------------------------------------------- a small release


def _names(corpora=("img", "MRI_new"), seeds=(23548, 116560000, 58461)) -> list[str]:
    return [
        f"new_finetuning_{block}_{momentum}_{corpus}_2500_0.008_{seed}"
        for corpus in corpora
        for block in ("1conv", "2conv", "3conv", "4conv", "all")
        for momentum, seed in zip(["0.5", "0-Copy1.5", "0.5"], seeds, strict=True)
    ]


def _predictions(names: list[str], rng: np.random.Generator) -> list[dict]:
    """Return what `to_save.pkl` holds; predictions are tensors or lists, single numbers tensors or numpy's."""
    entries = []
    for name in names:
        labels = torch.tensor([compare.label_of_seed(50_000 + image) for image in range(N_IMAGES)])
        logits = torch.from_numpy(rng.normal(size=(N_IMAGES, 2)).astype("f4")) + torch.nn.functional.one_hot(labels, 2)
        predicted = logits.argmax(1)
        auroc = torch.tensor(roc_auc_score(labels, logits[:, 1].double() - logits[:, 0].double()))
        entry = {"model": name, "AUROC": auroc, "AUPRC": 0.5, "ACC": np.float64((predicted == labels).double().mean())}
        predicted = predicted if len(entries) % 2 else predicted.tolist()
        entries.append(entry | {"real_labels": labels, "pred_labels": predicted, "logits": logits, "block": name[15]})
    return entries


def _counts(rng: np.random.Generator, n: int = 12) -> dict[str, list[int]]:
    k = rng.integers(20, 60, n)
    tp = rng.integers(0, k)
    return {"TP": tp.tolist(), "TN": (1000 - 2 * k + tp).tolist(), "FN": (k - tp).tolist(), "FP": (k - tp).tolist()}


def _contents(word: str, names: list[str]) -> dict[str, object]:
    """Return the authors' files of one selection: relative path -> content."""
    rng = np.random.default_rng(1)
    entries = _predictions(names, rng)
    wrong = {
        entry["model"]: np.flatnonzero(np.array(entry["pred_labels"]) != entry["real_labels"].numpy())
        for entry in entries
        if "img" in entry["model"]
    }
    sobel, empty = _counts(rng), {method: [] for method in RATIO_METHODS}
    ratios = {
        f"{name}.pt": ({m: np.round(rng.random(len(images)), 2).tolist() for m in RATIO_METHODS}, empty)
        for name, images in wrong.items()
    }
    return {
        f"saves/all/{word}/to_save.pkl": entries,
        f"saves/Imagenet/{word}/incorrectly_classified.pkl": wrong,
        f"saves/Imagenet/{word}/ratios_incorrectly.pkl": ratios,
        f"{word}/save/metrics_{word}.pkl": {f"{n}.pt": {m: _counts(rng) for m in COUNT_METHODS} for n in names},
        f"new results/{word}_random_explanations.pkl": {m: _counts(rng) for m in COUNT_METHODS},
        f"new results/sobel_{word}.pkl": sobel,
        f"new results/laplace_{word}.pkl": sobel if word == "best" else _counts(rng),
        "not_round_lesions.pkl": "no result: left alone",
    }


def _write(folder: Path, contents: dict[str, object]) -> Path:
    for file, content in contents.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(pickle.dumps(content, 4))
    return folder


def _part(word: str) -> dict[str, object]:
    """Return the files of the selection best with this word in their name."""
    return {file: content for file, content in _contents("best", _names()).items() if word in file}


@pytest.fixture(scope="module")
def same(tmp_path_factory) -> Release:
    """Return a release of the selection that is not in the files at hand, with MRI models, under names of no meaning.

    Which edge filter a file is about is read off its name, all else is not.
    """
    keep = ("sobel", "laplace", "not_round_lesions", "")
    contents = {
        f"anywhere/same {number} {next(word for word in keep if word in file)}.pkl": content
        for number, (file, content) in enumerate(_contents("same", _names()).items())
    }
    return read_release(_write(tmp_path_factory.mktemp("same"), contents))


def test_the_notebook_reads_a_release_and_says_what_it_lacks(root):
    """As `make published` does."""
    _write(root / "release", _contents("best", _names()))
    notebook, output = paths.NOTEBOOKS / "19_published.ipynb", root / "out.ipynb"
    assert run_notebook.main([str(notebook), str(output), "-p", "folder", "release"]) == 0
    made = {file.name for file in Paths("published").figures.rglob("*")}
    assert {"explanations_best.png", "misclassified_best.png", "problems.csv", "side_by_side.csv"} <= made


# ---------------------------------------------------------------- names


MODEL_NAMES = [
    ("new_finetuning_4conv_0.5_img_2500_0.008_32323548", ("imagenet", 4, 32323548)),
    ("new_finetuning_all_0-Copy1.5_MRI_new_2500_0.038_116560000.pt", ("mri", 5, 116560000)),
    ("zz_new_finetuning_1conv_0.9_MRI_500_0.02_6497", ("mri", 1, 6497)),
    ("zz_finetuning_2conv_0.5_img_2500_1_0-Copy2.pt", ("imagenet", 2, 0)),
]


@pytest.mark.parametrize(("name", "expected"), MODEL_NAMES)
def test_model_names(name, expected):
    columns = ("model", "pretraining", "finetune_depth", "seed")
    assert model_columns(name) == dict(zip(columns, (name.removesuffix(".pt"), *expected), strict=True))


def test_the_innermost_name_says_the_selection():
    matched = ["new results/same_random.pkl", "best/save/metrics_same.pkl", "2500/done_same_acc/saves/to_save.pkl"]
    assert {selection_of(Path(file)) for file in matched} == {"matched"}
    assert selection_of(Path("saves/Imagenet/best/to_save.pkl")) == "best"
    assert selection_of(Path("results/to_save.pkl")) is selection_of(Path("bestiary/samedi.pkl")) is None


# ---------------------------------------------------------------- reading


def test_the_other_selection_is_read_in_full(same):
    assert same.problems.empty
    kinds = {"predictions", "misclassified", "ratios", "models", "untrained network", "edge filter"}
    assert set(same.files["kind"]) == kinds
    assert len(same.predictions) == 30 * N_IMAGES and set(same.predictions["selection"]) == {"matched"}
    assert same.predictions.groupby("pretraining")["model"].nunique().to_dict() == {"imagenet": 15, "mri": 15}
    assert set(same.confusion["source"]) == {"untrained", "sobel", "laplace", *same.predictions["model"]}
    assert set(same.confusion.query("pretraining != 'none'")["method"]) == set(METHODS.values())


def test_the_frames_hold_what_the_files_hold(same):
    contents = _contents("same", _names())
    for entry in contents["saves/all/same/to_save.pkl"]:
        rows = same.predictions[same.predictions["model"] == entry["model"]]
        np.testing.assert_array_equal(rows[["logit_0", "logit_1"]].to_numpy(), entry["logits"].double().numpy())
        np.testing.assert_array_equal(rows["predicted"], entry["pred_labels"])
        np.testing.assert_array_equal(rows["image_index"], np.arange(N_IMAGES))
    for name, methods in contents["same/save/metrics_same.pkl"].items():
        rows = same.confusion[same.confusion["source"] == name.removesuffix(".pt")]
        for method, counts in methods.items():
            found = rows[rows["method"] == METHODS[method.lower()]]
            assert all(found[name.lower()].tolist() == values for name, values in counts.items())
    for name, (ratios, _) in contents["saves/Imagenet/same/ratios_incorrectly.pkl"].items():
        rows = same.incorrect_ratios[same.incorrect_ratios["model"] == name.removesuffix(".pt")]
        for method, values in ratios.items():
            assert rows[rows["method"] == METHODS[method.lower()]]["value"].tolist() == values


def test_one_bad_file_of_each_sort_leaves_the_rest(tmp_path):
    contents = _contents("best", _names())
    _write(tmp_path, contents)
    (tmp_path / "best/save/metrics_best.pkl").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 9\n")
    sobel = tmp_path / "new results/sobel_best.pkl"
    sobel.write_bytes(sobel.read_bytes()[:-30])
    (tmp_path / "gone_best.pkl").symlink_to(tmp_path / "nowhere")
    entries = contents["saves/all/best/to_save.pkl"]
    _write(tmp_path, {"slices_same.pkl": ([1], [2], [3]), "saves/same/odd.pkl": {"vgg16": np.arange(3)}})
    _write(tmp_path, {"unknown/to_save.pkl": entries, "again/best/to_save.pkl": entries, ".git/best.pkl": []})
    release = read_release(tmp_path)
    problems = release.problems.set_index("file")["what"]
    assert not problems.str.contains("\n").any()
    expected = {
        "best/save/metrics_best.pkl": "git lfs pull",
        "new results/sobel_best.pkl": "truncated",
        "gone_best.pkl": "no such file",
        "slices_same.pkl": "none of the known kinds",
        "saves/same/odd.pkl": "no model name",
        "unknown/to_save.pkl": "neither its name nor a folder says",
        "saves/all/best/to_save.pkl": "as is again/best/to_save.pkl",
    }
    assert set(problems.index) == set(expected)
    assert all(words in problems[file] for file, words in expected.items())
    assert len(release.predictions) == 30 * N_IMAGES and set(release.confusion["source"]) == {"untrained", "laplace"}
    missing = compare.missing_files(release).query("file.str.contains('best')")
    assert set(missing["file"]) == {"metrics_best.pkl", "sobel_best.pkl"}


def test_a_folder_without_a_release_is_one_clear_line(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ReleaseError, match=rf"^{folder}: no pickle there; git clone https.*$"):
            read_release(folder)


IMPOSSIBLE = [
    ("to_save", lambda x: x[0].update(pred_labels=[2] * N_IMAGES), "predicted: .*whole numbers from 0 to 1"),
    ("to_save", lambda x: x[0].update(pred_labels=[0]), "same length"),
    ("to_save", lambda x: x[0].update(logits=torch.zeros(N_IMAGES, 3)), "not as the authors' files"),
    ("ratios", lambda x: next(iter(x.values()))[0].update(gradient=[1.5]), "value: .*from 0.0 to 1.0"),
    ("ratios", lambda x: next(iter(x.values()))[0].update(magic=[1.0]), "'magic' is no XAI method of the study"),
    ("incorrectly_c", lambda x: x.update({next(iter(x)): np.zeros((2, 2), int)}), "image_index: expected a row"),
]


@pytest.mark.parametrize(("file", "change", "what"), IMPOSSIBLE)
def test_contents_that_cannot_be_are_refused(tmp_path, file, change, what):
    contents = _part(file)
    change(next(iter(contents.values())))
    (found,) = read_release(_write(tmp_path, contents)).problems["what"].str.contains(what)
    assert found


# ---------------------------------------------------------------- damaged files

ORIGINALS = list(_contents("best", _names()[:2]).values())
#: values of other types and shapes than any place in the files expects
ODD = [None, True, -1, 2**63, 1.5, float("nan"), "", "best", b"x", [], (), {}, [None], [[1, 2]], ["a"], {"TP": [1]}]
ODD += [{"a": {}}, np.zeros(0), np.zeros((2, 2)), np.array(["a"]), np.array(5), np.array([True]), torch.zeros(2)]


def _check_read_or_refused(folder: Path, content: bytes) -> None:
    """Check that a file gives possible values only, or one line."""
    (folder / "best_sobel.pkl").write_bytes(content)
    release = read_release(folder)
    assert len(release.files) + len(release.problems) == 1
    assert not release.problems["what"].astype(str).str.contains("\n").any()
    for rows in (release.predictions, release.misclassified, release.incorrect_ratios, release.confusion):
        assert rows.notna().all(axis=None) and rows["finetune_depth"].isin(range(6)).all()
    assert release.predictions[["label", "predicted"]].isin([0, 1]).all(axis=None)
    assert np.isfinite(release.predictions[["logit_0", "logit_1"]].to_numpy(float)).all()
    assert release.incorrect_ratios["value"].astype(float).between(0, 1).all()
    assert (release.confusion[["tp", "fp", "fn", "tn"]] >= 0).all(axis=None)


@WITHIN_A_TEST
@given(original=st.sampled_from(ORIGINALS), damage=DAMAGE)
def test_damaged_files_are_read_or_refused(tmp_path, original, damage):
    _check_read_or_refused(tmp_path, damaged(pickle.dumps(original, 4), damage))


def _with_odd_value(content: object, rng: random.Random) -> object:
    """Return nested content with another value at a random place."""
    nested = isinstance(content, dict | list | tuple) and len(content) > 0
    if not nested or rng.random() < 0.2:
        return rng.choice(ODD)
    copy = dict(content) if isinstance(content, dict) else list(content)
    key = rng.choice(list(copy)) if isinstance(content, dict) else rng.randrange(min(4, len(copy)))
    copy[key] = _with_odd_value(copy[key], rng)
    return tuple(copy) if isinstance(content, tuple) else copy


@WITHIN_A_TEST
@given(original=st.sampled_from(ORIGINALS), rng=st.randoms(use_true_random=False))
def test_files_with_odd_values_anywhere_are_read_or_refused(tmp_path, original, rng):
    _check_read_or_refused(tmp_path, pickle.dumps(_with_odd_value(original, rng), 4))


# ---------------------------------------------------------------- tables, against literal loops


def test_intersections_equal_a_loop(same):
    found = compare.intersections(same.predictions).set_index("pretraining")
    for corpus, rows in [("all", same.predictions), *same.predictions.groupby("pretraining")]:
        right = {image: [] for image in range(N_IMAGES)}
        for row in rows.itertuples():
            right[row.image_index].append(row.label == row.predicted)
        assert found.loc[corpus, "correct_by_all"] == sum(all(each) for each in right.values())
        assert found.loc[corpus, "wrong_by_all"] == sum(not any(each) for each in right.values())
        assert found.loc[corpus, "n_models"] == (30 if corpus == "all" else 15)


def test_rates_are_the_right_way_round(same):
    found = compare.metrics_by_model(same.predictions)
    rows = same.predictions[same.predictions["label"].eq(1) & same.predictions["model"].eq(found["model"].iloc[0])]
    assert found["sensitivity"].iloc[0] == found["printed_specificity"].iloc[0] == (rows["predicted"] == 1).mean()
    assert found["specificity"].equals(found["printed_sensitivity"])


def test_a_changed_logit_shows_as_a_difference(tmp_path):
    contents = _part("to_save")
    changes = []
    for factor in (1, -100):
        next(iter(contents.values()))[0]["logits"][0] *= factor
        release = read_release(_write(tmp_path, contents))
        metrics = compare.metrics_by_model(release.predictions)
        changes.append(compare.differences_from_stored(metrics, release.stored_metrics)[["auroc", "accuracy"]].abs())
    assert changes[0].max(axis=None) < 1e-6
    assert (changes[1]["auroc"] > 1e-3).sum() == 1


def test_lists_of_misclassified_images_are_compared_image_by_image(tmp_path):
    contents = _contents("best", _names())
    lists = contents["saves/Imagenet/best/incorrectly_classified.pkl"]
    changed, emptied = [name for name, images in lists.items() if len(images)][:2]
    lists[changed], lists[emptied] = lists[changed] + 1, lists[emptied][:0]
    release = read_release(_write(tmp_path, contents))
    found = compare.misclassified_agreement(release.predictions, release.misclassified)
    assert len(found) == 15
    assert set(found[~found["equal"]]["model"]) == {changed, emptied}


def test_copies_are_detected_not_assumed(tmp_path, same):
    assert compare.equal_counts(same).empty
    contents = _contents("best", _names())
    laplace = tmp_path / "new results/laplace_best.pkl"
    found = compare.equal_counts(read_release(_write(tmp_path, contents)))
    assert found.to_numpy().tolist() == [["best", "laplace", "sobel", 12, True]]
    laplace.write_bytes(pickle.dumps(contents["new results/laplace_best.pkl"], 3))
    assert compare.equal_counts(read_release(tmp_path))["equal_bytes"].tolist() == [False]
    laplace.write_bytes(pickle.dumps(contents["new results/laplace_best.pkl"] | {"TP": list(range(12))}))
    assert compare.equal_counts(read_release(tmp_path)).empty


def test_tied_rows_are_those_where_both_shares_differ(tmp_path):
    contents = _part("sobel")
    counts = next(iter(contents.values()))
    for image in (2, 7):
        counts["FP"][image] -= 1
    found = compare.tied_rows(read_release(_write(tmp_path, contents)).confusion)
    assert found[["n_images", "n_tied"]].to_numpy().tolist() == [[12, 2]]


def test_medians_pool_models_and_images(same):
    found = compare.explanation_medians(same.confusion).set_index(["pretraining", "finetune_depth", "method"])
    for key, rows in same.confusion.groupby(["pretraining", "finetune_depth", "method"]):
        assert found.loc[key, "median"] == np.median([row.tp / (row.tp + row.fn) for row in rows.itertuples()])
        assert found.loc[key, "n_models"] == (1 if key[0] == "none" else 3)
    assert compare.explanation_scores(same.confusion)["chance"].between(0.02, 0.06).all()


def test_side_by_side_names_models_and_missing_files(same):
    table = compare.side_by_side(same)
    assert len(table) == 5 * 20 + 168
    matched, best = table.query("selection == 'matched'"), table.query("selection == 'best'")
    assert (matched["models"] == "23548 58461 116560000").where(matched["pretraining"] != "none", True).all()
    assert matched["note"].isin(["from 3 models", "the untrained network"]).all()
    assert best["recomputed"].isna().all() and best["note"].str.startswith("not released: ").all()
    assert best.query("table == 'explanation' and pretraining == 'mri'")["note"].str.contains("metrics_best.pkl").all()
    cell = "pretraining == 'mri' and finetune_depth == 2"
    auroc = compare.metrics_by_model(same.predictions).query(cell)["auroc"].mean()
    row = matched.query(f"{cell} and metric == 'auroc'").iloc[0]
    assert [row["recomputed"], row["difference"]] == pytest.approx([auroc, auroc - 0.9673])


@pytest.mark.parametrize("kind", ["to_save", "incorrectly_c", "ratios", "metrics", "sobel"])
def test_every_table_can_be_made_from_any_part_of_a_release(tmp_path, kind):
    release = read_release(_write(tmp_path, _part(kind)))
    compare.differences_from_stored(compare.metrics_by_model(release.predictions), release.stored_metrics)
    compare.misclassified_agreement(release.predictions, release.misclassified)
    compare.incorrect_medians(release.incorrect_ratios)
    compare.incorrect_by_class(release)
    for table in (compare.intersections(release.predictions), compare.label_agreement(release.predictions)):
        assert len(table) == 0 or kind == "to_save"
    assert (len(compare.tied_rows(release.confusion)) > 0) == (kind in ("metrics", "sobel"))
    assert compare.equal_counts(release).empty
    assert len(compare.side_by_side(release)) == 268 and len(compare.missing_files(release)) > 8


# ---------------------------------------------------------------- the authors' files


@pytest.fixture(scope="module")
def real() -> Release:
    return read_release(RELEASE)


@needs_release
def test_released_files_are_read_in_full_and_their_metrics_lists_and_labels_recompute(real):
    assert real.problems.empty
    assert len(real.confusion) == 10 * 3681 and real.incorrect_ratios["model"].nunique() == 25
    classification = compare.metrics_by_model(real.predictions)
    assert (classification.groupby("finetune_depth").size() == 5).all()
    differences = compare.differences_from_stored(classification, real.stored_metrics)
    assert differences[["auroc", "auprc", "balanced_accuracy"]].abs().max(axis=None) < 1e-6
    counts = compare.intersections(real.predictions).query("pretraining == 'imagenet'")
    assert counts[["n_models", "n_images", "correct_by_all", "wrong_by_all"]].values.tolist() == [[25, 8539, 4574, 7]]
    lists = compare.misclassified_agreement(real.predictions, real.misclassified)
    assert lists["equal"].tolist() == [True] * 25
    assert (compare.label_agreement(real.predictions)["n_equal"] == 8539).all()


@needs_release
def test_released_medians_recompute(real):
    by_class = compare.incorrect_by_class(real).set_index(["method", "finetune_depth"])["difference"]
    assert by_class["integrated_gradients"].loc[3:].round(2).tolist() == [0.04, 0.10, 0.06]  # more of round lesions
    misclassified = compare.incorrect_medians(real.incorrect_ratios).loc[("best", "imagenet")]
    relevance = [0.15, 0.34, 0.41, 0.42, 0.47]
    expected = {"integrated_gradients": [0.14, 0.31, 0.38, 0.39, 0.45], "lrp": relevance, "input_x_gradient": relevance}
    expected["guided_backprop"] = [0.04, 0.10, 0.17, 0.265, 0.30]
    for method, medians in expected.items():
        assert misclassified.loc[method].tolist() == pytest.approx(medians, abs=1e-6)
    untrained = compare.explanation_medians(real.confusion).set_index("method")["median"]
    exact = [0.18714286, 0.18667401, 0.18641811, 0.08258775, 0.18634686, 0.17288408, 0.10493827, 0.18667592]
    assert untrained[list(dict.fromkeys(METHODS.values()))].tolist() == pytest.approx(exact, abs=1e-8)
    side = compare.side_by_side(real).query("pretraining == 'none'")
    assert side["difference"].abs().max() <= 0.002


@needs_release
def test_the_released_sobel_file_is_a_copy(real):
    found = compare.equal_counts(real)
    assert found.values.tolist() == [["best", "laplace", "sobel", 3681, True]]
    ties = compare.tied_rows(real.confusion).set_index("method")["n_tied"]
    assert ties[["sobel", "laplace"]].tolist() == [11, 11]
    assert ties.drop(["sobel", "laplace"]).sum() == 0
