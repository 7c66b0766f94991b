"""What the released evaluation notebook does with a slice, line by line: slow, and what ours is compared with."""

import numpy as np
from pretrain_xai.lesions import Patches
from pretrain_xai.protocol import PUBLISHED


def released_overlay(
    slice_: np.ndarray, patches: Patches, seed: int, floor: float = PUBLISHED.lesion_floor
) -> tuple[np.ndarray, np.ndarray, int, int, int]:
    """Return image, ground truth, label, number of lesions, and how often the border of the image cut a box.

    Where nothing fits it never ends. Generator and floor of its own, else line by line.
    """
    random = np.random.RandomState(seed)
    count = random.randint(3, 6)
    label = random.randint(0, 2)
    pool = [patch.weights for patch in patches["irregular" if label else "round"]]
    if label == 1:
        random.shuffle(pool)
    brain = slice_ > 0
    image = (slice_ - slice_.min()) / (slice_.max() - slice_.min()) * 0.7
    random.seed(seed)
    rows, columns = np.where(slice_ > 0)
    running, ground_truth = brain.astype(float), np.zeros(slice_.shape)
    truncated = 0
    for patch in pool[:count]:
        height, width = patch.shape
        while True:
            chosen = random.choice(np.arange(len(rows)))
            top, left = rows[chosen], columns[chosen]
            box = running[top : top + height, left : left + width]
            # the released code fails in the next step where the border cuts the box
            truncated += box.shape != patch.shape and (box == 1).all()
            if box.shape == patch.shape and (box == 1).all():
                break
        rescaled = (patch - patch.min()) / (patch.max() - patch.min()) * (0.5 - floor) + floor
        running[top : top + height, left : left + width] -= rescaled
        ground_truth[top : top + height, left : left + width] += patch
    inverted = np.where(brain, 1 - image, image)
    inverted = np.where(running != 0, inverted * running, inverted)
    return np.where(brain, 1 - inverted, inverted), ground_truth, label, count, truncated
