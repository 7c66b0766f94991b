"""Dataset: lesions laid and images resized as a literal loop and as ours, in turn in one run; memory and a kill at full size.

Ratios are those of processor time, which other work on the machine changes little.
"""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap
from pretrain_xai.dataset import build_split, read_split
from pretrain_xai.lesions import generate_patches
from pretrain_xai.overlays.overlay import overlay_lesions
from pretrain_xai.overlays.split_parts import PART
from pretrain_xai.protocol import CORRECTED
from pretrain_xai.running.peak_memory import peak_memory
from pretrain_xai.settings.sections import Dataset
from pretrain_xai.slices.simulated import read_slices, simulate_cohort, simulate_participants
from skimage.transform import resize

#: height and width of the slices of the original, and how many are evaluated
SHAPE, N_SLICES = (260, 311), 8_539
SIZE = 224
SPEED, TOLERANCE, MEMORY_GB = 4.0, 1e-6, 2.0
#: slices of the side-by-side run, and how often it is repeated
N_TIMED, REPEATS = 512, 5
#: laid over all slices
PATCHES = generate_patches(10)
#: parts that are done before the build at full size is killed
PARTS_BEFORE_KILL = 40


def write_cohort(folder: Path, n_slices: int) -> None:
    """Write slices simulated from the template, on black of the original's size; from the 400th on repeated."""
    people = simulate_participants({"test": -(-min(n_slices, 400) // 8)}, np.random.default_rng(0))
    parts = [slices for slices, _ in simulate_cohort(people, 8, (0.0, 30.0), seed=0)]
    simulated = np.concatenate(parts)
    top, left = ((whole - side) // 2 for whole, side in zip(SHAPE, simulated.shape[1:], strict=True))
    folder.mkdir(parents=True)
    stored = open_memmap(folder / "slices.npy", "w+", np.float32, (n_slices, *SHAPE))
    for number in range(n_slices):
        box = stored[number, top : top + simulated.shape[1], left : left + simulated.shape[2]]
        box[:] = simulated[number % len(simulated)]
    stored.flush()
    names = [f"sub-{number // 8:04d}" for number in range(n_slices)]
    pd.DataFrame({"subject": names, "sex": "F", "age": 30, "z": 0.0, "split": "test"}).to_csv(
        folder / "slices.csv", index=False
    )


def build(folder: Path, slices_folder: Path) -> None:
    """Build the split as the notebook does."""
    slices, table = read_slices(slices_folder)
    build_split(folder, slices, table, PATCHES, 50_000, Dataset(image_size=SIZE), CORRECTED)


def literal(slices: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Lay lesions on one slice after the other and resize image (three channels first, as released) and ground truth."""
    results = []
    for number, slice_ in enumerate(slices):
        laid = overlay_lesions(slice_, PATCHES, 50_000 + number, CORRECTED)
        image = resize(np.repeat(laid.image[..., None], 3, axis=2), (SIZE, SIZE))
        results.append((image[..., 0], resize(laid.ground_truth, (SIZE, SIZE))))
    return results


def processor_seconds(function: Callable[[], object]) -> float:
    """Return the processor time that the function takes."""
    started = time.process_time()
    function()
    return time.process_time() - started


def speed(folder: Path) -> None:
    """Compare the literal loop with all that ours does, files and audit columns included."""
    write_cohort(folder / "few", N_TIMED)
    slices, times = np.load(folder / "few" / "slices.npy"), []
    for repeat in range(REPEATS):
        plain = processor_seconds(lambda: literal(slices))
        ours = processor_seconds(lambda to=folder / f"few{repeat}": build(to, folder / "few"))
        times.append((plain, ours))
        print(
            f"  literal loop {1e3 * plain / N_TIMED:6.2f} ms a slice, ours {1e3 * ours / N_TIMED:6.2f} ms, all included"
        )
    plain, ours = (min(column) for column in zip(*times, strict=True))
    print(verdict("times as fast in one process, fastest of each", plain / ours, SPEED, at_most=False))
    split = read_split(folder / "few0", mask_threshold=0)
    images, truths = (np.stack(arrays) for arrays in zip(*literal(slices), strict=True))
    print(verdict("largest difference of a pixel", float(np.abs(split.images - images).max()), TOLERANCE, at_most=True))
    differing = np.count_nonzero(split.masks[:] != (truths > 0))
    print(verdict("pixels in which the published masks differ", differing, 0, at_most=True))


def full_size(folder: Path) -> None:
    """Build all slices in a process of its own, kill it on the way, go on in another, and print what memory it took."""
    write_cohort(folder / "all", N_SLICES)
    command = [sys.executable, __file__, "--build", str(folder / "built"), str(folder / "all")]
    building = folder / "built" / ".building"
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while len(list(building.glob("part-*.npz"))) < PARTS_BEFORE_KILL and first.poll() is None:
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = {file: file.stat().st_mtime_ns for file in building.glob("part-*.npz")}
    started = time.perf_counter()
    second = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    seen: dict[Path, int] = {}
    while second.poll() is None:
        seen |= {file: file.stat().st_mtime_ns for file in done if file.exists()}
        time.sleep(0.2)
    again = sum(seen.get(file, time_) != time_ for file, time_ in done.items())
    print(
        f"  killed after {len(done)} of {-(-N_SLICES // PART)} parts; the rest took {time.perf_counter() - started:.0f} s"
    )
    print(verdict("parts done again after the kill", again, 0, at_most=True))
    print(verdict("images missing", N_SLICES - len(read_split(folder / "built")), 0, at_most=True))
    print(verdict("peak memory of the program, GB", float(second.stdout.read()), MEMORY_GB, at_most=True))


def verdict(text: str, value: float, target: float, *, at_most: bool) -> str:
    """Say whether a measured value reaches its target."""
    holds = value <= target if at_most else value >= target
    return f"{'holds' if holds else 'DOES NOT HOLD'}: {text} {value:.4g}, {'at most' if at_most else 'at least'} {target:g}"


def main() -> None:
    """Print speed, exactness and memory."""
    with tempfile.TemporaryDirectory() as name:
        print(f"Dataset, {N_TIMED} slices of {SHAPE[0]} x {SHAPE[1]} to {SIZE} px")
        speed(Path(name))
        print(f"\nDataset, {N_SLICES} slices of {SHAPE[0]} x {SHAPE[1]} to {SIZE} px, in a process of its own")
        full_size(Path(name))


if __name__ == "__main__":
    if "--build" in sys.argv:
        build(*map(Path, sys.argv[2:4]))
        print(peak_memory() / 1e9)
    else:
        main()
