"""What the comparison of protocols says, in sentences made from its table."""

from collections.abc import Sequence

import pandas as pd

from pretrain_xai.names import label
from pretrain_xai.protocol import ALL_TOGETHER, UNCHANGED
from pretrain_xai.statistics.protocol_effects import ALL_METHODS, RANKING

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
    """Say whether the corrected study makes a claim, and what each switch as published, and all together, do to it."""
    rows = effects[(effects["effect"] == effect) & (effects["quantity"] == quantity)]
    own, others = rows[rows["switch"] == UNCHANGED], rows[rows["switch"] != UNCHANGED]
    if own.empty:
        return ""
    own, others = own.iloc[0], others.dropna(subset="switched")
    text, above, below = _CLAIMS[effect, quantity]
    if own["verdict"] not in ("raises", "lowers"):
        return f"The corrected study can't tell whether {text.format(above)} ({own['difference']:+.3f})."
    claim = f"Corrected, {text.format(above if own['difference'] > 0 else below)} ({own['difference']:+.3f})"
    together = others["switch"] == ALL_TOGETHER
    parts = _fates(others[~together], own["difference"])
    parts += [
        f"with all switches as published {_fate(row, own['difference'])}" for row in others[together].itertuples()
    ]
    return "; ".join([claim, *parts]) + "."


def _fates(others: pd.DataFrame, own: float) -> list[str]:
    """Say what single switches do to the sign of an effect: its estimates, then those that turn it round, by name."""
    if others.empty:
        return []
    turned = others[others["switched"] * own <= 0]
    kept = len(others) - len(turned)
    named = [f"{label(row.switch)}, where {_fate(row, own)}" for row in turned.itertuples()]
    return [f"in the estimate the sign stays with {kept} of {len(others)} single switches", *named]


def _fate(row, own: float) -> str:
    """Say what an effect is with a switch as published, and whether its change from the corrected one is decided."""
    change = "a decided change" if row.verdict in ("raises", "lowers") else "the change is undecided"
    sign = "the sign stays" if row.switched * own > 0 else "it turns round" if row.switched * own < 0 else "it vanishes"
    return f"{sign} in the estimate ({row.switched:+.3f}; {change})"


def _undecided(means: pd.DataFrame) -> str:
    if means.empty:
        return "Nothing is left to compare: the study has every switch as published."
    counts = means["verdict"].value_counts()
    if means["floor"].isna().all():
        return "There is no noise floor yet: `make protocols` trains the corrected study with further seeds."
    return (
        f"Of {len(means)} differences of means {counts.get('undecided', 0)} are undecided and "
        f"{counts.get('unchanged', 0)} are 0; with intervals of 95 %, one in twenty would look decided by chance."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
