"""Dataset: lesions laid and images resized as a literal loop and as ours, in turn in one run; memory and a kill at full size.

Ratios are those of processor time, which other work on the machine changes little.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from claims import processor_seconds, verdict
from numpy.lib.format import open_memmap
from pretrain_xai.dataset import build_splits, read_split
from pretrain_xai.lesions import generate_patches
from pretrain_xai.overlay import overlay_lesions
from pretrain_xai.plan import peak_memory
from pretrain_xai.protocol import CORRECTED, PUBLISHED, Protocol
from pretrain_xai.settings.sections import Dataset
from pretrain_xai.slices.sources import read_slices
from pretrain_xai.slices.template import simulate_cohort, simulate_participants
from released_overlay import released_overlay
from scipy import ndimage
from skimage.transform import resize

#: height and width of the slices of the original, and how many are evaluated
SHAPE, N_SLICES = (260, 311), 8_539
#: side of a pixel of theirs (HCP), mm
RESOLUTION = 0.7
#: of the first slice
SEED = 50_000
SIZE = 224
SPEED, TOLERANCE, MEMORY_GB = 4.0, 1e-6, 2.0
#: slices of the side-by-side run, and how often it is repeated
N_TIMED, REPEATS = 256, 5
#: laid over all slices
PATCHES = generate_patches(10)
#: size of the file of images when the build at full size is killed
BYTES_BEFORE_KILL = 2**29


def write_cohort(folder: Path, n_slices: int) -> None:
    """Write slices simulated from the template, of the original's size in pixels and mm; from the 400th on repeated."""
    people = simulate_participants({"test": -(-min(n_slices, 400) // 8)}, np.random.default_rng(0))
    simulated = [slice_ for slices, _ in simulate_cohort(people, 8, (0.0, 30.0), seed=0) for slice_ in slices]
    resampled = [on_their_grid(slice_) for slice_ in simulated]
    folder.mkdir(parents=True)
    stored = open_memmap(folder / "slices.npy", "w+", np.float32, (n_slices, *SHAPE))
    for number in range(n_slices):
        stored[number] = resampled[number % len(resampled)]
    stored.flush()
    names = [f"sub-{number // 8:04d}" for number in range(n_slices)]
    pd.DataFrame({"subject": names, "sex": "F", "age": 30, "z": 0.0, "split": "test"}).to_csv(
        folder / "slices.csv", index=False
    )


def on_their_grid(slice_: np.ndarray) -> np.ndarray:
    """Return a slice of 1 mm on the grid of the original's, as on that of HCP from left to right."""
    larger = ndimage.zoom(slice_.T, 1 / RESOLUTION, order=1)
    margins = [max(0, whole - side) for whole, side in zip(SHAPE, larger.shape, strict=True)]
    padded = np.pad(larger, [(margin // 2, margin - margin // 2) for margin in margins])
    top, left = ((side - whole) // 2 for whole, side in zip(SHAPE, padded.shape, strict=True))
    return padded[top : top + SHAPE[0], left : left + SHAPE[1]]


def build(folder: Path, slices_folder: Path, protocol: Protocol) -> None:
    """Build the split as the notebook does."""
    slices, table = read_slices(slices_folder)
    settings = Dataset(image_size=SIZE).model_copy(update={"seed_bases": {"test": SEED}})
    build_splits(folder, slices, table, PATCHES, {"test": len(PATCHES["round"])}, settings, protocol)


def as_released(slice_: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Lay lesions as the released code does."""
    return released_overlay(slice_.astype(float), PATCHES, seed)[:2]


def as_corrected(slice_: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Lay lesions as this library does, which is fast already."""
    laid = overlay_lesions(slice_, PATCHES, seed, CORRECTED)
    return laid.image, laid.ground_truth


def literal(lay: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]], slices_folder: Path, folder: Path) -> None:
    """Lay lesions on each slice, resize image (three channels first, as released) and ground truth, store both."""
    images, truths = [], []
    for number, slice_ in enumerate(np.load(slices_folder / "slices.npy")):
        image, truth = lay(slice_, SEED + number)
        images.append(resize(np.repeat(image[..., None], 3, axis=2), (SIZE, SIZE))[..., 0].astype(np.float32))
        truths.append(resize(truth, (SIZE, SIZE)).astype(np.float32))
    folder.mkdir(exist_ok=True)
    np.save(folder / "images.npy", np.stack(images))
    np.save(folder / "truths.npy", np.stack(truths))


def speed(folder: Path, lay: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]], protocol: Protocol) -> None:
    """Compare the literal loop with all that ours does, tables and audit columns included."""
    slices, loop, times = folder / "few", folder / "loop", []
    way = "as published" if protocol is PUBLISHED else "as corrected"
    for _ in range(REPEATS):
        shutil.rmtree(folder / "ours", ignore_errors=True)
        plain = processor_seconds(lambda: literal(lay, slices, loop))
        ours = processor_seconds(lambda: build(folder / "ours", slices, protocol))
        times.append((plain, ours))
        print(f"  literal loop {1e3 * plain / N_TIMED:6.2f} ms a slice, ours {1e3 * ours / N_TIMED:6.2f} ms")
    plain, ours = (min(column) for column in zip(*times, strict=True))
    print(verdict(f"{way}: times as fast in one process, fastest of each", plain / ours, SPEED, at_most=False))
    split = read_split(folder / "ours" / "test", mask_threshold=0)
    images, truths = (np.load(loop / f"{name}.npy") for name in ("images", "truths"))
    print(
        verdict(
            f"{way}: largest difference of a pixel", float(np.abs(split.images - images).max()), TOLERANCE, at_most=True
        )
    )
    differing = np.count_nonzero(split.masks[:] != (truths > 0))
    print(verdict(f"{way}: pixels in which the published masks differ", differing, 0, at_most=True))


def full_size(folder: Path) -> None:
    """Build all slices in a process of its own, kill it on the way, build in another, and print what memory it took."""
    write_cohort(folder / "all", N_SLICES)
    command = [sys.executable, __file__, "--build", str(folder / "built"), str(folder / "all")]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while (
        not any(f.stat().st_size > BYTES_BEFORE_KILL for f in (folder / "built" / "test").glob(".*"))
        and first.poll() is None
    ):
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    started = time.perf_counter()
    second = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    print(f"  killed on the way; building takes {time.perf_counter() - started:.0f} s")
    print(verdict("files left by the kill", len(list((folder / "built" / "test").glob(".*"))), 0, at_most=True))
    print(verdict("images missing", N_SLICES - len(read_split(folder / "built" / "test")), 0, at_most=True))
    print(verdict("peak memory of the program, GB", float(second.stdout), MEMORY_GB, at_most=True))


def main() -> None:
    """Print speed, exactness and memory."""
    with tempfile.TemporaryDirectory() as name:
        print(
            f"Dataset, {N_TIMED} slices of {SHAPE[0]} x {SHAPE[1]} to {SIZE} px, as published, beside the released code"
        )
        write_cohort(Path(name) / "few", N_TIMED)
        speed(Path(name), as_released, PUBLISHED)
        print("\nThe same as corrected, beside a loop in which only resizing is theirs")
        speed(Path(name), as_corrected, CORRECTED)
        print(f"\nDataset, {N_SLICES} slices of {SHAPE[0]} x {SHAPE[1]} to {SIZE} px, in a process of its own")
        full_size(Path(name))


if __name__ == "__main__":
    if "--build" in sys.argv:
        build(*map(Path, sys.argv[2:4]), CORRECTED)
        print(peak_memory() / 1e9)
    else:
        main()
