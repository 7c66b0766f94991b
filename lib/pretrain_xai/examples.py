"""The example maps that were kept of every model, with their scores."""

import numpy as np
import pandas as pd

from pretrain_xai.dataset import Split
from pretrain_xai.localization import relevance_rank_accuracy
from pretrain_xai.study import Study
from pretrain_xai.tables import read_arrays, read_predictions


def read_examples(study: Study, selection: str, test: Split) -> pd.DataFrame:
    """Return the kept maps of all fine-tuned models of a selection, those of the first seed of each cell.

    Returns
    -------
    DataFrame with `pretraining`, `finetune_depth`, `seed`, `title` (the depth, marked where the model is wrong),
    `image_index`, `method`, `correct`, `score` (Relevance Rank Accuracy) and `map` (float array (height, width)).
    """
    runs = [run for run in study.runs() if run.selection == selection]
    first = {(run.pretraining, run.finetune_depth): run for run in reversed(runs)}
    predictions = read_predictions(study.name, runs)
    rows = []
    for run in sorted(first.values()):
        arrays = read_arrays(study.paths.example_maps / f"{run.name}.npz")
        images = arrays.pop("image_index")
        mine = predictions[(predictions["split"] == "test") & _is_run(predictions, run)].set_index("image_index")
        correct = (mine["label"] == mine["predicted"]).loc[images].to_numpy()
        for method, maps in arrays.items():
            values = relevance_rank_accuracy(maps, test.masks[images], study.protocol.ties)
            for image, right, score, heatmap in zip(images, correct, values, maps, strict=True):
                rows.append(
                    {
                        "pretraining": run.pretraining,
                        "finetune_depth": run.finetune_depth,
                        "seed": run.seed,
                        "title": f"depth {run.finetune_depth}" + ("" if right else " ✗"),
                        "image_index": image,
                        "method": method,
                        "correct": right,
                        "score": score,
                        "map": heatmap,
                    }
                )
    return pd.DataFrame(rows)


def _is_run(table: pd.DataFrame, run: object) -> np.ndarray:
    names = ("pretraining", "finetune_depth", "seed")
    return np.logical_and.reduce([table[name] == getattr(run, name) for name in names])
