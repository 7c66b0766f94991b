"""Attribution maps that depend on the image alone, not on how images were batched (see `micro_batches`).

A method is one function of a `Block` of images and one entry of `METHODS`.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import captum.attr
import numpy as np
import torch
from torch import Tensor, nn

from pretrain_xai.errors import did_you_mean
from pretrain_xai.methods.deep_lift import reference_inputs, rescaled
from pretrain_xai.methods.further_methods import (
    check_windows,
    grad_cam,
    lrp_epsilon_plus_flat,
    occlusion,
    random,
    smooth_grad,
)
from pretrain_xai.methods.layer_rules import CAPTUM_LRP, DEEP_LIFT, RECTIFIERS, ZENNIT_LRP, LayerRules
from pretrain_xai.methods.micro_batches import Block, input_gradients, network_of
from pretrain_xai.methods.model_guard import check_inputs, require_finite


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
        Images handled at once, to bound memory; small values waste rows of the micro-batches. Default all.
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
    return attribute_all(
        model,
        images,
        targets,
        [method],
        image_ids=image_ids,
        batch_size=batch_size,
        seed=seed,
        micro_batch=micro_batch,
        allow_dropout=allow_dropout,
        options={method: options},
    )[method]


def attribute_all(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    methods: Iterable[str],
    *,
    image_ids: Tensor | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    micro_batch: int | None = None,
    allow_dropout: bool = False,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Tensor]:
    """Explain `images` by several methods, which share the passes that they can share.

    As `attribute`, with `options` per method; the maps equal those of `attribute` to the bit.
    """
    methods, options = list(methods), dict(options or {})
    for method in {*methods, *options}:
        check_options(method, options.get(method, {}))
    ids = torch.arange(len(images)) if image_ids is None else image_ids
    check_inputs(model, images, targets, ids, batch_size=batch_size, micro_batch=micro_batch, seed=seed)
    maps = {method: torch.empty_like(images, memory_format=torch.contiguous_format) for method in methods}
    with network_of(model, images, targets, seed=seed, micro_batch=micro_batch, allow_dropout=allow_dropout) as network:
        for start in range(0, len(images), batch_size or len(images) or 1):
            part = slice(start, start + (batch_size or len(images)))
            block = Block(network, network.formatted(images[part]), targets[part], ids[part].tolist())
            for method in methods:
                maps[method][part] = METHODS[method].compute(block, **options.get(method, {}))
                require_finite(maps[method][part], ids[part], f"map of {method} for image id")
    return maps


def completeness_delta(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    attributions: Tensor,
    *,
    image_ids: Tensor | None = None,
    seed: int = 0,
    micro_batch: int | None = None,
    allow_dropout: bool = False,
) -> Tensor:
    """Return how far each map's sum is from the logit's difference to the black image; 0 for a complete method.

    Returns
    -------
    float64 tensor of shape (n_images,), in units of the logit
        sum of the attributions - (logit(image) - logit(black image)), of the target's logit.
    """
    ids = torch.arange(len(images)) if image_ids is None else image_ids
    check_inputs(model, images, targets, ids, micro_batch=micro_batch, seed=seed)
    if attributions.shape != images.shape:
        raise ValueError(f"attributions have shape {tuple(attributions.shape)}, the images {tuple(images.shape)}")
    with network_of(model, images, targets, seed=seed, micro_batch=micro_batch, allow_dropout=allow_dropout) as network:
        block = Block(network, network.formatted(images), targets, ids.tolist())
        difference = block.logits(1.0) - block.logits(0.0)
    return attributions.double().sum((1, 2, 3)) - difference


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
    network = block.network

    def explain(rows: Tensor, targets: Tensor) -> Tensor:
        # with dropout on, the reference must pass through the mask of its image
        shared = network.dropout_keys is None
        reference = network.black_inputs if shared else reference_inputs(network.model, torch.zeros_like(rows))
        with rescaled(network.model, reference):
            return rows * input_gradients(network.model, rows, targets)

    return block.per_row(explain)


def _by_captum(attribution: type[captum.attr.Attribution], n_rows: int | None = None) -> Callable[[Block], Tensor]:
    """Return the method as Captum computes it, on whole micro-batches or on `n_rows` at once."""

    def compute(block: Block) -> Tensor:
        def explain(rows: Tensor, targets: Tensor) -> Tensor:
            with warnings.catch_warnings(), torch.enable_grad(), _any_algorithm():
                warnings.filterwarnings("ignore", message="Setting (forward, )?backward hooks", category=UserWarning)
                return attribution(block.network.model).attribute(rows.requires_grad_(), target=targets)

        return block.per_row(explain, n_rows)

    return compute


@contextmanager
def _any_algorithm() -> Iterator[None]:
    """Let Captum's DeepLift unpool: torch has no version of it that it calls deterministic, though on a CPU it is."""
    wanted = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(wanted, warn_only=warn_only)


@dataclass(frozen=True)
class Method:
    """An attribution method: `compute(block, **options)` gives signed maps of the shape of `block.images`."""

    compute: Callable[..., Tensor]
    #: the maps sum to the logit's difference to the black image, but for this share of it (see `check_completeness`); none:
    #: they do not
    tolerance: float | None = None
    #: `check(side, **options)` raises a ValueError for options that do not fit together or to images of `side` pixels
    check: Callable[..., None] | None = None
    #: what it knows of layers; none: it takes the gradient or the logits of any network
    rules: LayerRules | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options and their defaults."""
        parameters = inspect.signature(self.compute).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


METHODS: Mapping[str, Method] = {
    "integrated_gradients": Method(_integrated_gradients, tolerance=1.0),
    "gradient_shap": Method(_gradient_shap),
    "deep_lift": Method(_deep_lift, tolerance=1e-3, rules=DEEP_LIFT),
    "saliency": Method(lambda block: block.gradient),
    "input_x_gradient": Method(lambda block: block.images * block.gradient),
    "guided_backprop": Method(_by_captum(captum.attr.GuidedBackprop), rules=RECTIFIERS),
    "deconvolution": Method(_by_captum(captum.attr.Deconvolution), rules=RECTIFIERS),
    "lrp": Method(_by_captum(captum.attr.LRP), rules=CAPTUM_LRP),
    # as published, one image at a time: its max-pool rule mixes the images of a batch, and it is not complete on VGG
    "deep_lift_captum": Method(_by_captum(captum.attr.DeepLift, n_rows=1), rules=DEEP_LIFT),
    "smooth_grad": Method(smooth_grad),
    "grad_cam": Method(grad_cam),
    "occlusion": Method(occlusion, check=check_windows),
    "lrp_epsilon_plus_flat": Method(lrp_epsilon_plus_flat, rules=ZENNIT_LRP),
    "random": Method(random),
}


#: by the type of an option's default: what is accepted, from which value, and how it is called
_OPTION_TYPES: Mapping[type, tuple[tuple[type[int | float], ...], float, str]] = {
    int: ((int,), 1, "a whole number from 1"),
    float: ((int, float), 0, "a finite number from 0"),
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
        accepted, least, expected = _OPTION_TYPES[type(valid[name])]
        if isinstance(value, bool) or not isinstance(value, accepted) or not least <= value < math.inf:
            raise ValueError(f"{method} got {name}={value!r}, {expected} is expected")
    if (check := METHODS[method].check) and image_size:
        check(image_size, **{**valid, **options})
