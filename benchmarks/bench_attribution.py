"""Attribution: is it exact, what does single precision cost, how fast is it, how much memory does it take.

`make bench` prints all of it, side by side in one run, on a GPU too when there is one, and says of each target whether it
holds. Ratios are what counts; absolute times depend on the machine.
"""

import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping

import captum.attr
import numpy as np
import pandas as pd
import torch
from claims import verdict
from pretrain_xai.attribution import attribute, attribute_all
from pretrain_xai.dataset import read_split
from pretrain_xai.localization import relevance_rank_accuracy
from pretrain_xai.localization.comparison_maps import reduce_channels
from pretrain_xai.methods.passes import input_gradients, micro_batch_rows
from pretrain_xai.networks.models import as_batch, build_network, load_finetuned
from pretrain_xai.networks.training import configure_torch
from pretrain_xai.paths import Paths
from pretrain_xai.plan import peak_memory
from pretrain_xai.settings.sections import Network
from pretrain_xai.study import load_study
from torch import Tensor, nn

CORES = 2
STEPS = 50
#: what the attribution of VGG-16 at 224 px may take, GiB
MEMORY_BUDGET = 4.0
#: forward and backward passes that the eight methods need: IG's steps, 5 SHAP samples, and one each for DeepLift, the
#: gradient that Saliency and InputXGradient share, Guided Backprop, Deconvolution and LRP
PASSES = STEPS + 5 + 5
EIGHT = load_study("demo").attribution.methods
#: Captum's own, as its documentation calls them
CAPTUM: Mapping[str, Callable[[nn.Module, Tensor, Tensor, int], Tensor]] = {
    "integrated_gradients": lambda model, x, y, steps: captum.attr.IntegratedGradients(model).attribute(
        x, target=y, n_steps=steps
    ),
    "gradient_shap": lambda model, x, y, _: captum.attr.GradientShap(model).attribute(
        x, torch.zeros_like(x[:1]), target=y
    ),
    "deep_lift": lambda model, x, y, _: captum.attr.DeepLift(model).attribute(x, target=y),
    "saliency": lambda model, x, y, _: captum.attr.Saliency(model).attribute(x, target=y, abs=False),
    "input_x_gradient": lambda model, x, y, _: captum.attr.InputXGradient(model).attribute(x, target=y),
    "guided_backprop": lambda model, x, y, _: captum.attr.GuidedBackprop(model).attribute(x, target=y),
    "deconvolution": lambda model, x, y, _: captum.attr.Deconvolution(model).attribute(x, target=y),
    "lrp": lambda model, x, y, _: captum.attr.LRP(model).attribute(x, target=y),
}
#: for these Captum gives no reference: other draws, another rule for max pools
WITHOUT_REFERENCE = ("gradient_shap", "deep_lift")


def demo_model(count: int) -> tuple[nn.Module, Tensor, Tensor, np.ndarray]:
    """Return a trained network of the demo, `count` of its test images on black, their labels and lesion masks."""
    study = load_study("demo")
    run = max(study.runs(), key=lambda run: (run.finetune_depth, run.pretraining))
    if not (Paths("demo").finetuned(run.name) / "weights.safetensors").is_file():
        sys.exit("the benchmark of attribution needs the demo's networks: run `make demo` first")
    test = read_split(Paths("demo").dataset / "test", study.protocol.mask_threshold)
    # not channels-last: as a user gives network and images to Captum
    network = load_finetuned(study, run).to(memory_format=torch.contiguous_format)
    images = as_batch(test.images[:count], network)
    return network, images, torch.from_numpy(np.array(test.labels[:count])), test.masks[np.arange(count)]


def vgg16(count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return VGG-16 at full width and noise of 224 px that is black outside a square."""
    network = build_network(Network(architecture="vgg16", width=1.0), n_classes=2, seed=0)
    images = torch.rand(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    images[:, :, :40], images[..., :40] = 0, 0
    return network, images, torch.arange(count) % 2


def options(steps: int) -> dict[str, dict[str, int]]:
    """Return the options of the eight methods."""
    return {"integrated_gradients": {"n_steps": steps}}


def captum_maps(network: nn.Module, images: Tensor, targets: Tensor, method: str, steps: int, rows: int = 1) -> Tensor:
    """Return Captum's maps, `rows` images at a time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = [
            CAPTUM[method](
                network, images[i : i + rows].clone().requires_grad_(), targets[i : i + rows], steps
            ).detach()
            for i in range(0, len(images), rows)
        ]
    return torch.cat(parts)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest value of the expected maps."""
    return float((found - expected).abs().max() / expected.abs().max())


def exactness(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    batch_sizes: tuple[int, ...],
    steps: int,
) -> pd.DataFrame:
    """Return relative differences per method: ours in other batches and reversed, and to Captum in double precision."""
    double = [network.double(), images[:3].double(), targets[:3]]
    reference = {method: captum_maps(*double, method, steps) for method in EIGHT if method not in WITHOUT_REFERENCE}
    # a pass of as many rows as there are images: in double precision its size makes no difference
    ours = attribute_all(*double, reference, options=options(steps), micro_batch=len(double[1]))
    network.float()
    rows = {}
    for method in EIGHT:
        given = options(steps).get(method, {})
        expected = attribute(network, images, targets, method, **given)
        ids = torch.arange(len(images))
        row = {
            f"batch {size}": relative_difference(
                attribute(network, images, targets, method, batch_size=size, **given), expected
            )
            for size in batch_sizes
        }
        back = attribute(network, images.flip(0), targets.flip(0), method, image_ids=ids.flip(0), **given)
        row["reversed"] = relative_difference(back.flip(0), expected)
        if method in reference:
            row["Captum, float64"] = relative_difference(ours[method], reference[method])
        rows[method] = row
    return pd.DataFrame(rows).T


def score_cost(network: nn.Module, images: Tensor, targets: Tensor, masks: np.ndarray, steps: int) -> pd.Series:
    """Return by how much single precision changes a method's Relevance Rank Accuracy, the largest over the images."""
    single = attribute_all(network, images, targets, EIGHT, options=options(steps))
    double = attribute_all(network.double(), images.double(), targets, EIGHT, options=options(steps))
    network.float()
    scores = [
        {method: relevance_rank_accuracy(reduce_channels(maps[method].numpy()), masks) for method in EIGHT}
        for maps in (single, double)
    ]
    return pd.Series({method: float(np.abs(scores[0][method] - scores[1][method]).max()) for method in EIGHT})


