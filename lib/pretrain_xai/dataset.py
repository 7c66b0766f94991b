"""The images with lesions that networks learn and that explanations are scored on, one folder per split."""

import itertools
import logging
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pretrain_xai.lesions import Patches, split_patches
from pretrain_xai.overlay import LesionSlice, checked_slice, lesion_masks, overlay_lesions, to_model_resolution
from pretrain_xai.placement import FEWEST, NoRoomError, OverlayError, PlacedLesions, place_lesions
from pretrain_xai.protocol import CORRECTED, Protocol
from pretrain_xai.provenance import atomic_path
from pretrain_xai.settings.sections import Dataset
from pretrain_xai.split_parts import PartStore, build_key, part_starts, side_by_side
from pretrain_xai.tables import TableError, read_table, write_table

__all__ = [
    "LabelledImages",
    "LesionSlice",
    "build_split",
    "build_splits",
    "overlay_lesions",
    "patch_pools",
    "read_split",
]

#: what the table of images says of each image besides its slice, and that of lesions of each lesion
IMAGE_COLUMNS = (
    *("label", "n_lesions", "mask_pixels", "box_pixels", "lightening"),
    *(f"draw_{number}" for number in range(FEWEST)),
    "outside_difference",
)
LESION_COLUMNS = ("image", "order", "label", "patch", "row", "column")
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
    """

    images: np.ndarray
    labels: np.ndarray

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
        return lesion_masks(np.asarray(self.strength[index]), self.threshold)


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
    """

    masks: LesionMasks
    table: pd.DataFrame


def patch_pools(patches: Patches, shares: Mapping[str, int], protocol: Protocol) -> dict[str, Patches]:
    """Return the patches that each split may carry: disjoint pools, or the same largest pool for all as published."""
    if protocol.shared_patch_pool:
        largest = max(shares.values())
        return {split: {name: pool[:largest] for name, pool in patches.items()} for split in shares}
    return split_patches(patches, shares)


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
    """Build every split that has a seed base, and return the patches that each could carry.

    As `build_split`, where `table` holds the rows of all splits; `shares` are the patches per class of each split.
    """
    pools = patch_pools(patches, {split: shares[split] for split in settings.seed_bases}, protocol)
    for split, seed_base in settings.seed_bases.items():
        sources = ["validation", "test"] if split == "test" and protocol.selection_on_test else [split]
        rows = table[table["split"].isin(sources)].assign(split=split)
        build_split(folder / split, slices, rows, pools[split], seed_base, settings, protocol, workers)
    return pools


def build_split(
    folder: Path,
    slices: np.ndarray,
    table: pd.DataFrame,
    patches: Patches,
    seed_base: int,
    settings: Dataset,
    protocol: Protocol,
    workers: int = 1,
) -> None:
    """Lay lesions over the slices of one split and write images, lesions and tables to `folder`, streamed.

    Slice i (in the order of `table`) takes the seed `seed_base + i`, so that every image depends on its own slice only. Parts
    that an interrupted build has done are not done again. With `corner_placement`, as published, a small slice may have no
    room for its lesions, and the released code would never end: such slices are left out, with a warning that says how many.

    Parameters
    ----------
    slices : float array of shape (n_slices, height, width)
        All slices of the study.
    table : DataFrame
        The rows of the slice table that belong to this split; its index numbers `slices`.
    patches : dict
        The split's pool of each class.
    workers : int
        Processes; the results are the same for any number.

    Raises
    ------
    OverlayError
        A slice can't carry its lesions; with `corner_placement` only if none has room.
    """
    table = table.assign(seed=seed_base + np.arange(len(table)))
    recipe = Recipe(patches, settings, protocol)
    if protocol.corner_placement:
        table = _with_room(table, slices, recipe, workers)
    size, starts = settings.image_size, part_starts(len(table))
    arrays = dict.fromkeys(("images", "strength"), (len(table), size, size))
    store = PartStore(folder, build_key(table, recipe.made_from()), arrays)
    left = [start for start in starts if not store.has(start, slices, table)]
    for _ in side_by_side(partial(_build_part, recipe, store), slices, table, left, workers, folder.name):
        pass
    columns = store.columns(starts)
    images, lesions = (
        pd.DataFrame({name: columns[f"{kind}.{name}"] for name in names})
        for kind, names in (("image", IMAGE_COLUMNS), ("lesion", LESION_COLUMNS))
    )
    named = table.rename_axis("slice_index").reset_index()
    write_table(pd.concat([named, images], axis=1).rename_axis("image_index").reset_index(), folder / "images.csv")
    write_table(lesions, folder / "lesions.csv")
    with atomic_path(folder / "thumbnails.npy") as temporary:
        np.save(temporary, columns["thumbnails"])
    store.finish()


@dataclass(frozen=True)
class Recipe:
    """What is laid over the slices of a split, and how."""

    patches: Patches
    settings: Dataset
    protocol: Protocol

    def lay(self, slice_: np.ndarray, row: Any) -> LesionSlice:
        """Lay lesions over a slice; `row` is that of its table, with `Index`, `seed` and `subject`."""
        return overlay_lesions(slice_, **self._drawn(row), brain_intensity=self.settings.brain_intensity)

    def place(self, slice_: np.ndarray, row: Any) -> PlacedLesions:
        """Find a place for the lesions of a slice without laying them."""
        drawn = self._drawn(row)
        return place_lesions(checked_slice(slice_, drawn["name"]) > 0, **drawn)

    def _drawn(self, row: Any) -> dict[str, Any]:
        return {
            "patches": self.patches,
            "seed": int(row.seed),
            "protocol": self.protocol,
            "lesion_intensity": self.settings.lesion_intensity,
            "name": f"slice {row.Index} ({row.subject})",
        }

    def made_from(self) -> list[Any]:
        """Return what decides the result besides the slices."""
        weights = [patch.weights for pool in self.patches.values() for patch in pool]
        shapes = [list(self.patches), *(array.shape for array in weights), self.settings, self.protocol]
        return [*shapes, *(array.tobytes() for array in weights)]


