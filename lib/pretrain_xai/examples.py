"""The example maps that were kept of every model, with their scores."""

import pandas as pd

from pretrain_xai.dataset import Split
from pretrain_xai.localization import relevance_rank_accuracy
from pretrain_xai.study import NETWORK, Study
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
    tables = []
    for run in sorted(first.values()):
        arrays = read_arrays(study.paths.example_maps / f"{run.name}.npz")
        images = arrays.pop("image_index")
        tested = read_predictions(study.name, [run]).query("split == 'test'").set_index("image_index").loc[images]
        correct = (tested["label"] == tested["predicted"]).to_numpy()
        title = [f"depth {run.finetune_depth}{'' if right else ' ✗'}" for right in correct]
        network = {name: getattr(run, name) for name in NETWORK}
        for method, maps in arrays.items():
            score = relevance_rank_accuracy(maps, test.masks[images], study.protocol.ties)
            columns = {"title": title, "image_index": images, "method": method, "correct": correct, "score": score}
            tables.append(pd.DataFrame(network | columns | {"map": list(maps)}))
    return pd.concat(tables, ignore_index=True)
