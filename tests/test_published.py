"""The reader of the authors' release and the tables from it, on small releases written here and on the real files."""

import pickle
import random
import resource
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fuzz import MUTATIONS, guarded, memory_now, peak_memory, report
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrain_xai import paths, published, run_notebook
from pretrain_xai.paths import Paths
from pretrain_xai.published import Release, read_release
from pretrain_xai.published import tables as published_tables
from pretrain_xai.published.files import METHODS, ReleaseError, parse_model_name, selection_of
from release import RELEASE
from sklearn.metrics import roc_auc_score

needs_release = pytest.mark.skipif(not RELEASE.is_dir(), reason=f"needs the authors' release in {RELEASE}")

N_IMAGES = 20
SEED = 50_000
#: as the two notebooks of the authors spell them
COUNT_METHODS = ["gradient", "gradshap", "deeplift", "saliency", "inputXGrad", "backprop", "deconv", "LRP"]
RATIO_METHODS = ["gradient", "gradientshap", "deeplift", "saliency", "InputXGradient", "backprop", "deconv", "LRP"]
N_MUTATED = 2 * MUTATIONS


# ---------------------------------------------------------------- a small release


def _names(corpora=("img", "MRI_new"), seeds=(23548, 116560000, 58461)) -> list[str]:
    blocks = ["1conv", "2conv", "3conv", "4conv", "all"]
    momenta = ["0.5", "0-Copy1.5", "0.5"]
    return [
        f"new_finetuning_{block}_{momentum}_{corpus}_2500_0.008_{seed}"
        for corpus in corpora
        for block in blocks
        for momentum, seed in zip(momenta, seeds, strict=True)
    ]


def _labels() -> np.ndarray:
    """Return the labels as the released code draws them."""
    state = np.random.get_state()
    labels = []
    for seed in range(SEED, SEED + N_IMAGES):
        np.random.seed(seed)
        np.random.randint(3, 6)
        labels.append(np.random.randint(0, 2))
    np.random.set_state(state)
    return np.array(labels)


def _predictions(names: list[str], rng: np.random.Generator, newer: bool) -> list[dict]:
    """Return what `to_save.pkl` holds; newer files hold more fields, tensors of predictions and numpy scalars."""
    entries = []
    for name in names:
        labels = torch.from_numpy(_labels())
        logits = torch.from_numpy(rng.normal(size=(N_IMAGES, 2)).astype("f4")) + torch.nn.functional.one_hot(labels, 2)
        predicted = logits.argmax(1)
        right = (predicted == labels).double()
        auroc = torch.tensor(roc_auc_score(labels, logits[:, 1].double() - logits[:, 0].double()))
        entry = {"model": name, "AUROC": auroc, "AUPRC": torch.tensor(0.5), "real_labels": labels, "logits": logits}
        entry |= {"block": name[15], "seed": name.split("_")[-1]}
        if newer:
            entry |= {"ACC": np.float64(right.mean()), "pred_labels": predicted, "Specificity": np.float64(0.5)}
        else:
            rates = [float(right[labels == value].mean()) for value in (0, 1)]
            entry |= {"ACC": torch.tensor(sum(rates) / 2), "pred_labels": predicted.tolist()}
        entries.append(entry)
    return entries


def _counts(rng: np.random.Generator, n: int = 12) -> dict[str, list[int]]:
    k = rng.integers(20, 60, n)
    tp = rng.integers(0, k)
    return {"TP": tp.tolist(), "TN": (1000 - 2 * k + tp).tolist(), "FN": (k - tp).tolist(), "FP": (k - tp).tolist()}


def _wrong(entry: dict) -> np.ndarray:
    return np.where(np.array(entry["pred_labels"]) != entry["real_labels"].numpy())[0]


