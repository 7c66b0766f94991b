"""Which images are explained: those that all models classify correctly, and those that models get wrong."""

import dataclasses
from collections.abc import Collection

import numpy as np
import pandas as pd

from pretrain_xai.errors import UserError
from pretrain_xai.study import MODEL_COLUMNS, Run

#: the image lists: right for every model of a selection, wrong for every one, wrong for one model
CORRECT_FOR_ALL, WRONG_FOR_ALL, WRONG_FOR_ONE = "correct_for_all", "wrong_for_all", "wrong_for_one"


def find_intersections(predictions: pd.DataFrame, apart: Collection[Run] = ()) -> pd.DataFrame:
    """Find the images that all models of a selection get right, that all get wrong, and that each gets wrong.

    Parameters
    ----------
    predictions : DataFrame with `selection`, `pretraining`, `finetune_depth`, `seed`, `image_index`, `label`, `predicted`;
        every model of a selection must have predicted the same images.
    apart : collection of Run
        Models that do not count for what all get right or wrong, such as those that could not be matched: a weak one would
        leave few images to compare the others on. They have their own list of `wrong_for_one`. If all of a selection are
        apart, every image is right for all that count.

    Returns
    -------
    DataFrame with `selection`, `images` (correct_for_all, wrong_for_all or wrong_for_one), the columns that name the
    model (filled for wrong_for_one only) and `image_index`; sorted.

    Raises
    ------
    ValueError
        Models of one selection predicted different images.
    """
    set_apart = {dataclasses.astuple(run) for run in apart}
    lists = []
    for selection, group in predictions.groupby("selection"):
        model = pd.MultiIndex.from_frame(group[MODEL_COLUMNS])
        per_image = group.groupby("image_index")
        if (per_image.size() != model.nunique()).any() or group.duplicated([*MODEL_COLUMNS, "image_index"]).any():
            raise ValueError(f"selection {selection!r}: its models predicted different images")
        wrong = group["predicted"] != group["label"]
        counts = pd.Series(~model.isin(set_apart), group.index)
        n_wrong, n_counted = ((flags & counts).groupby(group["image_index"]).sum() for flags in (wrong, counts))
        common = {CORRECT_FOR_ALL: n_wrong == 0, WRONG_FOR_ALL: (n_wrong == n_counted) & (n_counted > 0)}
        for images, are_in in common.items():
            lists.append(pd.DataFrame({"image_index": are_in.index[are_in], "selection": selection, "images": images}))
        lists.append(group.loc[wrong, [*MODEL_COLUMNS, "image_index"]].assign(images=WRONG_FOR_ONE))
    order = ["selection", "images", *MODEL_COLUMNS[1:], "image_index"]
    table = pd.concat(lists)[order].astype({"finetune_depth": "Int64", "seed": "Int64"})
    return table.sort_values(order, ignore_index=True)


def image_list(intersections: pd.DataFrame, selection: str, images: str, run: Run | None = None) -> np.ndarray:
    """Return the sorted image indices of one list; `run` names the model of a `wrong_for_one` list."""
    chosen = intersections[(intersections["selection"] == selection) & (intersections["images"] == images)]
    if run is not None:
        for name in MODEL_COLUMNS:
            chosen = chosen[chosen[name] == getattr(run, name)]
    return np.sort(chosen["image_index"].to_numpy(dtype=np.int64))


def scored_on(scores: pd.DataFrame, intersections: pd.DataFrame, selection: str, images: str) -> pd.DataFrame:
    """Return the rows of `scores` that are about the images of one list."""
    return scores[scores["image_index"].isin(image_list(intersections, selection, images))]


def explained_images(
    intersections: pd.DataFrame, run: Run, max_images: int | None, seed: int, *, misclassified: bool = True
) -> np.ndarray:
    """Return the images to explain for one model: correct for all models, then (`misclassified`) those that it gets wrong.

    Parameters
    ----------
    max_images : int or None
        At most so many of each list, sampled with `seed`; the sample of the first list is the same for every model, and
        those of lists that overlap, such as a study's and its variant's, overlap as well.

    Returns
    -------
    int array of sorted image indices; the two lists have no image in common: what a model gets wrong that does not
    count for the first one, is explained only where the first one has it.

    Raises
    ------
    UserError
        All models agree on no image.
    """
    correct = _correct_for_all(intersections, run.selection)
    wrong = image_list(intersections, run.selection, WRONG_FOR_ONE, run)[: None if misclassified else 0]
    wrong = np.setdiff1d(wrong, correct)
    return np.sort(np.concatenate([_sample(indices, max_images, seed) for indices in (correct, wrong)]))


def example_images(
    intersections: pd.DataFrame, selection: str, labels: np.ndarray, count: int, seed: int
) -> pd.DataFrame:
    """Choose the images whose maps become heatmaps: of both classes in turn, right for all and wrong for most models.

    Parameters
    ----------
    labels : int array of shape (n_images,)
    count : int
        Images of each kind; fewer if there are not so many.

    Returns
    -------
    DataFrame with `image_index`, `n_wrong` (models that get the image wrong) and `correct` (bool).

    Raises
    ------
    UserError
        No image is right for all.
    """
    correct = _correct_for_all(intersections, selection)
    shuffled = pd.DataFrame({"image_index": np.random.default_rng(seed).permutation(correct)})
    shuffled["label"] = labels[shuffled["image_index"]]
    shuffled["turn"] = shuffled.groupby("label").cumcount()
    chosen = shuffled.sort_values(["turn", "label"])[["image_index"]].head(count).assign(n_wrong=0, correct=True)
    wrong = intersections[(intersections["selection"] == selection) & (intersections["images"] == WRONG_FOR_ONE)]
    # matched models that are apart may err where all others are right
    wrong = wrong[~wrong["image_index"].isin(correct)]
    n_wrong = wrong["image_index"].value_counts().reset_index(name="n_wrong")
    n_wrong = n_wrong.sort_values(["n_wrong", "image_index"], ascending=[False, True]).head(count)
    return pd.concat([chosen, n_wrong.assign(correct=False)], ignore_index=True)


def _correct_for_all(intersections: pd.DataFrame, selection: str) -> np.ndarray:
    correct = image_list(intersections, selection, CORRECT_FOR_ALL)
    if not len(correct):
        raise UserError(f"selection {selection!r}: no image is classified correctly by all models")
    return correct


def _sample(indices: np.ndarray, max_images: int | None, seed: int) -> np.ndarray:
    # an image's rank is the same in every list
    ranks = np.random.default_rng(seed).random(indices.max(initial=0) + 1)[indices]
    return indices[np.argsort(ranks)[:max_images]]