def _build_part(recipe: Recipe, store: PartStore, part: pd.DataFrame, slices: np.ndarray, start: int) -> None:
    """Lay lesions over the slices of a part, and store its images and what the tables need."""
    images = np.empty((len(part), *[recipe.settings.image_size] * 2), np.float32)
    strength, thumbnails, rows, lesions = np.empty_like(images), [], [], []
    for position, (row, slice_) in enumerate(zip(part.itertuples(), slices, strict=True)):
        laid = recipe.lay(slice_, row)
        images[position], strength[position], clean, support = to_model_resolution(laid, recipe.settings.image_size)
        mask = _lesion_mask(laid, strength[position])
        rows.append(_image_row(laid, images[position], mask, clean, support))
        lesions.append(_lesion_rows(start + position, laid))
        thumbnails.append(_thumbnail(clean))
    columns = {f"image.{name}": np.array([row[name] for row in rows]) for name in IMAGE_COLUMNS}
    columns |= {f"lesion.{name}": np.concatenate([of[name] for of in lesions]) for name in LESION_COLUMNS}
    store.put(start, slices, {"images": images, "strength": strength}, columns | {"thumbnails": np.stack(thumbnails)})


def _with_room(table: pd.DataFrame, slices: np.ndarray, recipe: Recipe, workers: int) -> pd.DataFrame:
    """Return the rows of the slices on which the lesions find a place."""
    found = side_by_side(
        partial(_without_room, recipe), slices, table, part_starts(len(table)), workers, "looking for room"
    )
    errors = dict(sorted(itertools.chain.from_iterable(found)))
    if errors:
        if len(errors) == len(table):
            raise next(reversed(errors.values()))
        logging.getLogger(__name__).warning(
            "%d of %d slices have no room for lesions placed by their corners and are left out",
            len(errors),
            len(table),
        )
    return table.drop(index=list(errors))


def _without_room(
    recipe: Recipe, part: pd.DataFrame, slices: np.ndarray, start: int
) -> list[tuple[Hashable, NoRoomError]]:
    del start
    errors: list[tuple[Hashable, NoRoomError]] = []
    for row, slice_ in zip(part.itertuples(), slices, strict=True):
        try:
            recipe.place(slice_, row)
        except NoRoomError as error:
            errors.append((row.Index, error))
    return errors


def read_split(folder: Path, mask_threshold: float = CORRECTED.mask_threshold) -> Split:
    """Read the split that `build_split` wrote; images and lesions stay on disk until they are used.

    Raises
    ------
    TableError
        A file is missing or broken, or their numbers of images differ.
    """
    table = read_table(folder / "images.csv")
    images, strength = (_read_array(folder / f"{name}.npy") for name in ("images", "strength"))
    if not len(images) == len(strength) == len(table):
        counts = f"{len(images)} images, {len(strength)} lesion maps, {len(table)} rows"
        raise TableError(f"{folder}: {counts}; make the dataset again")
    labels = table["label"].to_numpy(dtype=np.int64)
    return Split(images, labels, LesionMasks(strength, mask_threshold), table)


def _read_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TableError(f"{path} can't be read: {error}") from None


def _lesion_mask(overlay: LesionSlice, strength: np.ndarray) -> np.ndarray:
    """Return the mask that the audit reports, which must not be empty; scores make theirs by the protocol's threshold."""
    mask = lesion_masks(strength, CORRECTED.mask_threshold)
    if not mask.any():
        raise OverlayError(f"{overlay.name}: no pixel of {len(mask)} x {len(mask)} shows a lesion; raise image_size")
    return mask


def _image_row(
    overlay: LesionSlice, image: np.ndarray, mask: np.ndarray, clean: np.ndarray, support: np.ndarray
) -> dict[str, float]:
    difference = image - clean
    outside = np.abs(difference)
    outside[support] = 0
    return {
        "label": overlay.label,
        "n_lesions": overlay.n_lesions,
        "mask_pixels": int(np.count_nonzero(mask)),
        "box_pixels": int(overlay.boxes.prod(axis=1).sum()),
        "lightening": float(difference[mask].mean()),
        **{f"draw_{number}": int(overlay.drawn_indices[number]) for number in range(FEWEST)},
        "outside_difference": float(outside.max()),
    }


def _lesion_rows(position: int, overlay: LesionSlice) -> dict[str, np.ndarray]:
    n_lesions = overlay.n_lesions
    return {
        "image": np.full(n_lesions, position),
        "order": np.arange(n_lesions),
        "label": np.full(n_lesions, overlay.label),
        "patch": overlay.patch_indices,
        "row": overlay.centres[:, 0],
        "column": overlay.centres[:, 1],
    }


def _thumbnail(clean: np.ndarray) -> np.ndarray:
    """Return the lesion-free slice as THUMBNAIL x THUMBNAIL block means, flattened."""
    step = clean.shape[0] // THUMBNAIL
    cut = clean[: step * THUMBNAIL, : step * THUMBNAIL]
    return cut.reshape(THUMBNAIL, step, THUMBNAIL, step).mean(axis=(1, 3)).ravel()