def _contents(word: str, names: list[str], newer: bool = True) -> dict[str, object]:
    """Return the authors' files of one selection: relative path -> content."""
    rng = np.random.default_rng(1)
    entries = _predictions(names, rng, newer)
    wrong = {entry["model"]: _wrong(entry) for entry in entries if "img" in entry["model"]}
    sobel = _counts(rng)
    ratios = {
        f"{name}.pt": (
            {m: np.round(rng.random(len(images)), 2).tolist() for m in RATIO_METHODS},
            {m: [] for m in RATIO_METHODS},
        )
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
        "not_round_lesions.pkl": [[rng.random((8, 6)), np.float64(0.31)] for _ in range(3)],
    }


def _write(folder: Path, contents: dict[str, object]) -> Path:
    for file, content in contents.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(pickle.dumps(content, 4))
    return folder


@pytest.fixture(scope="module")
def same(tmp_path_factory) -> Release:
    """Return a release of the selection that is not in the files at hand, with MRI models and model scores."""
    return read_release(_write(tmp_path_factory.mktemp("same"), _contents("same", _names())))


def test_notebook_14_reads_a_release_and_says_what_it_lacks(root):
    """As `make published` does."""
    _write(root / "release", _contents("best", _names()))
    notebook, output = paths.NOTEBOOKS / "14_published.ipynb", root / "out.ipynb"
    assert run_notebook.main([str(notebook), str(output), "-p", "folder", "release"]) == 0
    made = {file.name for file in Paths("published").figures.rglob("*")}
    assert {"explanations_best.png", "misclassified_best.png", "problems.csv", "side_by_side.csv"} <= made


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("new_finetuning_4conv_0.5_img_2500_0.008_32323548", ("imagenet", 4, 0.008, 0.5, 2500, 32323548, False)),
        (
            "new_finetuning_all_0-Copy1.5_MRI_new_2500_0.038_116560000.pt",
            ("mri", 5, 0.038, 0.5, 2500, 116560000, False),
        ),
        ("zz_new_finetuning_1conv_0.9_MRI_500_0.02_6497", ("mri", 1, 0.02, 0.9, 500, 6497, True)),
        ("zz_finetuning_2conv_0.5_img_2500_1_0-Copy2.pt", ("imagenet", 2, 1.0, 0.5, 2500, 0, True)),
    ],
)
def test_model_names(name, expected):
    parsed = parse_model_name(name)
    assert parsed.model == name.removesuffix(".pt")
    found = (parsed.pretraining, parsed.finetune_depth, parsed.learning_rate, parsed.momentum, parsed.n_slices)
    assert (*found, parsed.seed, parsed.set_aside) == expected


@pytest.mark.parametrize("name", ["", "vgg16.pt", "new_finetuning_5conv_0.5_img_2500_0.008_1", "a" * 10**6])
def test_other_names_are_refused(name):
    with pytest.raises(ReleaseError, match="is no model name of the authors; expected"):
        parse_model_name(name)


@settings(deadline=None)
@given(
    blocks=st.sampled_from(["1conv", "2conv", "3conv", "4conv", "all"]),
    corpus=st.sampled_from(["img", "MRI", "MRI_new", "img_new"]),
    rate=st.decimals(0, 1, places=4),
    seed=st.integers(0, 10**17),
    ending=st.sampled_from(["", ".pt"]),
)
def test_every_name_of_the_pattern_is_read(blocks, corpus, rate, seed, ending):
    parsed = parse_model_name(f"new_finetuning_{blocks}_0.5_{corpus}_2500_{rate}_{seed}{ending}")
    assert (parsed.seed, parsed.learning_rate) == (seed, float(rate))
    assert parsed.pretraining == ("mri" if "MRI" in corpus else "imagenet")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("saves/Imagenet/best/to_save.pkl", "best"),
        ("new results/same_random_explanations.pkl", "matched"),
        ("best/save/metrics_same.pkl", "matched"),
        ("2500/done_same_acc/saves/to_save.pkl", "matched"),
        ("results/to_save.pkl", None),
        ("bestiary/samedi.pkl", None),
    ],
)
def test_selections(file, expected):
    assert selection_of(Path(file)) == expected


