"""Models of equal accuracy: for every network the checkpoint nearest to a common rate on validation images.

The rate is the lower of sensitivity and specificity. Networks that fine-tuning has not finished with often call one class too
often. Such ones have the accuracy of others that know less, and an AUROC near 1: matched by either, they get most images of
a class wrong, and of that class few are left that all networks get right. By the lower rate they do not count as matched.

The common rate is the one that most networks can be matched at, and of those the highest, so that the weakest of them is at
its best. It is chosen on validation images alone; what comes out on the test images is reported.
"""

from collections.abc import Collection

import numpy as np
import pandas as pd

from pretrain_xai.settings.sections import Matching
from pretrain_xai.study import CELL, MATCHED, NETWORK, Run, Study
from pretrain_xai.tables import read_table

#: by what networks are matched: the lower of sensitivity and specificity on validation images
RATE = "validation_lower_rate"
#: what is noted of every validated step
NOTED = ["validation_accuracy", "validation_sensitivity", "validation_specificity", "validation_auroc", RATE]
#: of the cells (corpus x depth), so many must be matched for the comparison to count
NEEDED_SHARE = 0.6


def common_rate(checkpoints: pd.DataFrame, settings: Matching) -> float:
    """Return the rate that most networks reach and have a checkpoint within the tolerance of.

    Of rates that equally many match, the highest. Those below `settings.lowest_rate` are not looked at; it is returned where
    no network reaches it.

    Parameters
    ----------
    checkpoints : DataFrame with `pretraining`, `finetune_depth`, `seed`, `validation_lower_rate`
    """
    per_network = [rows.to_numpy() for _, rows in checkpoints.groupby(NETWORK)[RATE]]

    def n_matched(target: float) -> int:
        gaps = [np.abs(values - target).min().round(6) for values in per_network if values.max() >= target]
        return sum(gap <= settings.tolerance for gap in gaps)

    candidates = [value for value in checkpoints[RATE].unique() if value >= settings.lowest_rate]
    return float(max(candidates, key=lambda target: (n_matched(target), target), default=settings.lowest_rate))


def read_checkpoints(study: Study) -> pd.DataFrame:
    """Return every validated step of all trainings of the main selection, the networks in the order of the study."""
    runs = [run for run in study.explained_runs() if run.selection == study.main_selection]
    tables = [read_table(study.paths.checkpoints(run.name)).assign(**vars(run)) for run in runs]
    return pd.concat(tables, ignore_index=True).drop(columns="selection")


def read_matching(study: Study) -> pd.DataFrame | None:
    """Return the table of the matched models; None where the study does not make them of checkpoints."""
    return None if study.finetuning.matching is None else read_table(study.paths.matching)


def match_checkpoints(checkpoints: pd.DataFrame, settings: Matching) -> pd.DataFrame:
    """Choose the checkpoint of every network that is nearest to the common rate, of equally near ones the first.

    Parameters
    ----------
    checkpoints : DataFrame with `pretraining`, `finetune_depth`, `seed`, `step`, what is NOTED, `kept`

    Returns
    -------
    DataFrame with one row per network: `pretraining`, `finetune_depth`, `seed`, `step`, `target` (the common rate), what is
    NOTED, `gap` (of its rate from the target, signed) and `matched` (within the tolerance).
    """
    kept = checkpoints[checkpoints["kept"]].drop(columns="kept")
    kept = kept.assign(**kept[NOTED].round(6))
    kept["target"] = common_rate(kept, settings)
    kept["gap"] = (kept[RATE] - kept["target"]).round(6)
    order = kept.assign(far=kept["gap"].abs()).sort_values(["far", "step"])
    nearest = order.groupby(NETWORK, sort=False).head(1).sort_values(NETWORK)
    nearest["matched"] = nearest["far"] <= settings.tolerance
    return nearest[[*NETWORK, "step", "target", *NOTED, "gap", "matched"]].reset_index(drop=True)


def unmatched_runs(matching: pd.DataFrame) -> list[Run]:
    """Return the models that are not matched."""
    rows = matching[~matching["matched"]].itertuples()
    return [Run(MATCHED, row.pretraining, row.finetune_depth, row.seed) for row in rows]


def cell_matched(matching: pd.DataFrame) -> pd.Series:
    """Return for each corpus and depth whether all its networks are matched; bool, indexed by both."""
    return matching.groupby(CELL)["matched"].all()


def comparable_depths(matching: pd.DataFrame, corpora: Collection[str]) -> list[int]:
    """Return the depths at which these corpora are matched with all their networks; only there are they compared."""
    cells = cell_matched(matching).unstack("finetune_depth").loc[list(corpora)]
    return [int(depth) for depth in cells.columns[cells.all()]]
