"""Attribution methods beyond the study's eight: smoothed, by class activation, by occlusion, another LRP, and chance.

Each is a function of a `Block`, so that its maps depend on no other image either, and one entry of
`attribution.METHODS`.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain_xai.methods.passes import Block, input_gradients

#: set draws by the same seed and image id apart, as `guard.DROPOUT_STREAM` does
NOISE_STREAM, RANDOM_STREAM = 2, 3


def smooth_grad(block: Block, *, n_samples: int = 25, noise: float = 0.15) -> Tensor:
    """Smilkov et al. 2017: the mean of the gradient at `n_samples` noisy copies of the image.

    `noise` is the standard deviation of the Gaussian noise as a share of the image's range (their sigma / (x_max -
    x_min)); the defaults are those of their released code. Noise is drawn from (seed, image id, sample), for each channel.
    """
    total = torch.zeros_like(block.images)
    deviation = noise * (block.images.amax((1, 2, 3)) - block.images.amin((1, 2, 3)))
    for images, samples, targets in block.micro_batches(n_samples):
        rows = block.network.padded(block.images[images])
        for row, image, sample in zip(rows, images, samples, strict=False):  # without the padding
            rng = np.random.default_rng((block.network.seed, block.image_ids[image], sample, NOISE_STREAM))
            row.add_(deviation[image] * torch.as_tensor(rng.standard_normal(tuple(row.shape))).to(row))
        for image, gradient in zip(images, input_gradients(block.network.model, rows, targets), strict=False):
            total[image] += gradient
    return total / n_samples


def grad_cam(block: Block) -> Tensor:
    """Selvaraju et al. 2017, Eq. 1 and 2, upsampled to the image bilinearly; >= 0, the channels sum to the map.

    Of the rectifier behind the last convolution, as in their code (relu5_3 of VGG-16), else of that convolution itself.
    """
    layer = _last_feature_layer(block.network.model)

    def explain(rows: Tensor, targets: Tensor) -> Tensor:
        activations: list[Tensor] = []

        def start_here(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
            if output.ndim != 4:
                return output  # a rectifier that is used again behind the pooling
            activations[:] = [output.detach().requires_grad_()]  # of its last call; no gradient is needed below
            return activations[0]

        with layer.register_forward_hook(start_here), torch.enable_grad():
            logits = block.network.model(rows).gather(1, targets[:, None])
        (gradient,) = torch.autograd.grad(logits.sum(), activations)
        weights = gradient.mean((2, 3), keepdim=True)
        cam = functional.relu((weights * activations[0].detach()).sum(1, keepdim=True))
        return _in_three_channels(functional.interpolate(cam, rows.shape[2:], mode="bilinear"))

    return block.per_row(explain)


def occlusion(block: Block, *, window: int = 16, stride: int = 8) -> Tensor:
    """Zeiler and Fergus 2014: how much the logit drops when a black square of `window` pixels hides a part of the image.

    Squares start every `stride` pixels; a pixel gets the mean drop of those that cover it, in each channel (a square hides
    all three). Active dropout draws a mask per square, as every pass of the published protocol does.

    Raises
    ------
    ValueError
        If squares would leave gaps or do not fit into the image.
    """
    height, width = block.images.shape[2:]
    check_windows(min(height, width), window=window, stride=stride)
    # the last squares of a side may reach beyond it
    tops, lefts = (range(0, side - window + stride, stride) for side in (height, width))
    squares = [(..., slice(top, top + window), slice(left, left + window)) for top in tops for left in lefts]

    def hide(row: Tensor, step: int) -> None:
        if step:  # step 0 is the image as it is
            row[squares[step - 1]] = 0

    logits = block.logits(1 + len(squares), hide)
    drops = logits[:, :1] - logits[:, 1:]
    total, coverage = torch.zeros_like(block.images), torch.zeros_like(block.images[:1])
    for number, square in enumerate(squares):
        total[square] += drops[:, number, None, None, None]
        coverage[square] += 1
    return total / coverage


def check_windows(side: int, *, window: int, stride: int) -> None:
    """Raise a ValueError if the squares of `occlusion` would leave gaps or do not fit into images of `side` pixels."""
    if stride > window or window > side:
        raise ValueError(
            f"occlusion got window={window} and stride={stride} for images with a side of {side} px: "
            "stride must be at most window, and window at most the image's side"
        )


def lrp_epsilon_plus_flat(block: Block) -> Tensor:
    """LRP by zennit's composite EpsilonPlusFlat: epsilon rule for linear layers, z+ for convolutions, flat for the first.

    Relevance starts as the logit. What acts on each value alone (rectifiers, dropout, the standardising convolution, which
    is not the first one therefore) passes it on unchanged (Kohlbrenner et al. 2020; Lapuschkin et al. 2019 for the
    flat rule). It differs from `lrp`, which is InputXGradient on a VGG. Batch normalisation has no rule: merge it into its
    convolution first.
    """
    from zennit.composites import EpsilonPlusFlat
    from zennit.core import Composite, Hook
    from zennit.rules import Pass

    model, flat = block.network.model, EpsilonPlusFlat()

    def rule(context: dict[str, bool], name: str, module: nn.Module) -> Hook | None:
        return Pass() if _acts_on_each_value_alone(module) else flat.module_map(context, name, module)

    def explain(rows: Tensor, targets: Tensor) -> Tensor:
        rows = rows.detach().requires_grad_()
        with torch.enable_grad(), Composite(rule).context(model):
            logits = model(rows).gather(1, targets[:, None])
            return torch.autograd.grad(logits, rows, grad_outputs=logits.detach())[0]

    return block.per_row(explain)


def random(block: Block) -> Tensor:
    """Return a map that knows neither image nor network: uniform noise on [0, 1) from (seed, image id)."""
    rngs = (np.random.default_rng((block.network.seed, image_id, RANDOM_STREAM)) for image_id in block.image_ids)
    draws = np.array([rng.random(block.images.shape[2:]) for rng in rngs])
    return _in_three_channels(torch.as_tensor(draws).to(block.images)[:, None])


def _acts_on_each_value_alone(module: nn.Module) -> bool:
    """Say whether each output value comes from one input value: dropout, and a 1x1 convolution that mixes no channels."""
    if not isinstance(module, nn.Conv2d):
        return isinstance(module, nn.Dropout)
    weight = module.weight.detach()
    square = weight.shape[2:] == (1, 1) and weight.shape[0] == weight.shape[1]
    return square and torch.equal(weight[..., 0, 0], weight[..., 0, 0].diag().diag())


def _last_feature_layer(model: nn.Module) -> nn.Module:
    leaves = [module for module in model.modules() if next(module.children(), None) is None]
    features = [i for i, m in enumerate(leaves) if isinstance(m, nn.Conv2d) and not _acts_on_each_value_alone(m)]
    if not features:
        raise TypeError("grad_cam needs a convolution (nn.Conv2d), the model has none")
    layer, *following = leaves[features[-1] :]
    return following[0] if following and isinstance(following[0], nn.ReLU) else layer


def _in_three_channels(maps: Tensor) -> Tensor:
    """Spread maps (n, 1, height, width) evenly over the channels, which sum to them again (see `reduce_channels`)."""
    return (maps / 3).expand(-1, 3, -1, -1)