# ---------------------------------------------------------------- reading


def test_the_other_selection_is_read_in_full(same):
    assert same.problems.empty
    assert set(same.files["kind"]) == {
        "predictions", "misclassified", "ratios", "models", "untrained network", "edge filter", "lesions",
    }  # fmt: skip
    assert len(same.predictions) == 30 * N_IMAGES
    assert set(same.predictions["selection"]) == {"matched"}
    assert same.predictions.groupby("pretraining")["model"].nunique().to_dict() == {"imagenet": 15, "mri": 15}
    assert sorted(same.predictions["finetune_depth"].unique()) == [1, 2, 3, 4, 5]
    assert same.confusion["source"].nunique() == 30 + 3
    models = same.confusion.query("pretraining != 'none'")
    assert set(models["source"]) == set(same.predictions["model"])
    assert set(models["method"]) == set(METHODS.values())
    assert set(same.lesions["label"]) == {1}


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
            for column in ("tp", "fp", "fn", "tn"):
                assert found[column].tolist() == counts[column.upper()]
    for name, (ratios, _) in contents["saves/Imagenet/same/ratios_incorrectly.pkl"].items():
        rows = same.incorrect_ratios[same.incorrect_ratios["model"] == name.removesuffix(".pt")]
        for method, values in ratios.items():
            assert rows[rows["method"] == METHODS[method.lower()]]["value"].tolist() == values


def test_names_and_places_of_files_do_not_matter(tmp_path, same):
    contents = _contents("same", _names())
    moved = {
        f"anywhere/same {number} {Path(file).stem}.pkl": content
        for number, (file, content) in enumerate(contents.items())
    }
    moved = {
        file.replace("to_save", "x").replace("metrics", "y").replace("incorrectly", "z"): c for file, c in moved.items()
    }
    release = read_release(_write(tmp_path, moved))
    for table in ("predictions", "stored_metrics", "misclassified", "incorrect_ratios", "confusion", "lesions"):
        columns = list(getattr(same, table))
        pd.testing.assert_frame_equal(
            getattr(release, table).sort_values(columns, ignore_index=True),
            getattr(same, table).sort_values(columns, ignore_index=True),
        )


def test_one_bad_file_of_each_sort_leaves_the_rest(tmp_path):
    contents = _contents("best", _names())
    _write(tmp_path, contents)
    (tmp_path / "best/save/metrics_best.pkl").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 9\n")
    sobel = tmp_path / "new results/sobel_best.pkl"
    sobel.write_bytes(sobel.read_bytes()[:-30])
    (tmp_path / "gone_best.pkl").symlink_to(tmp_path / "nowhere")
    _write(tmp_path, {"slices_same.pkl": ([1], [2], [3]), "saves/same/odd.pkl": {"vgg16": np.arange(3)}})
    _write(tmp_path, {"unknown/to_save.pkl": contents["saves/all/best/to_save.pkl"], ".git/best.pkl": []})
    _write(tmp_path, {"again/best/to_save.pkl": contents["saves/all/best/to_save.pkl"]})
    release = read_release(tmp_path)
    problems = release.problems.set_index("file")["what"]
    assert problems.str.contains("\n").sum() == 0
    assert "git lfs pull" in problems["best/save/metrics_best.pkl"]
    assert "truncated" in problems["new results/sobel_best.pkl"]
    assert "no such file" in problems["gone_best.pkl"]
    assert "none of the known kinds" in problems["slices_same.pkl"]
    assert "no model name" in problems["saves/same/odd.pkl"]
    assert "neither its name nor a folder says" in problems["unknown/to_save.pkl"]
    assert "as is again/best/to_save.pkl" in problems["saves/all/best/to_save.pkl"]
    assert len(problems) == 7
    assert len(release.predictions) == 30 * N_IMAGES
    assert set(release.confusion["source"]) == {"untrained", "laplace"}
    missing = published_tables.missing_files(release).query("file.str.contains('best')")
    assert set(missing["file"]) == {"metrics_best.pkl", "sobel_best.pkl"}


