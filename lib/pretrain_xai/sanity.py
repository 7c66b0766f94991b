"""Model randomisation check (Adebayo et al. 2018): whether maps change when a network's weights become random.

A method that explains what a network has learnt must give other maps when that is gone. Layers are made random one after
another, from the last to the first, and maps are compared with those of the trained network.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats
from skimage.metrics import structural_similarity
from torch import nn

from pretrain_xai.arrays import Booleans, Floats, Integers, PerImage
from pretrain_xai.explain import Explainer, within_memory
from pretrain_xai.localization import relevance_rank_accuracy
from pretrain_xai.names import ALL_METHODS, SCORE_LEFT
from pretrain_xai.networks.models import STANDARDISE
from pretrain_xai.protocol import Ties

#: of the column `layer`, beside the names of layers: nothing is random, and a map that knows nothing (`random`)
TRAINED, RANDOM_MAP = "trained", "random map"


def weight_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers with learnt weights in the order of the network, named conv1, conv2, ..., norm1, ..., fc1, ..."""
    kinds = {nn.Conv2d: "conv", nn.modules.batchnorm._BatchNorm: "norm", nn.Linear: "fc"}
    named, counts = {}, Counter[str]()
    for place, layer in network.named_modules():
        kind = next((name for kind, name in kinds.items() if isinstance(layer, kind)), None)
        if kind and place != STANDARDISE:
            counts[kind] += 1
            named[f"{kind}{counts[kind]}"] = layer
    return named


