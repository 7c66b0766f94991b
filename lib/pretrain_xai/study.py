"""A study file, checked: one YAML file in `studies/` holds every setting of one study."""

import dataclasses
from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from pretrain_xai import paths
from pretrain_xai.errors import UserError, did_you_mean
from pretrain_xai.paths import Paths
from pretrain_xai.protocol import PROTOCOLS, PUBLISHED, Protocol
from pretrain_xai.settings import sections
from pretrain_xai.settings.sections import Cell, Selection, Settings
from pretrain_xai.settings.slices import Slices

#: the two classes of lesions; the position is the label
CLASSES = ("round", "irregular")
#: the columns that name a model in every table
NETWORK = ["pretraining", "finetune_depth", "seed"]
#: and a cell, whose networks differ in their seeds alone
CELL = NETWORK[:2]
MODEL_COLUMNS = ["selection", *NETWORK]
#: the slices on which networks are pre-trained, and on which their checkpoints are selected
PRETRAINING_SPLITS = ("pretraining", "pretraining_validation")
#: the name of the corpus of a network that saw none: the untrained network
UNTRAINED = "none"
#: the selection of models of about equal accuracy
MATCHED: Selection = "matched"
_PUBLISHED = dataclasses.asdict(PUBLISHED)


class StudyError(UserError):
    """A study file is missing or wrong; the message says what to change."""


@dataclasses.dataclass(frozen=True, order=True)
class Run:
    """One fine-tuned model; an untrained network has `pretraining` "none" and depth 0."""

    selection: Selection
    pretraining: str
    finetune_depth: int
    seed: int

    @property
    def name(self) -> str:
        """The name of the run's files; never parsed, the four columns say the same."""
        return f"{self.selection}-{self.pretraining}-depth{self.finetune_depth}-seed{self.seed}"


def first_untrained(selection: Selection) -> Run:
    """Return the untrained network with whose scores stand those of the maps that need no network."""
    return Run(selection, UNTRAINED, 0, 0)


def _of_the_protocol(switches: dict[str, Any]) -> dict[str, Any]:
    for name in switches:
        if name not in _PUBLISHED:
            raise ValueError(f"{name!r} is none of {', '.join(_PUBLISHED)}{did_you_mean(name, _PUBLISHED)}")
    Protocol(**switches)  # checks the values
    return switches