def test_a_folder_without_a_release_is_one_clear_line(tmp_path):
    for folder, what in ((tmp_path, "holds no pickle"), (tmp_path / "absent", "is no folder")):
        with pytest.raises(ReleaseError, match=rf"^{folder}: {what}; bring .*git clone https") as caught:
            read_release(folder)
        assert "\n" not in str(caught.value)


def test_large_files_are_not_opened(tmp_path):
    with (tmp_path / "slices_best.pkl").open("wb") as file:
        file.truncate(2**33)
    assert "larger than any result file" in read_release(tmp_path).problems["what"].item()


@pytest.mark.parametrize(
    ("file", "change", "what"),
    [
        ("to_save", lambda x: x[0].update(pred_labels=[2] * N_IMAGES), "predicted: values outside 0 to 1"),
        ("to_save", lambda x: x[0].update(pred_labels=[0.0] * N_IMAGES), "expected a row of whole numbers"),
        ("to_save", lambda x: x[0].update(pred_labels=[0]), "columns of unequal length"),
        ("to_save", lambda x: x[0].update(logits=torch.full((N_IMAGES, 2), torch.nan)), "logit_0: values outside"),
        ("to_save", lambda x: x[0].update(logits=torch.zeros(N_IMAGES, 3)), "expected an array of shape"),
        ("to_save", lambda x: x[0].pop("logits"), "none of the known kinds"),
        ("to_save", lambda x: x[1].pop("logits"), "lacks some of the rows"),
        ("to_save", lambda x: x[0].update(AUROC=None), "auroc: holds something else"),
        ("ratios", lambda x: next(iter(x.values()))[0].update(gradient=[1.5]), "value: values outside 0.0 to 1.0"),
        ("ratios", lambda x: next(iter(x.values()))[0].update(magic=[1.0]), "'magic' is no XAI method of the study"),
        ("metrics", lambda x: next(iter(x.values()))["LRP"].update(TP=[-1] * 12), "tp: values outside"),
        ("metrics", lambda x: next(iter(x.values()))["LRP"].update(TP=["1"] * 12), "something else than numbers"),
        ("incorrectly", lambda x: x.update({next(iter(x)): np.zeros((2, 2), int)}), "found 2-d"),
        ("incorrectly", lambda x: x.clear(), "none of the known kinds"),
        ("lesions", lambda x: x[0].__setitem__(0, np.zeros(3)), "no 2-d array"),
    ],
)
def test_contents_that_cannot_be_are_refused(tmp_path, file, change, what):
    contents = {name: content for name, content in _contents("best", _names()).items() if file in name}
    change(next(iter(contents.values())))
    assert what in read_release(_write(tmp_path, contents)).problems["what"].item()


def test_shared_lists_cannot_make_more_rows_than_bytes(tmp_path):
    counts = dict.fromkeys(("TP", "FP", "FN", "TN"), [0] * 1000)
    names = [f"finetuning_all_0.5_img_1_1_{seed}" for seed in range(2000)]
    contents = {"best/a.pkl": {name: dict.fromkeys(COUNT_METHODS, counts) for name in names}}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "more rows than its" in read_release(_write(tmp_path, contents)).problems["what"].item()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB; the rows would take 1 GB


# ---------------------------------------------------------------- mutated files


def _mutate(content: bytes, rng: random.Random) -> bytes:
    mutated = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place = rng.randrange(len(mutated))
        action = rng.randrange(7)
        if action == 0:
            mutated[place] = rng.randrange(256)
        elif action == 1:
            mutated[place] ^= 1 << rng.randrange(8)
        elif action == 2:
            del mutated[place : place + rng.randrange(1, 9)]
        elif action == 3:
            mutated[place:place] = rng.randbytes(rng.randrange(1, 9))
        elif action == 4:
            mutated[place : place + 4] = rng.choice((b"\xff\xff\xff\x7f", b"\x00\x00\x00\x40", b"\xff\xff\xff\xff"))
        elif action == 5:
            start = rng.randrange(len(mutated))
            mutated[place:place] = mutated[start : start + rng.randrange(60)]
        else:
            del mutated[place:]
        mutated = mutated or bytearray(b"\x80")
    return bytes(mutated)


