"""What the `explore` notebook shows: one image with a method's maps, for the network of each corpus."""

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pretrain_xai import paths
from pretrain_xai.dataset import read_split
from pretrain_xai.examples import read_examples
from pretrain_xai.figures import TWO_COLUMNS, outline_lesions
from pretrain_xai.lesions import CLASSES
from pretrain_xai.localization import chance
from pretrain_xai.names import label
from pretrain_xai.plotting import plot_heatmap
from pretrain_xai.study import Study


class Explorer:
    """The kept example maps of one selection of a finished study."""

    def __init__(self, study_name: str, study: Study, selection: str) -> None:
        self.corpora = study.pretraining.corpora
        self.methods = study.attribution.methods
        self.test = read_split(paths.dataset(study_name) / "test", study.switched.mask_threshold)
        self.maps = read_examples(study_name, study, selection, self.test)

    @property
    def image_options(self) -> list[tuple[str, int]]:
        """Captions and indices of the kept images, for a menu."""
        wrong = (~self.maps["correct"]).groupby(self.maps["image_index"]).any()
        note = {False: "right for all", True: "wrong for some"}
        return [(f"{CLASSES[self.test.labels[i]]} lesions, image {i} ({note[some]})", i) for i, some in wrong.items()]

    @property
    def method_options(self) -> list[tuple[str, str]]:
        """Names and keys of the methods, for a menu."""
        return [(label(method), method) for method in self.methods]

    def show(self, image: int, method: str, finetune_depth: int) -> None:
        """Draw one image and its maps where the notebook is."""
        figure, axes = plt.subplots(
            1, len(self.corpora) + 1, figsize=(TWO_COLUMNS, 2.9), squeeze=False, layout="constrained"
        )
        self._draw(axes[0], image, method, finetune_depth)
        figure.suptitle(f"{label(method)}, depth {finetune_depth}; chance {self._chance(image):.3f}")
        plt.show(figure)

    def montage(self, method: str, finetune_depth: int) -> Figure:
        """Draw every kept image in a row with its maps."""
        images = self.maps["image_index"].unique()
        figure, axes = plt.subplots(
            len(images),
            len(self.corpora) + 1,
            figsize=(TWO_COLUMNS * 0.75, 1.75 * len(images)),
            squeeze=False,
            layout="constrained",
        )
        for row, image in zip(axes, images, strict=True):
            self._draw(row, image, method, finetune_depth)
        figure.suptitle(f"{label(method)}, depth {finetune_depth}")
        return figure

    def _draw(self, axes: np.ndarray, image: int, method: str, finetune_depth: int) -> None:
        image_axes: Axes = axes[0]
        image_axes.imshow(self.test.images[image], cmap="gray", vmin=0, vmax=1)
        outline_lesions(image_axes, self.test.masks[image], color="tab:orange")
        image_axes.set(xticks=[], yticks=[], title=f"image {image}, {CLASSES[self.test.labels[image]]}")
        chosen = self.maps.query("image_index == @image and method == @method and finetune_depth == @finetune_depth")
        for ax, corpus in zip(axes[1:], self.corpora, strict=True):
            found = chosen[chosen["pretraining"] == corpus].iloc[0]
            plot_heatmap(ax, found["map"], self.test.masks[image])
            verdict = "right" if found["correct"] else "wrong"
            ax.set_title(f"{label(corpus)} ({verdict}): {found['score']:.2f}")

    def _chance(self, image: int) -> float:
        return float(chance(self.test.masks[[image]])[0])
