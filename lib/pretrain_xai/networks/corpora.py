"""The image corpora on which networks are pre-trained, each with a training and a validation part."""

import numpy as np
import skimage

from pretrain_xai.dataset import LabelledImages
from pretrain_xai.overlay import clean_at_model_resolution
from pretrain_xai.slices.sources import slices_of
from pretrain_xai.study import PRETRAINING_SPLITS, Study

#: colour or grey photographs and textures that scikit-image ships; each is one class
PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "moon", "page", "retina", "rocket", "text", "clock"),
)
#: of each photograph, the share on the right from which only validation crops are cut
VALIDATION_SHARE = 0.25
#: side of the square that a crop is cut from, relative to the width of the photograph; it fits into the validation share
CROP_SHARE = (0.12, 0.24)


def natural_corpus(study: Study, seed: int) -> list[LabelledImages]:
    """Cut random crops of photographs; the class is the photograph.

    Training crops come from the left three quarters of a photograph and validation crops from the rest, so that no pixel
    is in both.

    Returns
    -------
    Two LabelledImages: uint8 images of shape (n, image_size, image_size, 3).
    """
    rng = np.random.default_rng(seed)
    count, size = study.pretraining.crops_per_photograph, study.dataset.image_size
    parts: list[tuple[int, list[np.ndarray]]] = [(count, []), (max(1, count // 4), [])]
    for name in PHOTOGRAPHS:
        photograph = _load_photograph(name)
        width = photograph.shape[1]
        edge = round(width * (1 - VALIDATION_SHARE))
        for (n_crops, crops), area in zip(parts, (photograph[:, :edge], photograph[:, edge:]), strict=True):
            crops += [_crop(area, width, size, rng) for _ in range(n_crops)]
    numbers = np.arange(len(PHOTOGRAPHS))
    return [LabelledImages(np.stack(crops), numbers.repeat(n_crops)) for n_crops, crops in parts]


def mri_corpus(study: Study, seed: int) -> list[LabelledImages]:  # every seed has the same slices
    """Take the lesion-free slices of the subjects set aside for pre-training.

    The classes are the values of the column `pretraining.target`, in the order of their names: of sex F, then M.

    Returns
    -------
    Two LabelledImages: float32 images of shape (n, image_size, image_size) with the brain's intensity range of the study.
    """
    slices, table = slices_of(study)
    _, labels = np.unique(table[study.pretraining.target].astype(str), return_inverse=True)
    size, parts = study.dataset.image_size, []
    for split in PRETRAINING_SPLITS:
        rows = table.index[table["split"] == split]
        images = [clean_at_model_resolution(slices[row], size, study.dataset.brain_intensity) for row in rows]
        parts.append(LabelledImages(np.stack(images), labels[rows]))
    return parts


#: a corpus by name; by the seed of the pre-training further crops are cut
CORPORA = {"natural": natural_corpus, "mri": mri_corpus}


def _load_photograph(name: str) -> np.ndarray:
    """Return a uint8 array of shape (height, width, 3)."""
    image = getattr(skimage.data, name)()
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image[..., :3]


def _crop(area: np.ndarray, width: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Cut a random square, mirror it in half of the cases, and resize it to uint8 (size, size, 3)."""
    side = round(rng.uniform(width * CROP_SHARE[0], width * CROP_SHARE[1]))
    top, left = (rng.integers(length - side + 1) for length in area.shape[:2])
    crop = area[top : top + side, left : left + side]
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    return np.round(skimage.transform.resize(crop, (size, size), preserve_range=True)).astype(np.uint8)