def _check_frames(release: Release) -> None:
    """Check that every table holds possible values only."""
    for rows in (release.predictions, release.misclassified, release.incorrect_ratios, release.confusion):
        assert rows.notna().all(axis=None)
    assert release.predictions[["label", "predicted"]].isin([0, 1]).all(axis=None)
    assert np.isfinite(release.predictions[["logit_0", "logit_1"]].to_numpy(float)).all()
    assert release.incorrect_ratios["value"].between(0, 1).all()
    assert (release.confusion[["tp", "fp", "fn", "tn"]] >= 0).all(axis=None)
    for rows in (release.predictions, release.confusion):
        assert rows["finetune_depth"].between(0, 5).all()
        assert rows["selection"].isin(["best", "matched"]).all()


@pytest.mark.parametrize("kind", ["to_save", "older", "classified", "ratios", "metrics", "random", "sobel", "lesions"])
def test_mutated_copies_are_read_or_refused_and_do_no_harm(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(published, "_check_new", lambda *_: None)  # all copies are about the same models
    names = _names(corpora=("img",), seeds=(1, 2, 3))[:1]
    contents = _contents("best", names, newer=kind != "older")
    wanted = "to_save" if kind == "older" else kind
    (original,) = (pickle.dumps(content, 4) for file, content in contents.items() if wanted in file)
    rng = random.Random(kind)
    for number in range(N_MUTATED):
        (tmp_path / f"best_sobel_{number:04}.pkl").write_bytes(_mutate(original, rng))
    before, started = memory_now(), time.process_time()
    with guarded(N_MUTATED * 0.05):
        release = read_release(tmp_path)
    seconds, memory = time.process_time() - started, max(0, peak_memory() - before)
    assert memory < 300_000  # kB
    report(
        inputs=N_MUTATED,
        refused=len(release.problems),
        slowest_s=round(seconds / N_MUTATED, 4),  # on average, as they are read together
        memory_mb=memory // 1000,
    )
    files = [*release.files["file"], *release.problems["file"]]
    assert sorted(files) == sorted(path.name for path in tmp_path.iterdir())
    assert release.problems["what"].str.len().max() < 400
    assert not release.problems["what"].str.contains("\n").any()
    assert min(len(release.files), len(release.problems)) > N_MUTATED / 100, "mutations are too weak or too strong"
    _check_frames(release)


#: values of other types and shapes than any place in the files expects
ODD = [
    None,
    True,
    -1,
    2**63,
    1.5,
    float("nan"),
    "",
    "best",
    b"x",
    [],
    (),
    {},
    [None],
    [[1, 2]],
    ["a"],
    {"TP": [1]},
    {"a": {}},
]
ODD += [np.zeros(0), np.zeros((2, 2)), np.array(["a"]), np.array(5), np.array([True]), np.float64(1), torch.zeros(2)]


def _places(content: object, place: tuple = ()) -> list[tuple]:
    """Return the way to every value of nested content, into the first few items of long lists."""
    found = [place]
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content[:4])
        if isinstance(content, list | tuple)
        else ()
    )
    for key, value in items:
        found += _places(value, (*place, key))
    return found


def _replaced(content: object, place: tuple, value: object) -> object:
    if not place:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[place[0]] = _replaced(content[place[0]], place[1:], value)
    return tuple(copy) if isinstance(content, tuple) else copy