class Study(Settings):
    """All settings of one study; see `studies/demo.yaml` for what each means."""

    #: of the file, with that of the variant; `load_study` fills it in
    name: str = Field("", exclude=True)
    title: str
    #: `protocol` in the file: the one from which `switches` deviates
    base_protocol: Literal["corrected", "published"] = Field("corrected", alias="protocol")
    #: single fields of `pretrain_xai.protocol.Protocol` that differ from it
    switches: Annotated[dict[str, Any], AfterValidator(_of_the_protocol)] = Field(default_factory=dict)
    #: threads of each job; results are the same to the bit only for the same number
    threads: int = Field(1, gt=0)
    #: where networks are trained and explained; auto: on a graphics card if there is one. Each rounds in its own way
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    #: processes that build the dataset side by side; results are the same for any number
    workers: int = Field(1, gt=0)
    lesions: sections.Lesions
    slices: Slices
    #: slices of each split that `make plan` counts with while they are not made yet; those of the template are known
    expected_slices: dict[str, Annotated[int, Field(gt=0)]] = Field(default_factory=dict)
    dataset: sections.Dataset
    network: sections.Network
    pretraining: sections.Pretraining
    finetuning: sections.Finetuning
    attribution: sections.Attribution
    protocols: sections.Protocols = sections.Protocols()

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        for selection, cells in self.finetuning.selections.items():
            if set(cells) != set(self.pretraining.corpora):
                raise ValueError(f"finetuning.selections.{selection} must have one entry per pretraining corpus")
        for section, depths in (("attribution", self.finetuning.depths), ("protocols", self.explained_depths)):
            if unknown := set(getattr(self, section).depths or ()) - set(depths):
                among = "finetuning.depths" if section == "attribution" else "the depths that are explained"
                raise ValueError(f"{section}.depths: {sorted(unknown)} is not among {among}")
        n_pretrainings = len(self.pretraining.seeds)
        for cells in self.finetuning.selections.values() if n_pretrainings > 1 else ():
            for corpus, cell in cells.items():
                if corpus not in self.pretraining.weights and {*map(len, cell.seeds)} != {n_pretrainings}:
                    n_seeds = f"{n_pretrainings} seeds of fine-tuning at every depth of {corpus} are expected"
                    raise ValueError(
                        f"pretraining.seeds: {n_seeds}, one for each pre-training; or give one pre-training"
                    )
        seeded, laid = set(self.dataset.seed_bases), set(self.lesions.patches)
        with_lesions = {"train", "validation", "test"} | seeded
        used = with_lesions | set(PRETRAINING_SPLITS if "mri" in self.pretraining.trained else ())
        lacking = {"dataset.seed_bases": with_lesions - seeded, "lesions.patches": with_lesions - laid}
        lacking |= {"slices": used - self.slices.splits}
        lacking |= {"expected_slices": used - set(self.expected_slices)} if self.expected_slices else {}
        for section, absent in lacking.items():
            if absent:
                raise ValueError(f"{section} has no entry for {', '.join(sorted(absent))}, which the study uses")
        if self.pretraining.target in ("subject", "age", "split", "z", "file"):
            raise ValueError(f"pretraining.target can't be {self.pretraining.target}, which is no class")
        if self.slices.source in ("template", "pickle") and self.pretraining.target != "sex":
            raise ValueError(f"pretraining.target: slices of the source {self.slices.source} tell only sex")
        return self

    @property
    def paths(self) -> Paths:
        """Where its files lie."""
        return Paths(self.name)

    @property
    def protocol(self) -> Protocol:
        """The protocol with its switches set."""
        return dataclasses.replace(PROTOCOLS[self.base_protocol], **self.switches)

    @property
    def protocol_name(self) -> str:
        """The protocol's name in tables, such as `corrected` or `corrected+ties=strict`."""
        return "+".join([self.base_protocol, *(f"{name}={value}" for name, value in sorted(self.switches.items()))])

    @property
    def selections(self) -> dict[Selection, dict[str, Cell]]:
        """The cells of every selection, those of checkpoints along the training too, the main one first."""
        trained = self.finetuning.selections
        return trained if self.finetuning.matching is None else trained | {MATCHED: trained[self.main_selection]}

    def runs(self) -> Iterator[Run]:
        """Yield every fine-tuned model of the study."""
        for selection, cells in self.selections.items():
            for pretraining, cell in cells.items():
                for depth in (
                    self.finetuning.depths if selection in self.finetuning.selections else self.explained_depths
                ):
                    for seed in cell.seeds[depth - 1]:
                        yield Run(selection, pretraining, depth, seed)

    def explained_runs(self) -> list[Run]:
        """Return the fine-tuned models whose maps are scored, on the images that all of them get right."""
        return [run for run in self.runs() if run.finetune_depth in self.explained_depths]

    def scored_runs(self) -> list[Run]:
        """Return the fine-tuned models that are explained, then the untrained ones."""
        return [*self.explained_runs(), *self.untrained_runs()]

    def checkpoint_runs(self) -> Iterator[Run]:
        """Yield those of the runs that are checkpoints of others, not trained by themselves."""
        return (run for run in self.runs() if run.selection not in self.finetuning.selections)

    @property
    def kept_checkpoints(self) -> dict[str, Any] | None:
        """How often fine-tuning validates per epoch and from which rate on it keeps checkpoints; none: it keeps none."""
        kept = self.finetuning.matching
        return {"per_epoch": kept.checkpoints_per_epoch, "lowest_rate": kept.lowest_rate} if kept else None

    @property
    def image_limits(self) -> dict[Selection, dict[str, Any]]:
        """Which images are explained for a model of each selection: what `selection.explained_images` takes."""
        own, limits = self.attribution, {}
        for name in sorted(self.selections):
            kind = (name == MATCHED and self.finetuning.matching) or own
            limits[name] = {"max_images": kind.max_images or own.max_images, "misclassified": kind.misclassified}
        return limits

    def images_of(self, slices: Mapping[str, int]) -> dict[str, int]:
        """Return the images of each split from its slices: as published the test images are those of validation, too."""
        further = slices.get("validation", 0) if self.protocol.selection_on_test and "test" in slices else 0
        return {split: count + further * (split == "test") for split, count in slices.items()}

    @property
    def reseeds(self) -> list[str]:
        """The variants that are the study itself with further seeds."""
        return [f"{paths.RESEED}{number}" for number in range(1, self.protocols.reseeds + 1)]

    @property
    def main_selection(self) -> Selection:
        """The first selection: figures are drawn of it, and its models are trained anew in variants."""
        return next(iter(self.finetuning.selections))

    @property
    def compared_depths(self) -> list[int]:
        """The fine-tuning depths at which the study is compared with its retrained variants."""
        return list(self.protocols.depths or self.explained_depths)

    @property
    def explained_depths(self) -> list[int]:
        """The fine-tuning depths whose models are explained."""
        return list(self.attribution.depths or self.finetuning.depths)

    def untrained_runs(self) -> Iterator[Run]:
        """Yield the untrained networks of each selection, beside which the fine-tuned models are scored."""
        for selection in self.selections:
            yield from (Run(selection, UNTRAINED, 0, seed) for seed in range(self.attribution.untrained_networks))

    def first_runs(self, selection: Selection, depth: int) -> list[Run]:
        """Return the first network of each corpus that is fine-tuned so deep."""
        runs = [run for run in self.runs() if (run.selection, run.finetune_depth) == (selection, depth)]
        return [next(run for run in runs if run.pretraining == corpus) for corpus in self.pretraining.corpora]

    def n_seeds(self, selection: Selection) -> int:
        """Return the fewest networks of one corpus and depth."""
        cells = self.selections[selection].values()
        return min(len(cell.seeds[depth - 1]) for cell in cells for depth in self.finetuning.depths)

    def check_selection(self, selection: Selection) -> Selection:
        """Return `selection` if the study has it, else raise a StudyError that names those that it has."""
        _require(selection, self.selections, "has no selection")
        return selection

    def check_metric(self, metric: str) -> None:
        """Raise a StudyError that names the study's scores if `metric` is none of them."""
        _require(metric, self.attribution.scores, "has no score")

    def check_corpus(self, corpus: str) -> None:
        """Raise a StudyError that names the study's corpora if `corpus` is none of them."""
        _require(corpus, self.pretraining.corpora, "has no corpus")

    def check_run(self, run: Run) -> Run:
        """Return `run` if the study has it.

        Raises
        ------
        StudyError
            Naming the runs of the study.
        """
        _require(run.name, sorted(known.name for known in (*self.runs(), *self.untrained_runs())), "has no model")
        return run

    @property
    def own_pretrainings(self) -> bool:
        """Whether each seed of every corpus has a pre-training of its own, so that the study can speak of corpora."""
        return len(self.pretraining.seeds) > 1 and not self.pretraining.weights

    def pretraining_seed(self, run: Run) -> int:
        """Return the seed of the pre-training from which a run starts; weights that are brought have the first."""
        seeds, cell = self.pretraining.seeds, self.selections[run.selection][run.pretraining]
        if len(seeds) == 1 or run.pretraining in self.pretraining.weights:
            return seeds[0]
        return seeds[cell.seeds[run.finetune_depth - 1].index(run.seed)]

    def learning_rate(self, run: Run) -> float:
        """Return the learning rate with which `run` is fine-tuned."""
        return self.selections[self.check_run(run).selection][run.pretraining].learning_rate[run.finetune_depth - 1]


