"""The sections of a study file: what each may hold, with its defaults and checks."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pretrain_xai.protocol import ChannelReduction as Reduction
from pretrain_xai.protocol import GroundTruth, Sign

#: "best" selects the best checkpoint of a model, "matched" those of about equal accuracy
Selection = Literal["best", "matched"]
#: blocks of the network, from the last one (1) to all (5), that fine-tuning changes
Depth = Literal[1, 2, 3, 4, 5]
FINETUNE_DEPTHS: tuple[Depth, ...] = (1, 2, 3, 4, 5)


def _once_each(values: Sequence[Any]) -> Sequence[Any]:
    if repeated := sorted({str(value) for value in values if values.count(value) > 1}):
        raise ValueError(f"has {', '.join(repeated)} more than once")
    return values


def _seeds(seeds: list[list[int]]) -> list[list[int]]:
    for of_depth in seeds:
        if not of_depth or min(_once_each(of_depth)) < 0:
            raise ValueError(f"whole numbers from 0 are expected, at least one, found {of_depth}")
    return seeds


def _per_depth(given: Any) -> Any:
    """Return a value for each depth: those given in a list, or the one given, a number or a list of numbers."""
    return given if isinstance(given, list) and any(isinstance(one, list) for one in given) else [given] * 5


#: the name of the corpus of networks that are fine-tuned from random weights
SCRATCH = "scratch"
#: one value per depth
Five = Field(min_length=5, max_length=5)
#: no value twice
Unique = AfterValidator(_once_each)
Seed = Annotated[int, Field(ge=0)]
#: what becomes a part of paths and commands
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
#: share of a patch's maximum above which a pixel belongs to the lesion
Threshold = Annotated[float, Field(ge=0, lt=1)]
#: fine-tuning depths, put in order from the shallowest
Depths = Annotated[list[Depth], Field(min_length=1), Unique, AfterValidator(sorted)]


class Settings(BaseModel):
    """Settings that refuse unknown names and wrong types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Lesions(Settings):
    """Lesion patches."""

    #: patches of each class in each split's own pool
    patches: dict[str, Annotated[int, Field(ge=0)]]
    #: patches made of each class, of which those are taken that are in both classes of equal area and mass, as near as it
    #: goes; none: the first ones made, as published, whose area and mass tell the class a little
    candidates: int | None = Field(None, gt=0)


class Dataset(Settings):
    """Slices with lesions."""

    #: side of the square images that the networks see, pixels
    image_size: int = Field(ge=32)
    lesion_intensity: float = Field(0.5, gt=0, le=1)
    brain_intensity: float = Field(0.7, gt=0, le=1)
    #: seed of the first slice of each split; slice i takes base + i
    seed_bases: dict[Word, Seed] = {"train": 0, "validation": 30_000, "test": 50_000}


class Standardise(Settings):
    """The fixed first layer (x - mean) / std, which lets images stay in [0, 1]."""

    mean: float
    std: float = Field(gt=0)


class Network(Settings):
    """A VGG of torchvision's family at any width, or a network of your own."""

    architecture: Literal["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"] = "vgg16"
    #: channels relative to torchvision's; 1 is the published network
    width: float = Field(1.0, gt=0)
    standardise: Standardise | None = None
    #: share of the hidden units that training leaves out at each step, 0.5 in torchvision's; a narrow network needs less
    dropout: float = Field(0.5, ge=0, lt=1)
    #: your own network in place of a VGG: `package.module:function`, called with n_classes=...; also a file in studies/
    module: str | None = Field(None, pattern=r"^[\w.]+:\w+$")
    #: of your own network: names of its blocks from the first to the last, each one part or a list of parts
    blocks: list[str | list[str]] = []
    #: of your own network: the part that is trained at every depth; its last nn.Linear gives the logits
    classifier: str = "classifier"

    @model_validator(mode="after")
    def _own_or_vgg(self) -> "Network":
        foreign = ("architecture", "width", "standardise", "dropout") if self.module else ("blocks", "classifier")
        fields = type(self).model_fields
        if wrong := [name for name in foreign if getattr(self, name) != fields[name].default]:
            kind = "a network of your own (`module`)" if self.module else "a VGG: they need `module`"
            raise ValueError(f"{', '.join(wrong)} can't be set for {kind}")
        if self.module and not self.blocks:
            raise ValueError("blocks must name the blocks of your own network, from the first to the last")
        return self

    @property
    def name(self) -> str:
        """How the network is called in messages."""
        return self.module or self.architecture


