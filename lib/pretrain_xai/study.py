"""A study file, checked: one YAML file in `studies/` holds every setting of one study."""

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from pretrain_xai import paths
from pretrain_xai.errors import UserError, did_you_mean
from pretrain_xai.protocol import PROTOCOLS, PUBLISHED, Protocol

#: "best" selects the best checkpoint of a model, "matched" those of about equal accuracy
Selection = Literal["best", "matched"]
#: blocks of the network, from the last one (1) to all (5), that fine-tuning changes
FINETUNE_DEPTHS = (1, 2, 3, 4, 5)
#: the columns that name a model in every table
MODEL_COLUMNS = ["selection", "pretraining", "finetune_depth", "seed"]
#: the name of the corpus of a network that saw none: the untrained network
UNTRAINED = "none"


class StudyError(UserError):
    """A study file is missing or wrong; the message says what to change."""


def _once_each(values: Sequence[Any]) -> Sequence[Any]:
    if repeated := sorted({str(value) for value in values if values.count(value) > 1}):
        raise ValueError(f"has {', '.join(repeated)} more than once")
    return values


def _ascending(values: list[int]) -> list[int]:
    if _once_each(values) != sorted(values):
        raise ValueError(f"must ascend, such as {sorted(values)}, found {values}")
    return values


def _seeds(seeds: list[int] | list[list[int]]) -> list[int] | list[list[int]]:
    """Check one list of seeds for all depths, or each of those for one depth."""
    for of_depth in seeds if seeds and isinstance(seeds[0], list) else [seeds]:
        if not of_depth or min(_once_each(of_depth)) < 0:
            raise ValueError(f"whole numbers from 0 are expected, at least one, found {of_depth}")
    return seeds


#: no value twice
Unique = AfterValidator(_once_each)
Seed = Annotated[int, Field(ge=0)]
#: fine-tuning depths from the shallowest
Depths = Annotated[list[Literal[1, 2, 3, 4, 5]], Field(min_length=1), AfterValidator(_ascending)]


class Settings(BaseModel):
    """Settings that refuse unknown names and wrong types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Lesions(Settings):
    """Lesion patches."""

    #: patches of each class in each split's own pool
    patches: dict[str, int]


class Slices(Settings):
    """Lesion-free slices; `template` simulates a cohort from the MNI152 template."""

    source: Literal["template"] = "template"
    #: subjects of each split
    subjects: dict[str, int]
    slices_per_subject: int = Field(gt=0)
    #: lowest and highest axial position, mm above the anterior commissure
    z_range: list[float] = Field(min_length=2, max_length=2)
    seed: Seed = 0


class Dataset(Settings):
    """Slices with lesions."""

    #: side of the square images that the networks see, pixels
    image_size: int = Field(ge=32)
    lesion_intensity: float = Field(0.5, gt=0, le=1)
    brain_intensity: float = Field(0.7, gt=0, le=1)
    #: seed of the first slice of each split; slice i takes base + i
    seed_bases: dict[str, Seed] = {"train": 0, "validation": 30_000, "test": 50_000}


class Standardise(Settings):
    """The fixed first layer (x - mean) / std, which lets images stay in [0, 1]."""

    mean: float
    std: float = Field(gt=0)


class Network(Settings):
    """A VGG of torchvision's family at any width."""

    architecture: Literal["vgg11", "vgg13", "vgg16", "vgg19"] = "vgg16"
    #: channels relative to torchvision's; 1 is the published network
    width: float = Field(1.0, gt=0)
    standardise: Standardise | None = None


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
    """Networks trained before they see a lesion, one per corpus."""

    corpora: Annotated[list[Literal["natural", "mri"]], Field(min_length=1), Unique]
    #: crops of each photograph in the corpus `natural`
    crops_per_photograph: int = Field(100, gt=0)
    learning_rate: float = Field(gt=0)
    training: Training
    seed: Seed = 0


class Cell(Settings):
    """Learning rates and seeds of one selection and corpus, one for all depths or one per depth."""

    learning_rate: float | list[float]
    seeds: Annotated[list[int] | list[list[int]], AfterValidator(_seeds)]

    @model_validator(mode="after")
    def _five_depths(self) -> "Cell":
        if isinstance(self.seeds[0], list) and len(self.seeds) != len(FINETUNE_DEPTHS):
            raise ValueError("seeds must be one list for all depths or five lists, one per depth")
        if isinstance(self.learning_rate, list) and len(self.learning_rate) != len(FINETUNE_DEPTHS):
            raise ValueError("learning_rate must be one number or five, one per depth")
        return self

    def learning_rate_at(self, depth: int) -> float:
        """Return the learning rate of a fine-tuning depth."""
        return self.learning_rate[depth - 1] if isinstance(self.learning_rate, list) else self.learning_rate

    def seeds_at(self, depth: int) -> list[int]:
        """Return the seeds of a fine-tuning depth."""
        return self.seeds[depth - 1] if isinstance(self.seeds[0], list) else self.seeds