def _require(name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        there_are = ", ".join(known) or "none"
        raise StudyError(f"this study {what} {name!r}{did_you_mean(name, known)}; there are: {there_are}")


def load_study(name: str) -> Study:
    """Read and check `studies/<name>.yaml`; `<name>+<switch>` is the study with one switch as published.

    `<name>+reseed<n>` is the study with further seeds. Variants whose networks are trained anew have the smaller grid of the
    section `protocols`.

    Raises
    ------
    StudyError
        One line: the file, the setting, what was found and what was expected.
    UserError
        The name is none.
    """
    base, variant = paths.split_name(name)
    path = paths.study_file(name)
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise StudyError(f"no study {base!r} ({path}); there are {', '.join(known)}{did_you_mean(base, known)}")
    try:
        settings = read_yaml(path.read_text(encoding="utf-8-sig"))
        study = Study.model_validate(settings).model_copy(update={"name": name})
    except ValidationError as error:
        raise StudyError(f"{path}: {'; '.join(map(_one_line, error.errors()[:5]))}") from None
    except (ValueError, OSError) as error:
        raise StudyError(f"{path}: {error}") from None
    return _variant(study, variant) if variant else study


class _Loader(yaml.SafeLoader):
    """Plain values only; a name that comes twice is a mistake, of which PyYAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [str(name.value) for name, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"line {node.start_mark.line + 1} and below: {twice[0][:60]!r} comes twice")
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """Return what a YAML text says: nothing, truth values, numbers and texts, in lists and mappings.

    Raises
    ------
    ValueError
        The text is no YAML, asks for another kind of value, or has a name twice in one mapping.
    """
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # PyYAML raises nearly anything for numbers and names that are none
        raise ValueError(f"not a YAML file: {' '.join(str(error).split())[:300]}") from None


#: added to every seed for each further set of seeds, or more where the seeds of a study are further apart
RESEED_STEP = 1_000


def _variant(study: Study, variant: str) -> Study:
    known = ["published", *_PUBLISHED, *study.reseeds]
    if variant not in known:
        there_are = f"there are {', '.join(known)} (protocols.reseeds sets how many reseeds)"
        raise StudyError(f"{study.name!r} has no variant {variant!r}{did_you_mean(variant, known)}; {there_are}")
    if paths.owner(study.name, "finetuned") == study.name:
        seeds = [run.seed for run in study.runs()]  # none is equal to a further seed
        step = max(RESEED_STEP, max(seeds) - min(seeds) + 1)
        study = _on_smaller_grid(study, step * paths.reseed_number(variant))
    if variant == "published":
        return study.model_copy(update={"base_protocol": "published", "switches": {}})
    changed = {variant: _PUBLISHED[variant]} if variant in _PUBLISHED else {}
    return study.model_copy(update={"switches": study.switches | changed})


def _on_smaller_grid(study: Study, shift: int) -> Study:
    """Return the study on the grid of its section `protocols`, with `shift` added to all seeds of fine-tuning.

    It has the compared selection only, and keeps no checkpoints.
    """
    cells = dict(study.selections[study.main_selection])
    for corpus, cell in cells.items():
        cells[corpus] = cell.model_copy(update={"seeds": [[seed + shift for seed in seeds] for seeds in cell.seeds]})
    grid = {"depths": study.compared_depths, "selections": {study.main_selection: cells}, "matching": None}
    images = {"max_images": study.protocols.max_images or study.attribution.max_images, "misclassified": False}
    finetuning, attribution = study.finetuning.model_copy(update=grid), study.attribution.model_copy(update=images)
    return study.model_copy(update={"finetuning": finetuning, "attribution": attribution})


def _one_line(detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    found = "" if detail["type"] in ("missing", "value_error") else f", found {detail['input']!r}"
    line = f"{place}: {detail['msg'].removeprefix('Value error, ')}{found}".removeprefix(": ")
    return " ".join(line[:400].split())  # names and texts in the file may hold line breaks
