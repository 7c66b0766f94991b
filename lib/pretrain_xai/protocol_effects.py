"""What each flaw of the released code does to each number: a study with one switch as published, beside the study."""

from collections.abc import Iterator, Sequence

import pandas as pd

from pretrain_xai import paths
from pretrain_xai.comparison_maps import COMPARISON_MAPS
from pretrain_xai.names import label
from pretrain_xai.protocol import DATASET_SWITCHES, PUBLISHED, RESCORED, UNCHANGED
from pretrain_xai.selection import CORRECT_FOR_ALL, scored_on
from pretrain_xai.study import Study
from pretrain_xai.tables import read_classification, read_folder, read_scores, read_table

#: switches for which networks must be fine-tuned anew, and all switches together
RETRAINED = ("first_conv_frozen", *DATASET_SWITCHES, "head_kept", "published")
CELL = ["pretraining", "finetune_depth"]
EFFECT_COLUMNS = ["switch", "retrained", *CELL, "quantity", "corrected", "switched", "difference"]


def compare_protocols(study_name: str, study: Study, selection: str, variants: Sequence[str]) -> pd.DataFrame:
    """Compare the study with one switch as published, cell by cell.

    Rescored switches are compared on the same networks and images, retrained ones each on its own test images that all its
    models classify correctly.

    Parameters
    ----------
    variants : sequence of str
        The retrained variants to compare, names of RETRAINED; their runs must be finished.

    Returns
    -------
    DataFrame with `switch`, `retrained`, `pretraining`, `finetune_depth`, `quantity` (a classification metric, or a method,
    whose quantity is the median Relevance Rank Accuracy), `corrected`, `switched`, `difference`; means over seeds.
    """
    tables = [*_rescored(study_name, study, selection), *_rates(study_name, study, selection)]
    base = _quantities(study_name, selection)
    for variant in variants:
        switched = _quantities(f"{study_name}{paths.VARIANT_MARK}{variant}", selection)
        tables.append(_difference(base, switched, variant, retrained=True))
    return pd.concat(tables, ignore_index=True)[EFFECT_COLUMNS]


def finished_variants(study_name: str, study: Study) -> list[str]:
    """Return the retrained variants of a study all of whose scores are there."""
    return [variant for variant in RETRAINED if _is_finished(f"{study_name}{paths.VARIANT_MARK}{variant}", study)]


def effect_matrix(effects: pd.DataFrame, quantities: Sequence[str]) -> pd.DataFrame:
    """Return the mean difference over the fine-tuned models: a row per switch, a column per quantity; NaN: not concerned.

    Comparison maps, which have no model, are taken as they are.
    """
    counted = (effects["finetune_depth"] > 0) | effects["quantity"].isin(COMPARISON_MAPS)
    counted &= effects["quantity"].isin(quantities)
    matrix = effects[counted].groupby(["switch", "quantity"], sort=False)["difference"].mean().unstack()
    order = [switch for switch in (*RESCORED, "swapped_rates", *RETRAINED) if switch in matrix.index]
    return matrix.reindex(index=order, columns=list(quantities))


def largest_effects(effects: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the cells that a switch changes most, one per switch."""
    trained = effects[effects["finetune_depth"] > 0].dropna(subset="difference")
    order = trained["difference"].abs().sort_values(ascending=False).index
    largest = trained.loc[order].drop_duplicates("switch").head(count)
    return largest.assign(quantity=largest["quantity"].map(label)).reset_index(drop=True)


def _rescored(study_name: str, study: Study, selection: str) -> Iterator[pd.DataFrame]:
    scores = read_folder(paths.switch_scores(study_name))
    scores = scores[scores["selection"] == selection]
    cells = (
        scores.groupby(["switch", *CELL, "method"], observed=True)["value"]
        .median()
        .rename_axis(index={"method": "quantity"})
    )
    for switch in RESCORED:
        if getattr(study.switched, switch) != getattr(PUBLISHED, switch):
            yield _difference(cells[UNCHANGED], cells[switch], switch, retrained=False)


def _rates(study_name: str, study: Study, selection: str) -> Iterator[pd.DataFrame]:
    """Yield the swapped rates, which need no run: each takes the other's place."""
    if study.switched.swapped_rates == PUBLISHED.swapped_rates:
        return
    table = _classification(study_name, selection)
    names = {"sensitivity": "specificity", "specificity": "sensitivity"}
    rates = table[table.index.get_level_values("quantity").isin(names)]
    yield _difference(rates, rates.rename(index=names, level="quantity"), "swapped_rates", retrained=False)


def _difference(corrected: pd.Series, switched: pd.Series, switch: str, *, retrained: bool) -> pd.DataFrame:
    table = pd.concat({"corrected": corrected, "switched": switched}, axis=1, join="inner").reset_index()
    return table.assign(switch=switch, retrained=retrained, difference=table["switched"] - table["corrected"])


def _quantities(name: str, selection: str) -> pd.Series:
    """Return the classification metrics and each method's median score of every cell."""
    scores = read_scores(name)
    scores = scores[(scores["selection"] == selection) & (scores["metric"] == "relevance_rank_accuracy")]
    scores = scored_on(scores, read_table(paths.intersections(name)), selection, CORRECT_FOR_ALL)
    medians = (
        scores.groupby([*CELL, "method"], observed=True)["value"].median().rename_axis(index={"method": "quantity"})
    )
    return pd.concat([_classification(name, selection), medians])


def _classification(name: str, selection: str) -> pd.Series:
    table = read_classification(name).query("selection == @selection")
    means = table.drop(columns=["selection", "seed"]).groupby(CELL).mean()
    return means.rename_axis(columns="quantity").stack()


def _is_finished(name: str, study: Study) -> bool:
    runs = [*study.runs(), *study.untrained_runs()]
    return paths.classification(name).is_file() and all(
        (paths.scores(name) / f"{run.name}.parquet").is_file() for run in runs
    )
