"""Attribution maps that depend on the image alone, not on how images were batched (see `methods.passes`).

A method is one function of a `Block` of images and one entry of `METHODS`.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pretrain_xai.errors import did_you_mean
from pretrain_xai.methods import further_methods, guard
from pretrain_xai.methods.deep_lift import rescaled
from pretrain_xai.methods.passes import Block, guarded_blocks, input_gradients


def attribute(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    method: str,
    *,
    image_ids: Tensor | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    micro_batch: int | None = None,
    allow_dropout: bool = False,
    **options: Any,
) -> Tensor:
    """Explain the logit of each image's target by a signed map, the same to the bit for every batching and order.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode, without in-place activations; gives logits of shape (n_images, n_classes).
    images : float tensor of shape (n_images, 3, height, width), range [0, 1]
        Of the model's dtype, on its device. The baseline of the methods that need one is black, 0.
    targets : integer tensor of shape (n_images,)
        The class to explain.
    method : str
        A key of `METHODS`.
    image_ids : integer tensor of shape (n_images,), optional
        What random methods draw from, together with `seed`; default 0 .. n_images - 1.
    batch_size : int, optional
        Images handled at once, at most and by default `micro_batch_rows`; small values waste rows of the passes.
    micro_batch : int, optional
        Rows of a pass, a power of two, if `micro_batch_rows` needs too much memory. It may change the last digits: record it.
    allow_dropout : bool
        Accept `nn.Dropout` modules in training mode (the published protocol); masks are drawn per image and step.
    **options
        Of the method, such as `n_steps` of integrated_gradients; `METHODS[method].options` has names and defaults.

    Returns
    -------
    float tensor of shape (n_images, 3, height, width)

    Raises
    ------
    ValueError
        If an argument or map is out of shape, out of range or not finite, or the model is not ready (`guarded`).
    TypeError
        If a dtype or an option is wrong, or the method has no rule for a module.
    """
    drawn = {"image_ids": image_ids, "batch_size": batch_size, "seed": seed, "micro_batch": micro_batch}
    return attribute_all(
        model, images, targets, [method], **drawn, allow_dropout=allow_dropout, options={method: options}
    )[method]


def attribute_all(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    methods: Iterable[str],
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    **passes: Any,
) -> dict[str, Tensor]:
    """Explain `images` by several methods, which share the passes that they can share.

    Parameters
    ----------
    options : dict of dicts, optional
        By method.
    **passes
        `image_ids`, `batch_size`, `seed`, `micro_batch` and `allow_dropout`, as in `attribute`, whose maps these equal to
        the bit.
    """
    maps = {method: torch.empty_like(images, memory_format=torch.contiguous_format) for method in methods}
    for part, block in guarded_blocks(model, images, targets, **passes):
        for method, found in maps.items():
            found[part] = map_block(block, method, (options or {}).get(method, {}))
    return maps


def map_block(block: Block, method: str, options: Mapping[str, Any]) -> Tensor:
    """Return a method's maps of a block; ValueError or TypeError if it can't explain the model or an option is wrong."""
    check_options(method, options)
    if (rules := METHODS[method].rules) and (missing := rules(block.network.model)):
        raise TypeError(f"{method} can't explain the model: {missing}")
    maps = METHODS[method].compute(block, **options)
    guard.require_finite(maps, torch.tensor(block.image_ids), f"map of {method} for image id")
    return maps.contiguous()


def completeness_delta(
    model: nn.Module, images: Tensor, targets: Tensor, attributions: Tensor, **passes: Any
) -> Tensor:
    """Return how far each map's sum is from the logit's difference to the black image; 0 for a complete method.

    `passes` are `image_ids`, `seed`, `micro_batch` and `allow_dropout`, as in `attribute`.

    Returns
    -------
    float64 tensor of shape (n_images,), in units of the logit
        sum of the attributions - (logit(image) - logit(black image)), of the target's logit.
    """
    if attributions.shape != images.shape:
        raise ValueError(f"attributions have shape {tuple(attributions.shape)}, the images {tuple(images.shape)}")
    delta = attributions.double().sum((1, 2, 3))
    for part, block in guarded_blocks(model, images, targets, **passes):
        delta[part] -= block.difference
    return delta


def _integrated_gradients(block: Block, *, n_steps: int = 50) -> Tensor:
    """Sundararajan et al. 2017, by Gauss-Legendre quadrature; weights in single precision, as Captum has them."""
    nodes, weights = np.polynomial.legendre.leggauss(n_steps)
    coefficients = np.tile(0.5 * (1 + nodes), (len(block.images), 1))
    return block.images * block.path_gradients(coefficients, (0.5 * weights).astype(np.float32))


def _gradient_shap(block: Block, *, n_samples: int = 5) -> Tensor:
    """Lundberg and Lee 2017: the mean over samples of image * gradient(c * image), c uniform on [0, 1).

    That is Captum's definition with its default of no noise and a baseline distribution of one black image; only the
    coefficients c come from (seed, image id) and not from numpy's global generator.
    """
    draws = [np.random.default_rng((block.network.seed, i)).uniform(size=n_samples) for i in block.image_ids]
    weights = np.full(n_samples, 1 / n_samples)
    return block.images * block.path_gradients(np.reshape(draws, (-1, n_samples)), weights)


def _deep_lift(block: Block) -> Tensor:
    """Shrikumar et al. 2017, Rescale rule, complete through max pools (see `deep_lift`)."""

    def explain(rows: Tensor, targets: Tensor) -> Tensor:
        with rescaled(block.network.model, torch.zeros_like(rows)):  # which pass the dropout masks of their images
            return rows * input_gradients(block.network.model, rows, targets)

    return block.per_row(explain)


def _by_captum(name: str, n_rows: int | None = None) -> Callable[[Block], Tensor]:
    """Return the method as Captum's class of that name computes it, on whole micro-batches or on `n_rows` at once."""

    def compute(block: Block) -> Tensor:
        from captum import attr  # takes a second

        def explain(rows: Tensor, targets: Tensor) -> Tensor:
            with torch.enable_grad():
                return getattr(attr, name)(block.network.model).attribute(rows.requires_grad_(), target=targets)

        wanted = torch.get_deterministic_debug_mode()
        try:
            # Captum's DeepLift unpools: torch has no version of that it calls deterministic, though on a CPU it is
            torch.set_deterministic_debug_mode("default")
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Setting (forward, )?backward hooks", category=UserWarning)
                return block.per_row(explain, n_rows)
        finally:
            torch.set_deterministic_debug_mode(wanted)

    return compute


