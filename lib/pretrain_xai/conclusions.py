"""What the comparison of protocols says, in sentences made from its table."""

from collections.abc import Sequence

import pandas as pd

from pretrain_xai.names import label
from pretrain_xai.protocol import UNCHANGED
from pretrain_xai.protocol_effects import ALL_METHODS, RANKING

#: what a switch may change, and how a sentence calls it
_SUBJECTS = {"accuracy": "Accuracy", ALL_METHODS: "The methods' mean score", RANKING: "The order of the methods (tau)"}
#: what a study says: an effect between cells, and the claim if it is above or below 0
_CLAIMS = {
    ("corpus", "accuracy"): ("pre-training on MRI gives {} accuracy than on photographs", "higher", "lower"),
    ("corpus", ALL_METHODS): ("pre-training on MRI gives {} scores than on photographs", "higher", "lower"),
    ("depth", "accuracy"): ("fine-tuning more blocks gives {} accuracy", "higher", "lower"),
    ("depth", ALL_METHODS): ("fine-tuning more blocks gives {} scores", "higher", "lower"),
}


def conclusions(effects: pd.DataFrame) -> list[str]:
    """Return what each group of switches changes, what is undecided, and which claims of the study hold.

    Parameters
    ----------
    effects : DataFrame
        From `protocol_effects.compare_protocols`.
    """
    sentences = []
    means = effects[effects["effect"] == "mean"]
    for quantity, subject in _SUBJECTS.items():
        rows = means[means["quantity"] == quantity]
        sentences += [_changes(subject, rows[~rows["retrained"]], "scored or predicted anew")] if len(rows) else []
        retrained = rows[rows["retrained"]]
        sentences += [_changes(subject, retrained, "trained anew")] if len(retrained) else []
    sentences += [claim for key in _CLAIMS if (claim := _claim(effects, *key))]
    return [*sentences, _undecided(means)]


def _changes(subject: str, rows: pd.DataFrame, how: str) -> str:
    """Say which switches raise, lower and leave one quantity."""
    parts = []
    for verdict, words in (("raises", "raised by"), ("lowers", "lowered by")):
        chosen = rows[rows["verdict"] == verdict].sort_values("difference", key=abs, ascending=False)
        named = [_numbered(row) for row in chosen.itertuples()]
        parts += [f"{words} {_listed(named)}"] if named else []
    for verdict, words in (("undecided", "undecided with"), ("unchanged", "the same with")):
        named = [label(name) for name in rows.loc[rows["verdict"] == verdict, "switch"]]
        parts += [f"{words} {_listed(named)}"] if named else []
    return f"{subject}, {how}: {'; '.join(parts) or 'no switch concerns it'}."


def _numbered(row) -> str:
    weak = ", less than retraining may" if row.below_floor else ""
    return f"{label(row.switch)} ({row.difference:+.3f}{weak})"


def _claim(effects: pd.DataFrame, effect: str, quantity: str) -> str:
    """Say whether the corrected study makes a claim, and with which switches as published its sign stays."""
    rows = effects[(effects["effect"] == effect) & (effects["quantity"] == quantity)]
    own, others = rows[rows["switch"] == UNCHANGED], rows[rows["switch"] != UNCHANGED]
    if own.empty:
        return ""
    own = own.iloc[0]
    text, above, below = _CLAIMS[effect, quantity]
    if own["verdict"] not in ("raises", "lowers"):
        return f"The corrected study can't tell whether {text.format(above)} ({own['difference']:+.3f})."
    claim = f"Corrected, {text.format(above if own['difference'] > 0 else below)} ({own['difference']:+.3f})"
    same = others["switched"] * own["difference"] > 0
    turned = ~same & others["verdict"].isin(["raises", "lowers"])
    parts = [f"the sign is the same with {same.sum()} of {len(others)} switches as published"] if len(others) else []
    for chosen, words in ((turned, "turns round or vanishes with"), (~same & ~turned, "can't be told with")):
        named = [f"{label(row.switch)} ({row.switched:+.3f})" for row in others[chosen].itertuples()]
        parts += [f"it {words} {_listed(named)}"] if named else []
    return "; ".join([claim, *parts]) + "."


def _undecided(means: pd.DataFrame) -> str:
    counts = means["verdict"].value_counts()
    if means["floor"].isna().all():
        return "There is no noise floor yet: `make protocols` trains the corrected study with further seeds."
    return (
        f"Of {len(means)} differences of means {counts.get('undecided', 0)} are undecided and "
        f"{counts.get('unchanged', 0)} are 0; with intervals of 95 %, one in twenty would look decided by chance."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