class Finetuning(Settings):
    """The grid of fine-tuned models: selection x corpus x depth x seed."""

    training: Training
    depths: Depths = list(FINETUNE_DEPTHS)
    #: figures and report show the first one
    selections: dict[Selection, dict[str, Cell]] = Field(min_length=1)


class Attribution(Settings):
    """The explanation methods and how many images they explain."""

    methods: Annotated[list[str], Field(min_length=1), Unique]
    #: options of a method, such as integrated_gradients: {n_steps: 50}
    options: dict[str, dict[str, Any]] = {}
    #: names in `localization.SCORES`, or quantus:<metric>, written beside the counts of hits and k
    scores: Annotated[list[str], Unique] = ["relevance_rank_accuracy", "true_negative_rate"]
    #: at most so many images right for all models, and so many of those that a model gets wrong; none: all
    max_images: int | None = Field(None, gt=0)
    #: images that pass through the network at once, a power of two; none: by their size (`micro_batches.micro_batch_rows`)
    micro_batch: Literal[1, 2, 4, 8, 16, 32, 64, 128] | None = None
    #: images whose maps are kept for the heatmaps
    example_images: int = Field(3, ge=1)
    #: explain the images that a model gets wrong, too
    misclassified: bool = True
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


@dataclasses.dataclass(frozen=True, order=True)
class Run:
    """One fine-tuned model; the untrained network has `pretraining` "none" and depth 0."""

    selection: Selection
    pretraining: str
    finetune_depth: int
    seed: int

    @property
    def name(self) -> str:
        """The name of the run's files; never parsed, the four columns say the same."""
        return f"{self.selection}-{self.pretraining}-depth{self.finetune_depth}-seed{self.seed}"


class Study(Settings):
    """All settings of one study; see `studies/demo.yaml` for what each means."""

    title: str
    #: the protocol from which `switches` deviates
    protocol: Literal["corrected", "published"] = "corrected"
    #: single fields of `pretrain_xai.protocol.Protocol` that differ from `protocol`
    switches: dict[str, Any] = {}
    #: threads of each job; results are the same to the bit only for the same number
    threads: int = Field(1, gt=0)
    lesions: Lesions
    slices: Slices
    dataset: Dataset
    network: Network
    pretraining: Pretraining
    finetuning: Finetuning
    attribution: Attribution
    protocols: Protocols = Protocols()

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        types = typing.get_type_hints(Protocol)
        for switch, value in self.switches.items():
            if switch not in types:
                raise ValueError(f"switches: {switch!r} is none of {', '.join(types)}{did_you_mean(switch, types)}")
            try:
                TypeAdapter(types[switch]).validate_python(value, strict=True)
            except ValidationError as error:
                raise ValueError(f"switches.{switch}: {error.errors()[0]['msg']}, found {value!r}") from None
        for selection, cells in self.finetuning.selections.items():
            if set(cells) != set(self.pretraining.corpora):
                raise ValueError(f"finetuning.selections.{selection} must have one entry per pretraining corpus")
        if unknown := set(self.protocols.depths or ()) - set(self.finetuning.depths):
            raise ValueError(f"protocols.depths: {sorted(unknown)} is not among finetuning.depths")
        for split in self.dataset.seed_bases:
            for section, shares in (
                ("lesions.patches", self.lesions.patches),
                ("slices.subjects", self.slices.subjects),
            ):
                if split not in shares:
                    raise ValueError(f"{section} has no entry for the split {split!r}")
        return self

    @cached_property
    def switched(self) -> Protocol:
        """The protocol with its switches set."""
        return dataclasses.replace(PROTOCOLS[self.protocol], **self.switches)

    @property
    def protocol_name(self) -> str:
        """The protocol's name in tables, such as `corrected` or `corrected+ties=strict`."""
        return "+".join([self.protocol, *(f"{name}={value}" for name, value in sorted(self.switches.items()))])

    def runs(self) -> Iterator[Run]:
        """Yield every fine-tuned model of the study."""
        for selection, cells in self.finetuning.selections.items():
            for pretraining, cell in cells.items():
                for depth in self.finetuning.depths:
                    for seed in cell.seeds_at(depth):
                        yield Run(selection, pretraining, depth, seed)

    @property
    def main_selection(self) -> Selection:
        """The first selection: figures are drawn of it, and its models are trained anew in variants."""
        return next(iter(self.finetuning.selections))

    @property
    def compared_depths(self) -> list[int]:
        """The fine-tuning depths at which the study is compared with its retrained variants."""
        return list(self.protocols.depths or self.finetuning.depths)

    def untrained_runs(self) -> Iterator[Run]:
        """Yield the untrained network of each selection, beside which the fine-tuned models are scored."""
        for selection in self.finetuning.selections:
            yield Run(selection, UNTRAINED, 0, 0)

    def n_seeds(self, selection: Selection) -> int:
        """Return the fewest networks of one corpus and depth."""
        cells = self.finetuning.selections[selection].values()
        return min(len(cell.seeds_at(depth)) for cell in cells for depth in self.finetuning.depths)

    def check_run(self, run: Run) -> Run:
        """Return `run` if the study has it.

        Raises
        ------
        StudyError
            Naming the runs of the study.
        """
        known = [*self.runs(), *self.untrained_runs()]
        if run not in known:
            names = ", ".join(sorted(known_run.name for known_run in known))
            raise StudyError(f"this study has no model {run.name!r}; it has {names}")
        return run

    def learning_rate(self, run: Run) -> float:
        """Return the learning rate with which `run` is fine-tuned."""
        cell = self.finetuning.selections[self.check_run(run).selection][run.pretraining]
        return cell.learning_rate_at(run.finetune_depth)