def test_files_with_odd_values_anywhere_are_read_or_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "_check_new", lambda *_: None)
    rng = random.Random(0)
    originals = list(_contents("best", _names(("img",))[:2]).values())
    files = {}
    for number in range(1000):
        content = rng.choice(originals)
        for _ in range(rng.choice((1, 1, 2))):
            content = _replaced(content, rng.choice(_places(content)), rng.choice(ODD))
        files[f"best_sobel_{number:04}.pkl"] = content
    release = read_release(_write(tmp_path, files))
    assert len(release.files) + len(release.problems) == len(files)
    assert len(release.files) > 20
    assert not release.problems["what"].str.contains("damaged|\n").any(), "every value is checked for what it is"
    _check_frames(release)


# ---------------------------------------------------------------- tables, against literal loops


def test_intersections_equal_a_loop(same):
    found = published_tables.intersections(same.predictions).set_index("pretraining")
    for corpus, rows in [("all", same.predictions), *same.predictions.groupby("pretraining")]:
        right = {image: [] for image in range(N_IMAGES)}
        for row in rows.itertuples():
            right[row.image_index].append(row.label == row.predicted)
        assert found.loc[corpus, "correct_by_all"] == sum(all(each) for each in right.values())
        assert found.loc[corpus, "wrong_by_all"] == sum(not any(each) for each in right.values())
        assert found.loc[corpus, "n_models"] == (30 if corpus == "all" else 15)


def test_rates_equal_a_loop_and_are_the_right_way_round(same):
    for row in published_tables.classification_metrics(same.predictions).itertuples():
        rows = same.predictions[same.predictions["model"] == row.model]
        pairs = list(zip(rows["label"], rows["predicted"], strict=True))
        assert row.sensitivity == pairs.count((1, 1)) / (pairs.count((1, 1)) + pairs.count((1, 0)))
        assert row.specificity == pairs.count((0, 0)) / (pairs.count((0, 0)) + pairs.count((0, 1)))
        assert (row.printed_specificity, row.printed_sensitivity) == (row.sensitivity, row.specificity)
        assert row.accuracy == np.mean([a == b for a, b in pairs])
        score = (rows["logit_1"] - rows["logit_0"]).to_numpy()
        ordered = [(a < b) + (a == b) / 2 for a in score[rows["label"] == 0] for b in score[rows["label"] == 1]]
        assert row.auroc == pytest.approx(np.mean(ordered), abs=1e-12)


def test_a_changed_logit_shows_as_a_difference(tmp_path):
    contents = {k: v for k, v in _contents("best", _names()).items() if "to_save" in k}
    entries = next(iter(contents.values()))
    release = read_release(_write(tmp_path, contents))
    classification = published_tables.classification_metrics(release.predictions)
    differences = published_tables.differences_from_stored(classification, release.stored_metrics)
    assert differences[["auroc", "accuracy"]].abs().max(axis=None) < 1e-6
    entries[0]["logits"][0] *= -100
    changed = read_release(_write(tmp_path, contents))
    classification = published_tables.classification_metrics(changed.predictions)
    differences = published_tables.differences_from_stored(classification, changed.stored_metrics)
    assert (differences["auroc"].abs() > 1e-3).sum() == 1


def test_older_files_state_the_mean_of_both_rates(tmp_path):
    contents = {k: v for k, v in _contents("best", _names(), newer=False).items() if "to_save" in k}
    release = read_release(_write(tmp_path, contents))
    classification = published_tables.classification_metrics(release.predictions)
    differences = published_tables.differences_from_stored(classification, release.stored_metrics)
    assert differences["balanced_accuracy"].abs().max() < 1e-6


def test_lists_of_misclassified_images_are_compared_image_by_image(tmp_path):
    contents = _contents("best", _names())
    lists = contents["saves/Imagenet/best/incorrectly_classified.pkl"]
    changed = next(name for name, images in lists.items() if len(images))
    lists[changed] = lists[changed] + 1
    emptied = next(name for name, images in lists.items() if len(images) and name != changed)
    lists[emptied] = lists[emptied][:0]
    release = read_release(_write(tmp_path, contents))
    found = published_tables.misclassified_agreement(release.predictions, release.misclassified)
    assert len(found) == 15
    assert set(found[~found["equal"]]["model"]) == {changed, emptied}