def seconds(function: Callable[[], object], repeats: int = 3) -> float:
    """Return the fastest of some runs."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)


def pass_seconds(network: nn.Module, images: Tensor, targets: Tensor, sizes: tuple[int, ...]) -> float:
    """Return the time of a forward and backward pass per image, in the fastest batch and memory format."""
    times = []
    network.requires_grad_(False)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        network.to(memory_format=memory_format)
        for size in sizes:
            batch, chosen = images[:size].contiguous(memory_format=memory_format), targets[:size]
            input_gradients(network, batch, chosen)
            times.append(seconds(lambda b=batch, t=chosen: input_gradients(network, b, t), repeats=5) / size)
    network.to(memory_format=torch.contiguous_format).requires_grad_(True)
    return min(times)


def print_exactness(table: pd.DataFrame) -> None:
    """Print the table and whether it is what it should be."""
    print(table.to_string(float_format="{:.1e}".format))
    batches = table.drop(columns="Captum, float64").to_numpy().max()
    print(verdict("largest difference between batches and orders", batches, 0, at_most=True))
    print(verdict("largest difference to Captum", table["Captum, float64"].max(), 1e-8, at_most=True))


def print_speed(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    n_loop: int,
    sizes: tuple[int, ...],
    repeats: int,
    times: float,
    bounds: float,
) -> None:
    """Compare the eight methods: Captum image by image and in batches, ours, and the bound."""
    n, (height, width) = len(images), images.shape[2:]

    def plain(count: int, size: int) -> None:
        for method in EIGHT:
            captum_maps(network, images[:count], targets[:count], method, STEPS, size)

    def ours() -> None:
        attribute_all(network, images, targets, EIGHT, options=options(STEPS))

    loop = seconds(lambda: plain(n_loop, 1), repeats) / n_loop
    batches = seconds(lambda: plain(n_loop, n_loop), repeats) / n_loop
    configure_torch(CORES)  # as every notebook does; the loop ran as Captum's user would run it
    mine = seconds(ours, repeats) / n
    torch.use_deterministic_algorithms(False)
    bound = PASSES * pass_seconds(network, images, targets, sizes)
    for name, value in (
        ("Captum, image by image", loop),
        (f"Captum, {n_loop} at a time", batches),
        (f"ours, passes of {micro_batch_rows(height, width)}", mine),
        (f"bound, {PASSES} passes", bound),
    ):
        print(f"  {name:<26}{1e3 * value:>10.1f} ms an image   {loop / value:6.2f} times as fast as the loop")
    print(verdict("times as fast as the loop", loop / mine, times, at_most=False))
    print(verdict("times the bound", mine / bound, bounds, at_most=True))


def memory_of_vgg16() -> float:
    """Return the largest resident set, GiB, of a process of its own that explains VGG-16 images by all eight methods."""
    done = subprocess.run([sys.executable, __file__, "--explain-vgg16"], check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def explain_vgg16() -> None:
    """Explain VGG-16 images and print the process' largest resident set, GiB."""
    configure_torch(CORES)
    attribute_all(*vgg16(10), EIGHT, options=options(4))
    print(peak_memory() / 2**30)


def main() -> None:
    """Print all tables."""
    torch.set_num_threads(CORES)
    print(f"{CORES} threads, torch {torch.__version__}\n")
    network, images, targets, masks = demo_model(64)
    print(
        "Largest relative differences of maps, a trained network of the demo, 33 images, 4 IG steps; 0: the same bits"
    )
    print_exactness(exactness(network, images[:33], targets[:33], (1, 2, 7, 32), 4))
    wide = vgg16(4)
    print("\nThe same, VGG-16 at 224 px, 2 images")
    print_exactness(exactness(wide[0], wide[1][:2], wide[2][:2], (1, 2), 4))
    print("\nWhat single precision changes in Relevance Rank Accuracy, largest of 33 images")
    cost = score_cost(network, images[:33], targets[:33], masks[:33], 4)
    print(cost.to_string(float_format="{:.4f}".format))
    print(verdict("largest change of a score", cost.max(), 0.005, at_most=True))
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        print(f"\nEight methods, {STEPS} IG steps, {device}, demo network at {images.shape[-1]} px")
        given = network.to(device), images.to(device), targets.to(device)
        print_speed(*given, n_loop=16, sizes=(16, 24, 32, 48, 64), repeats=3, times=4, bounds=1.3)
        print(f"\nEight methods, {STEPS} IG steps, {device}, VGG-16 at 224 px")
        given = wide[0].to(device), wide[1].to(device), wide[2].to(device)
        print_speed(*given, n_loop=1, sizes=(1, 2, 4), repeats=1, times=1, bounds=1.15)
    print("\nExplaining VGG-16 at 224 px in a process of its own")
    print(verdict("peak memory, GiB", memory_of_vgg16(), MEMORY_BUDGET, at_most=True))


if __name__ == "__main__":
    if "--explain-vgg16" in sys.argv:
        explain_vgg16()
    else:
        main()