class Training(Settings):
    """One training loop's optimiser, schedule and stopping rule."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(32, gt=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = Field(0.5, ge=0, lt=1)
    #: "step" is StepLR(7, 0.1) as published
    schedule: Literal["step", "one_cycle"] = "step"
    #: gradients are scaled down to this norm; none as published
    clip_norm: float | None = Field(None, gt=0)
    #: a later checkpoint counts only if validation and training accuracy differ by at most this; none: always
    acc_dif: float | None = Field(None, gt=0)
    #: three successive changes of validation accuracy below this end the training; none: never
    stop_value: float | None = Field(None, gt=0)


class Pretraining(Settings):
    """Networks before they see a lesion, one per corpus: trained here, or weights that others have trained."""

    #: scratch is none: networks that are fine-tuned from random weights, beside which pre-training is seen to matter or not
    corpora: Annotated[list[Literal["natural", "mri", "imagenet", "scratch"]], Field(min_length=1), Unique]
    #: of a corpus that is not trained here: torchvision's name of weights, or a local file (from the folder of studies/)
    weights: dict[Literal["natural", "mri", "imagenet"], str] = {}
    #: what the corpus `mri` teaches to tell: sex, or any column of the participants table with a few values
    target: str = Field("sex", min_length=1)
    #: crops of each photograph in the corpus `natural`
    crops_per_photograph: int = Field(100, gt=0)
    learning_rate: float | None = Field(None, gt=0)
    training: Training | None = None
    #: of weights and crops in pre-training: one for all networks, or as many as a cell has seeds of fine-tuning, the first
    #: of which then starts from the first pre-training, and so on; only then can a study speak of corpora
    seeds: Annotated[list[Seed], Field(min_length=1), Unique] = [0]

    @model_validator(mode="after")
    def _trained_or_given(self) -> "Pretraining":
        if unknown := [corpus for corpus in self.weights if corpus not in self.corpora]:
            raise ValueError(f"weights: {', '.join(unknown)} is not among corpora")
        if "imagenet" in self.trained:
            raise ValueError("weights must have imagenet, such as IMAGENET1K_V1: it can't be trained here")
        if self.trained and (self.learning_rate is None or self.training is None):
            raise ValueError(f"learning_rate and training are needed to train on {', '.join(self.trained)}")
        return self

    @property
    def trained(self) -> list[str]:
        """The corpora on which networks are trained here."""
        return [corpus for corpus in self.corpora if corpus not in (*self.weights, SCRATCH)]


class Cell(Settings):
    """Learning rates and seeds of one selection and corpus, given for all depths at once or per depth: here, per depth."""

    learning_rate: Annotated[
        list[float], Five, BeforeValidator(lambda rate: rate if isinstance(rate, list) else [rate] * 5)
    ]
    seeds: Annotated[list[list[int]], Five, BeforeValidator(_per_depth), AfterValidator(_seeds)]


class Matching(Settings):
    """The selection `matched`, out of checkpoints of the models of `best`: nothing is trained anew (see `matching`).

    Rates are the lower of sensitivity and specificity on validation images.
    """

    #: largest difference of a model's rate from the common one
    tolerance: float = Field(0.02, gt=0, le=0.02)
    #: the common rate is at least this; a network that calls all images one class has 0
    lowest_rate: float = Field(0.75, ge=0, lt=1)
    #: how often networks are validated per epoch; steep learning takes few steps
    checkpoints_per_epoch: int = Field(4, gt=0)
    #: as `attribution.max_images`, for the matched models; none: as many
    max_images: int | None = Field(None, gt=0)
    #: explain the images that a matched model gets wrong, too; only notebook 11 draws them
    misclassified: bool = False


class Finetuning(Settings):
    """The grid of fine-tuned models: selection x corpus x depth x seed."""

    training: Training
    #: how much a job may keep, in the system's temporary folder, of what the frozen layers give; changes no result
    cache_gib: float = Field(20.0, ge=0)
    depths: Depths = list(FINETUNE_DEPTHS)
    #: figures and report show the first one
    selections: dict[Selection, dict[str, Cell]] = Field(min_length=1)
    #: adds the selection `matched` without training; none: it is trained by itself, as published, or there is none
    matching: Matching | None = None

    @model_validator(mode="after")
    def _matched_once(self) -> "Finetuning":
        if self.matching is not None and list(self.selections) != ["best"]:
            found = ", ".join(self.selections)
            raise ValueError(f"matching: have best alone under selections, or leave out matching; found {found}")
        return self


class Sensitivity(Settings):
    """Other ways to score the same maps, under which the conclusions are checked; the study's own is added.

    Reductions, thresholds and scores are all combined, and so are ground truths and signs, under the study's own reduction
    and threshold by Relevance Rank Accuracy.
    """

    channel_reductions: Annotated[list[Reduction], Unique] = ["sum_abs", "abs_sum", "luminance"]
    #: see `Protocol.mask_threshold`
    mask_thresholds: Annotated[list[Threshold], Unique] = [0.0, 0.25, 0.5, 0.75]
    #: names in `localization.SCORES` that have a chance level
    scores: Annotated[list[str], Unique] = [
        *("relevance_rank_accuracy", "relevance_mass_accuracy", "average_precision", "pixel_auroc", "pointing_game")
    ]
    #: see `ground_truths`; union and difference need the twins that only placement by centres has
    ground_truths: Annotated[list[GroundTruth], Unique] = ["lesion", "union", "difference", "boundary"]
    #: which values of a map count: all by their size, or only those for or against the class
    signs: Annotated[list[Sign], Unique] = ["unsigned", "positive", "negative"]


class Attribution(Settings):
    """The explanation methods and how many images they explain."""

    methods: Annotated[list[Word], Field(min_length=1), Unique]
    #: options of a method, such as integrated_gradients: {n_steps: 50}
    options: dict[str, dict[str, Any]] = {}
    #: names in `localization.SCORES`, or quantus:<metric>, written beside the counts of hits and k
    scores: Annotated[list[str], Unique] = ["relevance_rank_accuracy", "true_negative_rate"]
    #: of the true class: its logit, as published, or its logit less the mean of the other classes' (see `difference_network`)
    explained: Literal["logit", "difference"] = "logit"
    #: fine-tuning depths whose models are explained; none: all. What a model that fails the task gets right it gets right by
    #: luck, and hardly any image is left that all get right
    depths: Depths | None = None
    #: at most so many images right for all models, and so many of those that a model gets wrong; none: all
    max_images: int | None = Field(None, gt=0)
    #: images that pass through the network at once, a power of two; none: by their size (`passes.micro_batch_rows`)
    micro_batch: Literal[1, 2, 4, 8, 16, 32, 64, 128] | None = None
    #: images whose maps are kept for the heatmaps
    example_images: int = Field(3, ge=1)
    #: explain the images that a model gets wrong, too
    misclassified: bool = True
    #: networks of random weights beside which the fine-tuned ones are set; one is one draw
    untrained_networks: int = Field(1, ge=1, le=100)
    sensitivity: Sensitivity = Sensitivity()
    seed: Seed = 0

    @model_validator(mode="after")
    def _scores_can_be_drawn(self) -> "Attribution":
        if "relevance_rank_accuracy" not in self.scores:
            raise ValueError("scores must have relevance_rank_accuracy, from which the figures are drawn")
        return self


class Protocols(Settings):
    """The smaller grid on which `make protocols` trains the study anew, once per switch and once per further set of seeds.

    It has the study's first selection.
    """

    #: fine-tuning depths of the grid; none: those of the study
    depths: Depths | None = None
    #: at most so many images right for all models of a variant; none: as many as in the study
    max_images: int | None = Field(None, gt=0)
    #: how often the study itself is trained with further seeds: says what retraining alone changes
    reseeds: int = Field(2, ge=1, lt=1000)