def cascade(network: nn.Module, random_network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield a copy of `network` that takes one more layer from `random_network` each time, the last layer first.

    It is the same copy each time: use it before the next. The networks that are given stay as they are. A standardising
    layer is not learnt and stays, too.

    Yields
    ------
    Name of the layer that became random, and the copy.
    """
    changed, source = copy.deepcopy(network), weight_layers(random_network)
    for name, layer in reversed(weight_layers(changed).items()):
        layer.load_state_dict(source[name].state_dict())
        yield name, changed


def rank_correlation(maps: np.ndarray, others: np.ndarray, within: Booleans | None = None) -> PerImage:
    """Return Spearman's rank correlation of the absolute values of each pair of maps, float64 (n_images,), -1 to 1.

    Parameters
    ----------
    maps, others : float arrays of shape (n_images, height, width)
    within : bool array of the same shape, optional
        Only these pixels count.

    Returns
    -------
    NaN where a map has the same value everywhere.
    """
    inside = np.ones(maps.shape, bool) if within is None else within
    first, second = (_centred_ranks(np.abs(values), inside) for values in (maps, others))
    size = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    return np.divide((first * second).sum(1), size, out=np.full(len(maps), np.nan), where=size > 0)


def map_similarity(maps: np.ndarray, others: np.ndarray) -> PerImage:
    """Return the structural similarity of each pair of maps, float64 (n_images,), -1 to 1 (Wang et al. 2004).

    Of the absolute values, each map scaled to its own maximum, as Adebayo et al. do.
    """
    pairs = zip(_scaled(maps), _scaled(others), strict=True)
    return np.array([structural_similarity(one, other, data_range=1.0) for one, other in pairs])


def measures(
    maps: np.ndarray, others: np.ndarray, lesions: Booleans, brains: Booleans, ties: Ties
) -> dict[str, PerImage]:
    """Return what `others` have in common with the `maps` of a trained network, and what they score more, by measure.

    All arrays have the shape (n_images, height, width).
    """
    before, after = (relevance_rank_accuracy(values, lesions, ties) for values in (maps, others))
    return {
        "rank_correlation": rank_correlation(maps, others),
        "rank_correlation_in_brain": rank_correlation(maps, others, brains),
        "structural_similarity": map_similarity(maps, others),
        "rank_accuracy_change": after - before,
    }


@within_memory
def compare_with_random(
    explainer: Explainer, random_network: nn.Module, image_indices: Integers, methods: Sequence[str]
) -> pd.DataFrame:
    """Compare each method's maps of the true labels with those of the network as its layers become random.

    Returns
    -------
    DataFrame with `method`, `layer`, `n_random` (layers), `image_index`, `measure` (of `measures`) and `value`. The
    layer is TRAINED for the maps compared with themselves, then the layer that became random last, and RANDOM_MAP for
    a map that knows nothing, the floor: there `n_random` is missing.
    """
    methods = [method for method in methods if method != "random"]
    trained = explainer.example_maps(image_indices, [*methods, "random"])
    lesions, brains = explainer.split.masks[image_indices], explainer.split.images[image_indices] > 0
    tables = []

    def compare(layer: str, n_random: float, maps: Mapping[str, np.ndarray]) -> None:
        for method in methods:
            found = measures(trained[method], maps[method], lesions, brains, explainer.protocol.ties)
            for measure, values in found.items():
                known = {"method": method, "layer": layer, "n_random": n_random, "image_index": image_indices}
                tables.append(pd.DataFrame(known | {"measure": measure, "value": values}))

    compare(TRAINED, 0, trained)
    for number, (layer, changed) in enumerate(cascade(explainer.network, random_network), start=1):
        compare(layer, number, replace(explainer, network=changed).example_maps(image_indices, methods))
    compare(RANDOM_MAP, np.nan, dict.fromkeys(methods, trained["random"]))
    return pd.concat(tables, ignore_index=True).astype({"n_random": "Int64"})


@within_memory
def logit_or_difference(explainer: Explainer, image_indices: Integers, methods: Sequence[str]) -> pd.DataFrame:
    """Compare what maps score that explain the true class's logit, or its logit less the mean of the others'.

    Returns
    -------
    DataFrame with `method` (those given, and ALL_METHODS: their mean), `n_images`, the mean Relevance Rank Accuracies
    `logit` and `difference`, and `change`, difference - logit.
    """
    lesions, scores = explainer.split.masks[image_indices], {}
    for explained in ("logit", "difference"):
        settings = explainer.settings.model_copy(update={"explained": explained})
        maps = replace(explainer, settings=settings).example_maps(image_indices, methods)
        of_method = {n: relevance_rank_accuracy(m, lesions, explainer.protocol.ties).mean() for n, m in maps.items()}
        scores[explained] = of_method | {ALL_METHODS: np.mean(list(of_method.values()))}
    table = pd.DataFrame(scores).rename_axis("method").reset_index()
    return table.assign(change=table["difference"] - table["logit"], n_images=len(image_indices))


def common_share(logits: Floats) -> float:
    """Return SD(z0 + z1) / SD(z1 - z0) of the logits of two classes, shape (n_images, 2); 0: they are opposite."""
    return float(logits.sum(axis=1).std() / np.diff(logits, axis=1).std())


def mean_similarity(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation over the images, and their number, per measure, method and layer."""
    groups = table.groupby(["measure", "method", "layer", "n_random"], sort=False, dropna=False)["value"]
    return groups.agg(["mean", "std", "count"]).reset_index()


def score_left(means: pd.DataFrame) -> pd.DataFrame:
    """Return the share of a score above that of a random map which is left as layers become random, by method and of all.

    1 - (its change) / (its change with a random map), of mean Relevance Rank Accuracies; NaN where the trained network's maps
    are no better than a random map.

    Parameters
    ----------
    means : DataFrame
        From `mean_similarity`.

    Returns
    -------
    DataFrame with some of its columns, the `measure` SCORE_LEFT; ALL_METHODS are of the methods' mean score.
    """
    changes = means[means["measure"] == "rank_accuracy_change"].pivot(index="method", columns="layer", values="mean")
    changes.loc[ALL_METHODS] = changes.mean()
    lost = changes.pop(RANDOM_MAP)
    left = 1 - changes.div(lost.where(lost < 0), axis=0)
    rows = left.melt(ignore_index=False, value_name="mean").reset_index()
    return rows.assign(measure=SCORE_LEFT, count=means["count"].max())


def retained(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return how much of a similarity is left, methods x layers: 1 as between equal maps, 0 as with a random map.

    (mean similarity - that with a random map) / (1 - that with a random map); of the similarities in `measures`.
    """
    rows = table[table["measure"] == measure]
    means = rows.pivot_table(index="method", columns="layer", values="value", aggfunc="mean", sort=False)
    floor = means.pop(RANDOM_MAP)
    return means.sub(floor, axis=0).div(1 - floor, axis=0)


def _centred_ranks(values: np.ndarray, inside: Booleans) -> Floats:
    """Return the ranks of the nonnegative values inside, less their mean, and 0 outside; shape (n_images, n_pixels)."""
    flat = inside.reshape(len(inside), -1)
    # what is outside shares the lowest rank, so that ranks inside are shifted by one number
    ranks = stats.rankdata(np.where(flat, values.reshape(flat.shape), -1), axis=1)
    mean = (ranks * flat).sum(1, keepdims=True) / flat.sum(1, keepdims=True)
    return (ranks - mean) * flat


def _scaled(maps: np.ndarray) -> np.ndarray:
    strength = np.abs(maps)
    highest = strength.max(axis=(1, 2), keepdims=True)
    return np.divide(strength, highest, out=np.zeros_like(strength), where=highest > 0)