def test_copies_are_detected_not_assumed(tmp_path, same):
    assert published_tables.equal_counts(same).empty
    contents = _contents("best", _names())
    found = published_tables.equal_counts(read_release(_write(tmp_path, contents)))
    assert found[["selection", "map", "equal_to", "equal_bytes"]].values.tolist() == [
        ["best", "laplace", "sobel", True]
    ]
    (tmp_path / "new results/laplace_best.pkl").write_bytes(pickle.dumps(contents["new results/laplace_best.pkl"], 3))
    found = published_tables.equal_counts(read_release(tmp_path))
    assert found["equal_bytes"].tolist() == [False]
    contents["new results/laplace_best.pkl"] = contents["new results/laplace_best.pkl"] | {"TP": list(range(12))}
    assert published_tables.equal_counts(read_release(_write(tmp_path, contents))).empty


def test_tied_rows_are_those_where_both_shares_differ(tmp_path):
    contents = {k: v for k, v in _contents("best", _names()).items() if "sobel" in k}
    counts = next(iter(contents.values()))
    for image in (2, 7):
        counts["FP"][image] -= 1
        counts["TN"][image] += 1
    found = published_tables.tied_rows(read_release(_write(tmp_path, contents)).confusion)
    assert found[["n_images", "n_tied"]].values.tolist() == [[12, 2]]


def test_labels_of_seeds_are_the_released_draws():
    np.testing.assert_array_equal(published_tables.labels_of_seeds(N_IMAGES, SEED), _labels())
    assert published_tables.labels_of_seeds(0).shape == (0,)


def test_medians_pool_models_and_images(same):
    found = published_tables.explanation_medians(same.confusion).set_index(["pretraining", "finetune_depth", "method"])
    for key, rows in same.confusion.groupby(["pretraining", "finetune_depth", "method"]):
        values = [row.tp / (row.tp + row.fn) for row in rows.itertuples()]
        assert found.loc[key, "median"] == np.median(values)
        assert found.loc[key, "n_models"] == (1 if key[0] == "none" else 3)
    chance = published_tables.explanation_scores(same.confusion)["chance"]
    assert chance.between(0.02, 0.06).all()


def test_side_by_side_names_models_and_missing_files(same):
    table = published_tables.side_by_side(same)
    assert len(table) == 5 * 20 + 168
    matched = table.query("selection == 'matched'")
    assert matched["recomputed"].notna().all()
    assert (matched["models"] == "23548 58461 116560000").all()
    assert (matched["note"] == "from 3 models").all()
    best = table.query("selection == 'best'")
    assert best["recomputed"].isna().all()
    assert best["note"].str.startswith("not released: ").all()
    assert best.query("table == 'explanation' and pretraining == 'mri'")["note"].str.contains("metrics_best.pkl").all()
    cell = matched.query("pretraining == 'mri' and finetune_depth == 2 and metric == 'auroc'")
    rows = published_tables.classification_metrics(same.predictions).query(
        "pretraining == 'mri' and finetune_depth == 2"
    )
    assert cell["recomputed"].item() == pytest.approx(rows["auroc"].mean())
    assert cell["difference"].item() == pytest.approx(rows["auroc"].mean() - 0.9673)


def test_the_packaged_numbers_are_complete():
    classification = pd.read_csv(published_tables.NUMBERS / "classification.csv")
    medians = pd.read_csv(published_tables.NUMBERS / "explanation_medians.csv")
    assert len(classification) == 2 * 2 * 5
    assert not classification.duplicated(published_tables.CELL).any()
    assert len(medians) == 8 * (2 * 2 * 5 + 1)
    assert set(medians["method"]) == set(METHODS.values())
    # a swap of the two rates would leave their mean, the accuracy, but the accuracy must lie between them
    middle = (classification["sensitivity"] + classification["specificity"]) / 2
    assert (middle - classification["accuracy"]).abs().max() < 2e-4


