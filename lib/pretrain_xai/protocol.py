"""What the released code did and the paper does not say, one documented switch each.

`PUBLISHED` does what the released code of Oliveira et al. (2024) did; `CORRECTED`, the default of every study, does
what it should have done. A study file may override single fields of either.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

ChannelReduction = Literal["sum_abs", "abs_sum", "luminance"]
Ties = Literal["expected", "strict"]
Sign = Literal["unsigned", "positive", "negative"]
GroundTruth = Literal["lesion", "union", "difference", "boundary"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, allow_inf_nan=False))
class Protocol:
    """The switches between the study as published and as corrected; the defaults are the corrected ones."""

    #: keep dropout on in validation, testing and attribution (no released notebook calls `.eval()`)
    dropout_active: bool = False
    #: leave the first convolution of the lowest unfrozen block frozen at depths 1 to 4 (layer numbers off by one)
    first_conv_frozen: bool = False
    #: the patch's minimum is rescaled to this; above 0 the whole box is lightened, and its size tells the class
    lesion_floor: float = 0.0
    #: a slice of round lesions always carries the first patches of the list (the wrong list was shuffled)
    round_never_shuffled: bool = False
    #: train, validation and test slices carry the same patches
    shared_patch_pool: bool = False
    #: place a patch by its top-left corner wherever it fits, so that position tells something of the class
    corner_placement: bool = False
    #: draw number, class and positions of the lesions from one re-seeded stream
    shared_seed: bool = False
    #: how three channels become one map: |sum|, sum of | |, or | | weighted by luminance
    channel_reduction: ChannelReduction = "sum_abs"
    #: share of a patch's maximum above which a pixel of the resized ground truth belongs to the lesion mask
    mask_threshold: float = 0.5
    #: count exactly k pixels with ties by their expectation, or only those strictly above the (k+1)-th value
    ties: Ties = "expected"
    #: score signed one-axis edge filters, the Laplacian across the channels too, instead of magnitudes
    signed_edges: bool = False
    #: print sensitivity and specificity under each other's name
    swapped_rates: bool = False
    #: use Captum's DeepLift, whose max-pool rule is incomplete on VGG
    captum_deep_lift: bool = False
    #: draw GradientSHAP's samples from the global generators, without a seed
    gradient_shap_unseeded: bool = False
    #: select models on slices that are part of the test set
    selection_on_test: bool = False
    #: keep the two-way sex head of the network pre-trained on MRI
    head_kept: bool = False
    #: share of training and validation slices that carry no lesion, with the flip of a coin for a class, which a network
    #: learns as even odds (a label it would memorise): without them it may learn one class's lesions alone and take the other
    #: class for its default
    lesion_free_share: float = 0.25

    @property
    def corrects_dataset(self) -> bool:
        """Whether the images hold nothing but their lesions that tells the class, so that the audit must pass."""
        flaws = [name for name in DATASET_SWITCHES if name != "lesion_free_share"]
        return all(getattr(self, name) == getattr(CORRECTED, name) for name in flaws)

    @property
    def has_twins(self) -> bool:
        """Whether each test image has an exact twin of the other class: room at a centre is room for either class."""
        return not self.corner_placement


#: the switches that change the images with lesions
DATASET_SWITCHES: tuple[str, ...] = ("lesion_floor", "round_never_shuffled", "shared_patch_pool", "corner_placement")
DATASET_SWITCHES += ("shared_seed", "selection_on_test", "lesion_free_share")
CORRECTED = Protocol()
#: every flaw that is there or not
_ALL: dict[str, Any] = {field.name: True for field in dataclasses.fields(CORRECTED) if field.type is bool}
PUBLISHED = Protocol(
    **_ALL, lesion_floor=0.1, channel_reduction="luminance", mask_threshold=0.0, ties="strict", lesion_free_share=0.0
)
PROTOCOLS = {"corrected": CORRECTED, "published": PUBLISHED}
#: switches that change scores of the same networks, and the methods that each concerns (none: all)
RESCORED: dict[str, tuple[str, ...]] = {
    "dropout_active": (),
    "channel_reduction": (),
    "mask_threshold": (),
    "ties": (),
    "captum_deep_lift": ("deep_lift",),
    "gradient_shap_unseeded": ("gradient_shap",),
    "signed_edges": ("sobel", "laplace"),
}
#: those of them that change the maps, and not only how maps are scored
NEW_MAPS = ("dropout_active", "captum_deep_lift", "gradient_shap_unseeded")
#: the names of the study itself among its variants, and of the one with all switches as published
UNCHANGED, ALL_TOGETHER = "none", "published"


def switched_protocols(protocol: Protocol) -> dict[str, Protocol]:
    """Return the protocol itself, and with each rescored switch as published that is not so already."""
    return {UNCHANGED: protocol} | {
        switch: dataclasses.replace(protocol, **{switch: getattr(PUBLISHED, switch)})
        for switch in unpublished(protocol, RESCORED)
    }


def unpublished(protocol: Protocol, switches: Iterable[str]) -> list[str]:
    """Return those of the switches that the protocol does not have as published."""
    return [switch for switch in switches if getattr(protocol, switch) != getattr(PUBLISHED, switch)]