def load_study(name: str) -> Study:
    """Read and check `studies/<name>.yaml`; `<name>+<switch>` is the study with one switch as published.

    `<name>+reseed<n>` is the study with further seeds. Variants whose networks are trained anew have the smaller grid of the
    section `protocols`.

    Raises
    ------
    StudyError
        One line: the file, the setting, what was found and what was expected.
    """
    base, variant = paths.split_name(name)
    path = paths.study_file(name)
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise StudyError(
            f"there is no study {base!r} ({path}); there are {', '.join(known)}{did_you_mean(base, known)}"
        )
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise StudyError(f"{path}: expected settings by name, found {type(settings).__name__}")
    try:
        study = Study.model_validate(settings)
    except ValidationError as error:
        raise StudyError(f"{path}: {'; '.join(_one_line(detail) for detail in error.errors())}") from None
    return _variant(name, study, variant) if variant else study


#: added to every seed for each further set of seeds, or more where the seeds of a study are further apart
RESEED_STEP = 1_000


def _variant(name: str, study: Study, variant: str) -> Study:
    reseeds = [f"{paths.RESEED}{number}" for number in range(1, study.protocols.reseeds + 1)]
    switches = dataclasses.asdict(PUBLISHED)
    known = ["published", *switches, *reseeds]
    if paths.reseed_number(variant) > len(reseeds):
        raise StudyError(
            f"{name!r}: the study has the further seeds {', '.join(reseeds)}; set protocols.reseeds for more"
        )
    if variant not in known:
        raise StudyError(
            f"{name!r}: {variant!r} is no switch of the protocol; there are {', '.join(known)}{did_you_mean(variant, known)}"
        )
    if paths.owner(name, "finetuned") == name:
        study = _on_smaller_grid(study, _reseed_step(study) * paths.reseed_number(variant))
    if variant == "published":
        return study.model_copy(update={"protocol": "published", "switches": {}})
    changed = {variant: switches[variant]} if variant in switches else {}
    return study.model_copy(update={"switches": study.switches | changed})


def _reseed_step(study: Study) -> int:
    """Return a step that makes no seed of the study equal to one of its further seeds."""
    seeds = [run.seed for run in study.runs()]
    return max(RESEED_STEP, max(seeds) - min(seeds) + 1)


def _on_smaller_grid(study: Study, shift: int) -> Study:
    """Return the study on the grid of its section `protocols`, with `shift` added to all seeds of fine-tuning.

    It has the compared selection only.
    """
    selections = {
        study.main_selection: {
            corpus: cell.model_copy(update={"seeds": _shifted(cell.seeds, shift)})
            for corpus, cell in study.finetuning.selections[study.main_selection].items()
        }
    }
    grid = {"depths": study.compared_depths, "selections": selections}
    images = {"max_images": study.protocols.max_images or study.attribution.max_images, "misclassified": False}
    return study.model_copy(
        update={
            "finetuning": study.finetuning.model_copy(update=grid),
            "attribution": study.attribution.model_copy(update=images),
        }
    )


def _shifted(seeds: Any, shift: int) -> Any:
    return [_shifted(seed, shift) for seed in seeds] if isinstance(seeds, list) else seeds + shift


def _one_line(detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    found = "" if detail["type"] in ("missing", "value_error") else f", found {detail['input']!r}"
    line = f"{place}: {detail['msg'].removeprefix('Value error, ')}{found}".removeprefix(": ")
    return " ".join(line.split())  # names and texts in the file may hold line breaks