@pytest.mark.parametrize("kinds", list(combinations(["to_save", "incorrectly", "ratios", "metrics", "sobel"], 1)))
def test_every_table_can_be_made_from_any_part_of_a_release(tmp_path, kinds):
    contents = {k: v for k, v in _contents("best", _names()).items() if any(kind in k for kind in kinds)}
    release = read_release(_write(tmp_path, contents))
    classification = published_tables.classification_metrics(release.predictions)
    published_tables.differences_from_stored(classification, release.stored_metrics)
    published_tables.intersections(release.predictions)
    published_tables.misclassified_agreement(release.predictions, release.misclassified)
    published_tables.incorrect_medians(release.incorrect_ratios)
    published_tables.tied_rows(release.confusion)
    published_tables.equal_counts(release)
    published_tables.label_agreement(release.predictions)
    assert len(published_tables.side_by_side(release)) == 268
    assert len(published_tables.missing_files(release)) > 8


# ---------------------------------------------------------------- the authors' files


@pytest.fixture(scope="module")
def real() -> Release:
    return read_release(RELEASE)


@needs_release
def test_the_released_files_are_read_in_full(real):
    assert real.problems.empty
    assert len(real.predictions) == 25 * 8539
    assert (real.predictions.groupby("finetune_depth")["model"].nunique() == 5).all()
    assert len(real.confusion) == 10 * 3681
    assert real.incorrect_ratios["model"].nunique() == 25


@needs_release
def test_released_metrics_lists_and_labels_recompute(real):
    classification = published_tables.classification_metrics(real.predictions)
    differences = published_tables.differences_from_stored(classification, real.stored_metrics)
    assert len(differences) == 25
    assert differences[["auroc", "auprc", "balanced_accuracy"]].abs().max(axis=None) < 1e-6
    counts = published_tables.intersections(real.predictions).query("pretraining == 'imagenet'")
    assert counts[["n_models", "n_images", "correct_by_all", "wrong_by_all"]].values.tolist() == [[25, 8539, 4574, 7]]
    lists = published_tables.misclassified_agreement(real.predictions, real.misclassified)
    assert lists["equal"].tolist() == [True] * 25
    assert (published_tables.label_agreement(real.predictions)["n_equal"] == 8539).all()


@needs_release
def test_released_medians_recompute(real):
    misclassified = published_tables.incorrect_medians(real.incorrect_ratios).loc[("best", "imagenet")]
    expected = {
        "integrated_gradients": [0.14, 0.31, 0.38, 0.39, 0.45],
        "guided_backprop": [0.04, 0.10, 0.17, 0.265, 0.30],
        "lrp": [0.15, 0.34, 0.41, 0.42, 0.47],
        "input_x_gradient": [0.15, 0.34, 0.41, 0.42, 0.47],
    }
    for method, medians in expected.items():
        assert misclassified.loc[method].tolist() == pytest.approx(medians, abs=1e-6)
    untrained = published_tables.explanation_medians(real.confusion).set_index("method")["median"]
    exact = {
        "integrated_gradients": 0.18714286,
        "gradient_shap": 0.18667401,
        "deep_lift": 0.18641811,
        "saliency": 0.08258775,
        "input_x_gradient": 0.18634686,
        "guided_backprop": 0.17288408,
        "deconvolution": 0.10493827,
        "lrp": 0.18667592,
    }
    assert untrained[list(exact)].to_dict() == pytest.approx(exact, abs=1e-8)
    side = published_tables.side_by_side(real).query("pretraining == 'none'")
    assert side["difference"].abs().max() <= 0.002


@needs_release
def test_the_released_sobel_file_is_a_copy(real):
    found = published_tables.equal_counts(real)
    assert found.values.tolist() == [["best", "laplace", "sobel", 3681, True]]
    ties = published_tables.tied_rows(real.confusion).set_index("method")["n_tied"]
    assert ties[["sobel", "laplace"]].tolist() == [11, 11]
    assert ties.drop(["sobel", "laplace"]).sum() == 0
