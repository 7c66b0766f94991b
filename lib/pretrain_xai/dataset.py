"""The images with lesions that networks learn and that explanations are scored on, one folder per split."""

import logging
import math
import mmap
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from pretrain_xai import overlay
from pretrain_xai.arrays import Booleans
from pretrain_xai.ground_truths import GroundTruths
from pretrain_xai.lesions import Patches, split_patches
from pretrain_xai.overlay import NoRoomError, OverlayError, overlay_lesions
from pretrain_xai.protocol import CORRECTED, Protocol
from pretrain_xai.settings.sections import Dataset
from pretrain_xai.tables import growing_array, read_with_arrays, write_table

#: slices that a process lays lesions over at a time
PART = 64
#: sets the draws of lesion-free slices apart from other draws by the same seed
LESION_FREE_STREAM = 1
#: side of the lesion-free thumbnails that the audit's probe sees, pixels
THUMBNAIL = 12


@dataclass(frozen=True)
class LabelledImages:
    """Images and their classes.

    Attributes
    ----------
    images : array of shape (n, height, width) or (n, height, width, 3), memory-mapped or not
        float32 in [0, 1], or uint8 in [0, 255].
    labels : int array of shape (n,)
    undecided : bool array of shape (n,), or None if there are none
        Images that show no class, such as slices without lesions, whatever their label: a network is to find all classes
        equally likely.
    """

    images: np.ndarray
    labels: np.ndarray
    undecided: Booleans | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class LesionMasks:
    """The lesion masks of a split, made from the lesions' strength when they are indexed, as bool arrays.

    Attributes
    ----------
    strength : float32 array of shape (n, height, width), range [0, 1], memory-mapped
        What the strongest lesion at a pixel reaches, as a share of its patch's own maximum.
    threshold : float
        `Protocol.mask_threshold`.
    """

    strength: np.ndarray
    threshold: float

    def __len__(self) -> int:
        return len(self.strength)

    def __getitem__(self, index: int | slice | np.ndarray | list[int]) -> np.ndarray:
        return overlay.lesion_masks(np.asarray(self.strength[index]), self.threshold)


@dataclass(frozen=True)
class Split(LabelledImages):
    """The images of one split of the dataset.

    Attributes
    ----------
    masks : LesionMasks
        The lesion masks; indexed, a bool array of shape (..., height, width).
    table : DataFrame
        One row per image: `image_index`, `slice_index`, `subject`, `sex`, `age`, `z`, `split`, `label`, `n_lesions`, `seed`,
        and what the audit reports: `mask_pixels`, `box_pixels`, `lightening`, `outside_difference`, and the ranks of the
        first positions drawn, accepted or not (`draw_0` ...).
    twins, twin_strength : float32 arrays of shape (n, height, width), range [0, 1], memory-mapped, optional
        Of the test split: each image with as many lesions of the other class at the same centres, and their strength.
    """

    masks: LesionMasks
    table: pd.DataFrame
    twins: np.ndarray | None = None
    twin_strength: np.ndarray | None = None

    def ground_truths(self, chunk: np.ndarray) -> GroundTruths:
        """Return what maps of the images `chunk` (n,) may be scored against."""
        strength = np.asarray(self.masks.strength[chunk])
        if self.twins is None or self.twin_strength is None:
            return GroundTruths(strength)
        difference = np.abs(self.images[chunk] - self.twins[chunk])
        return GroundTruths(strength, np.asarray(self.twin_strength[chunk]), difference)


def build_splits(
    folder: Path,
    slices: np.ndarray,
    table: pd.DataFrame,
    patches: Patches,
    shares: Mapping[str, int],
    settings: Dataset,
    protocol: Protocol,
    workers: int = 1,
) -> dict[str, Patches]:
    """Lay lesions over the slices of every split that has a seed base, and return the patches that each could carry.

    Slice i of a split (in the order of `table`) takes the seed `seed_bases[split] + i`, so that every image depends on its
    own slice only. With `corner_placement`, as published, a small slice may have no room for its lesions, and the released
    code would never end: such slices are left out, with a warning that says how many.

    Parameters
    ----------
    folder : Path
        Images, lesions and tables of each split are written to a folder in it, streamed.
    slices : float array of shape (n_slices, height, width)
        All slices of the study.
    table : DataFrame
        The slice table of all splits; its index numbers `slices`.
    patches : dict
        All patches of each class.
    shares : mapping from split to int
        Patches per class of each split: disjoint pools, or the same largest pool for all as published.
    workers : int
        Processes; the results are the same for any number.

    Raises
    ------
    OverlayError
        A slice can't carry its lesions; with `corner_placement` only if none of a split has room.
    """
    shares = {split: shares[split] for split in settings.seed_bases}
    if protocol.shared_patch_pool:
        largest = {name: pool[: max(shares.values())] for name, pool in patches.items()}
        pools = {split: largest for split in shares}
    else:
        pools = split_patches(patches, shares)
    for split, seed_base in settings.seed_bases.items():
        sources = ["validation", "test"] if split == "test" and protocol.selection_on_test else [split]
        rows = table[table["split"].isin(sources)].assign(split=split)
        rows["seed"] = seed_base + np.arange(len(rows))
        calls = (
            joblib.delayed(_lay)(_row_of(slices, row["slice_index"]), row, pools[split], settings, protocol)
            for row in rows.rename_axis("slice_index").reset_index().to_dict("records")
        )
        pool = joblib.Parallel(
            workers, return_as="generator", max_nbytes=None, batch_size=PART, pre_dispatch=2 * PART * workers
        )
        names = ["images", "strength", "thumbnails"]
        if split == "test":
            names += ["clean", "twins", "twin_strength"] if protocol.has_twins else ["clean"]
        _write_split(folder / split, names, tqdm(pool(calls), split, len(rows), unit="image"))
    return pools


