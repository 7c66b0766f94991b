"""How methods, corpora and comparison maps are called, ordered and coloured in every figure and table."""

from collections.abc import Sequence
from itertools import combinations

from pretrain_xai.study import UNTRAINED

_LABELS = {
    "integrated_gradients": "Integrated Gradients",
    "gradient_shap": "GradientSHAP",
    "deep_lift": "DeepLift",
    "deep_lift_captum": "DeepLift (Captum)",
    "saliency": "Saliency",
    "input_x_gradient": "Input × Gradient",
    "guided_backprop": "Guided Backprop",
    "deconvolution": "Deconvolution",
    "lrp": "LRP",
    "smooth_grad": "SmoothGrad",
    "grad_cam": "Grad-CAM",
    "occlusion": "Occlusion",
    "lrp_epsilon_plus_flat": "LRP composite",
    "random": "random map",
    "natural": "photographs",
    "mri": "MRI (sex)",
    "imagenet": "ImageNet",
    "scratch": "no pre-training",
    UNTRAINED: "untrained",
    "sobel": "Sobel",
    "laplace": "Laplace",
    "round": "round lesions",
    "irregular": "irregular lesions",
    "relevance_rank_accuracy": "Relevance Rank Accuracy (TPR)",
    "median_relevance_rank_accuracy": "median performance",
    "pixel_auroc": "pixel AUROC",
    "lesion": "lesions",
    "union": "lesions of both classes",
    "boundary": "outlines of the lesions",
    "difference": "|image − twin|",
    "unsigned": "all values",
    "positive": "positive values",
    "negative": "negative values",
    "sum_abs": "|sum|",
    "abs_sum": "sum of |·|",
    "auroc": "AUROC",
    "auprc": "AUPRC",
}

#: in the table of the sanity check, a row that is the mean over methods, and the measure that `sanity.score_left` adds
ALL_METHODS, SCORE_LEFT = "all methods", "score_left"
#: places in seaborn's palette "colorblind"
_COLOURS = {"natural": 4, "imagenet": 4, "mri": 9, "scratch": 2, UNTRAINED: 3}
#: hatches: a second cue beside the colour
_HATCHES = {"mri": "////", "imagenet": "....", "scratch": "\\\\\\\\"}


def label(name: str, target: str | None = None) -> str:
    """Return how `name` (a method, corpus, comparison map or metric) is written in figures and tables.

    The corpus `mri` is called by what it teaches to tell, such as "MRI (sex)": `target`, or without one that of `use_target`.
    """
    if name == "mri" and target:
        return f"MRI ({target.replace('_', ' ')})"
    return _LABELS.get(name, name.replace("_", " "))


def use_target(target: str) -> None:
    """Let `label` call the corpus `mri` by a study's `pretraining.target`, until another is used; at first it is sex."""
    _LABELS["mri"] = label("mri", target)


def colour(name: str) -> tuple[float, float, float] | str:
    """Return the colour of a corpus; grey for whatever has none."""
    from seaborn import color_palette  # most of a second, and most notebooks that name things draw nothing

    return color_palette("colorblind")[_COLOURS[name]] if name in _COLOURS else "0.75"


def hatch(name: str) -> str:
    """Return the hatch of a corpus."""
    return _HATCHES.get(name, "")


def blocks(depth: object) -> str:
    """Return how a fine-tuning depth is written."""
    return f"{depth} block{'' if str(depth) == '1' else 's'}"


def pairs(corpora: Sequence[str]) -> list[str]:
    """Return the contrasts of corpora, "later - earlier"; figures of one are called by it with "_" for " - "."""
    return [f"{second} - {first}" for first, second in combinations(corpora, 2)]