@dataclass(frozen=True)
class Method:
    """An attribution method: `compute(block, **options)` gives signed maps of the shape of `block.images`."""

    compute: Callable[..., Tensor]
    #: the maps sum to the logit's difference to the black image, but for this share of it (see `check_completeness`); none:
    #: they do not
    tolerance: float | None = None
    #: `check(side, **options)` raises a ValueError for options that do not fit together or to images of `side` pixels
    check: Callable[..., None] | None = None
    #: `rules(network)` says which layer it does not know; none: it takes the gradient or the logits of any network
    rules: Callable[[nn.Module], str | None] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options and their defaults."""
        parameters = inspect.signature(self.compute).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


METHODS: Mapping[str, Method] = {
    "integrated_gradients": Method(_integrated_gradients, tolerance=1.0),
    "gradient_shap": Method(_gradient_shap),
    "deep_lift": Method(_deep_lift, tolerance=1e-3, rules=guard.DEEP_LIFT),
    "saliency": Method(lambda block: block.gradient),
    "input_x_gradient": Method(lambda block: block.images * block.gradient),
    "guided_backprop": Method(_by_captum("GuidedBackprop"), rules=guard.RECTIFIERS),
    "deconvolution": Method(_by_captum("Deconvolution"), rules=guard.RECTIFIERS),
    "lrp": Method(_by_captum("LRP"), rules=guard.CAPTUM_LRP),
    # as published, one image at a time: its max-pool rule mixes the images of a batch, and it is not complete on VGG
    "deep_lift_captum": Method(_by_captum("DeepLift", n_rows=1), rules=guard.DEEP_LIFT),
    "smooth_grad": Method(further_methods.smooth_grad),
    "grad_cam": Method(further_methods.grad_cam),
    "occlusion": Method(further_methods.occlusion, check=further_methods.check_windows),
    "lrp_epsilon_plus_flat": Method(further_methods.lrp_epsilon_plus_flat, rules=guard.ZENNIT_LRP),
    "random": Method(further_methods.random),
}


def check_options(method: str, options: Mapping[str, Any], image_size: int | None = None) -> None:
    """Raise a ValueError or TypeError that lists what is valid if `method` or one of its options is not.

    With `image_size`, the side of the images in pixels, also if the options do not fit to it.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}{did_you_mean(method, METHODS)}; methods are {', '.join(METHODS)}")
    valid = METHODS[method].options
    for name, value in options.items():
        if name not in valid:
            known = ", ".join(f"{option}={default}" for option, default in valid.items()) or "none"
            raise TypeError(f"{method} has no option {name!r}{did_you_mean(name, valid)}; its options are: {known}")
        whole = isinstance(valid[name], int)
        least, expected = (1, "a whole number from 1") if whole else (0, "a finite number from 0")
        if type(value) not in (int, int if whole else float) or not least <= value < math.inf:
            raise ValueError(f"{method} got {name}={value!r}, {expected} is expected")
    if (check := METHODS[method].check) and image_size:
        check(image_size, **{**valid, **options})