def _write_split(folder: Path, names: list[str], laid: Iterable[Any]) -> None:
    """Write what `_lay` returns of the slices of a split, streamed, and of the arrays the first, which `names` calls."""
    for left in folder.glob(".*.npy"):  # by a build that was killed
        left.unlink()
    rows, lesions, errors = list[Any](), list[Any](), list[NoRoomError]()
    with ExitStack() as stack:
        adds = [stack.enter_context(growing_array(folder / f"{name}.npy")) for name in names]
        for of_slice in laid:
            if isinstance(of_slice, NoRoomError):
                errors.append(of_slice)
                continue
            row, of_lesions, *arrays = of_slice
            for add, array in zip(adds, arrays, strict=False):
                add(array[None])
            lesions += [{"image": len(rows)} | lesion for lesion in of_lesions]
            rows.append(row)
        if errors and not rows:
            raise errors[-1]
    if errors:
        message = "%d of %d slices have no room for lesions placed by their corners and are left out"
        logging.getLogger(__name__).warning(message, len(errors), len(errors) + len(rows))
    write_table(pd.DataFrame(rows).rename_axis("image_index").reset_index(), folder / "images.csv")
    write_table(pd.DataFrame(lesions), folder / "lesions.csv")


def read_split(folder: Path, mask_threshold: float = CORRECTED.mask_threshold, *, with_twins: bool = False) -> Split:
    """Read a split that `build_splits` wrote, perhaps with twins; images and lesions stay on disk until they are used.

    Raises
    ------
    TableError
        A file is missing or broken, or their numbers of images differ.
    """
    names = ["twins", "twin_strength"] if with_twins else []
    images, strength, *twins, table = read_with_arrays(folder / "images.csv", "images", "strength", *names)
    labels = table["label"].to_numpy(dtype=np.int64)
    masks, free = LesionMasks(strength, mask_threshold), table["n_lesions"].to_numpy() == 0
    return Split(images, labels, masks, table, *twins, undecided=free if free.any() else None)


def read_lesion_free(folder: Path) -> LabelledImages:
    """Read the slices of the test images without their lesions, with the images' classes; as `read_split`."""
    images, table = read_with_arrays(folder / "images.csv", "clean")
    return LabelledImages(images, table["label"].to_numpy(dtype=np.int64))


def _row_of(slices: np.ndarray, index: int) -> np.ndarray:
    """Return a copy of a slice; of a memory-mapped file no page stays in memory."""
    if isinstance(slices, np.memmap) and isinstance(slices.base, mmap.mmap):
        slices = np.memmap(slices.filename, slices.dtype, "r", slices.offset, slices.shape)
    return np.array(slices[index])


def _lay(
    slice_: np.ndarray, row: dict[str, Any], patches: Patches, settings: Dataset, protocol: Protocol
) -> tuple[Any, ...] | NoRoomError:
    """Lay lesions over a slice: what tables say of image and lesions, and its arrays; see `build_splits`.

    Where corners may leave no room for the lesions, the error is returned.
    """
    size, intensities = settings.image_size, settings.model_dump(include={"lesion_intensity", "brain_intensity"})
    try:
        laid = overlay_lesions(slice_, patches, row["seed"], protocol, **intensities)
        if row["split"] != "test" and _draw(row["seed"]) < protocol.lesion_free_share:
            laid = laid.without_lesions
        image, strength, clean, support = overlay.to_model_resolution(laid, size)
        # the mask that the audit reports; scores make theirs by the protocol's threshold
        mask = overlay.lesion_masks(strength, CORRECTED.mask_threshold)
        if laid.n_lesions and not mask.any():
            raise OverlayError(f"no pixel of {size} x {size} shows a lesion; raise image_size")
    except OverlayError as error:
        named = type(error)(f"slice {row['slice_index']} ({row['subject']}): {error}")
        if protocol.corner_placement and isinstance(named, NoRoomError):
            return named
        raise named from None
    twin = overlay.to_model_resolution(laid.twin, size)[:2] if laid.twin and row["split"] == "test" else ()
    difference = image - clean
    about = {
        "label": laid.label,
        "n_lesions": laid.n_lesions,
        "mask_pixels": np.count_nonzero(mask),
        "box_pixels": sum(patch.size for patch in laid.weights),
        "lightening": float(difference[mask].mean()) if laid.n_lesions else math.nan,
        **{f"draw_{number}": laid.drawn_indices[number] for number in range(overlay.FEWEST)},
        "outside_difference": float(np.abs(difference[~support]).max(initial=0)),
    }
    lesions = [
        {"order": order, "label": laid.label, "patch": patch, "row": centre[0], "column": centre[1]}
        for order, (patch, centre) in enumerate(zip(laid.patch_indices, laid.centres, strict=True))
    ]
    step = size // THUMBNAIL
    cut = clean[: step * THUMBNAIL, : step * THUMBNAIL].reshape(THUMBNAIL, step, THUMBNAIL, step)
    return row | about, lesions, image, strength, cut.mean(axis=(1, 3)).ravel(), clean, *twin


def _draw(seed: int) -> float:
    """Return a number in [0, 1) of a stream of its own, which decides whether a slice carries lesions."""
    return float(np.random.default_rng((seed, LESION_FREE_STREAM)).random())
