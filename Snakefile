# One study from lesions to report: `make demo`, or `snakemake --profile profiles/local --config study=demo`.
# Data are outputs; executed notebooks are logs, so that Snakemake keeps them, with their traceback, when they fail.
# A notebook runs again when its inputs, its settings or its code change (`params`, see pretrain_xai.running.stages).
import shlex
import sys
from itertools import combinations

from pretrain_xai import paths
from pretrain_xai.paths import Paths
from pretrain_xai.plan import requested
from pretrain_xai.provenance import near  # outputs of one rule are all relative to the root
from pretrain_xai.running.stages import STAGES, code_digest, fingerprint
from pretrain_xai.running.variants import finished_variants, made_from, variant_files
from pretrain_xai.statistics.table_names import EQUAL_ACCURACY, MANUSCRIPT, SANITY, SENSITIVITY, STATISTICS
from pretrain_xai.study import Run, load_study

STUDY = config.get("study", "demo")
study = load_study(STUDY)


def quoted(path):
    """A path as a word of a shell command that Snakemake formats first."""
    return shlex.quote(str(path)).replace("{", "{{").replace("}", "}}")


def owner(notebook):
    """The study whose files the notebook makes: a variant shares what its switch does not change."""
    return paths.owner(STUDY, STAGES[notebook].artefact)


def figures(notebook, *names):
    folder = near(Paths(owner(notebook)).figures)
    return [f"{folder}/{name}{suffix}" for name in names for suffix in (".png", ".pdf", ".csv")]


def dataset(*splits):
    names = ("images.npy", "strength.npy", "images.csv", "lesions.csv")
    files = [f"{split}/{name}" for split in splits for name in names]
    of_test = ("clean.npy", *(("twins.npy", "twin_strength.npy") if study.protocol.has_twins else ()))
    files += [f"test/{name}" for name in of_test if "test" in splits]
    return [f"{near(study.paths.dataset)}/{file}" for file in files]


def of_runs(runs, name):
    return [near(study.paths.finetuned(run.name) / name) for run in runs]


def statistics(*names):
    return [f"{near(study.paths.statistics)}/{name}.csv" for name in names]


def asks(rule):
    """What a job asks a cluster for, by the last plan of the study; twice as much when it is tried again."""
    asked = requested(study, rule)
    growing = {name: lambda wildcards, attempt, value=asked[name]: attempt * value for name in asked if name != "gpu"}
    return asked | growing


def brought(wildcards):
    """The local file of weights that are not trained here; the batch refuses to start when it is missing."""
    source = study.pretraining.weights.get(wildcards.pretraining)
    path = source and paths.weights_file(source)
    return [path] if path and path.is_file() else []


def origin(wildcards):
    """The pre-training from which a network is fine-tuned."""
    run = Run(wildcards.selection, wildcards.pretraining, int(wildcards.finetune_depth), int(wildcards.seed))
    return near(study.paths.pretrained(run.pretraining, study.pretraining_seed(run)))


def network_and_images(wildcards):
    weights = [] if wildcards.pretraining == "none" else [f"{FINETUNED}/weights.safetensors".format(**wildcards)]
    return [*weights, *dataset("test"), *INTERSECTIONS]


PYTHON = quoted(sys.executable)
SELECTION = study.main_selection
CORPORA = study.pretraining.corpora
SPLITS = list(study.dataset.seed_bases)
IS_VARIANT = bool(paths.split_name(STUDY)[1])
# variants are run by batches of their own; those that are finished are compared
VARIANTS = [] if IS_VARIANT else finished_variants(study)

RUN = "{selection}-{pretraining}-depth{finetune_depth}-seed{seed}"
OF_RUN = " ".join(f"-p {name} {{wildcards.{name}}}" for name in ("selection", "pretraining", "finetune_depth", "seed"))
OF_CORPUS = "-p pretraining {wildcards.pretraining} -p seed {wildcards.seed}"
OF_SELECTION = f"-p selection {SELECTION}"
RUNS = list(study.runs())
TRAINED = [run for run in RUNS if run.selection in study.finetuning.selections]
MATCHED = list(study.checkpoint_runs())
SCORED = study.scored_runs()
# the first network of each corpus, fine-tuned deepest; the sanity check makes the layers of the first one random
CHECKED = study.first_runs(SELECTION, max(study.explained_depths))

LESIONS = [near(study.paths.lesions)]
# all but the pixels, which are removed when the study is finished
SLICES = [near(study.paths.slices / name) for name in ("slices.csv", "participants.csv", "rejected.csv")]
AUDIT = near(study.paths.dataset / "audit.csv")
PRETRAINED = near(study.paths.pretrained("{pretraining}", "{seed}"))
FINETUNED = near(study.paths.finetuned(RUN))
PREDICTIONS = of_runs(RUNS, "predictions.parquet")
CLASSIFICATION = [near(study.paths.classification), near(study.paths.lesion_dependence)]
MATCHING = [near(study.paths.matching)] if MATCHED else []
INTERSECTIONS = [near(study.paths.intersections)]
SCORES = [near(study.paths.scores / f"{run.name}.parquet") for run in SCORED]
SETTING_SCORES = [near(study.paths.setting_scores / f"{run.name}.npz") for run in SCORED]
EXAMPLES = [near(study.paths.example_maps / f"{run.name}.npz") for run in study.explained_runs()]
SWITCH_SCORES = [near(study.paths.switch_scores / f"{run.name}.parquet") for run in SCORED if run.selection == SELECTION]
OF_VARIANTS = sorted({near(path) for variant in VARIANTS for path in variant_files(STUDY, variant)})
TABLES = [f"{near(study.paths.figures)}/tables/{name}{suffix}" for name in MANUSCRIPT for suffix in (".tex", ".md")]
PAIRS = [f"{second}_{first}" for first, second in combinations(CORPORA, 2)]
# boxplots of the main selection have no ending
ENDINGS = ["" if selection == SELECTION else f"_{selection}" for selection in study.selections]
FINISHED = near(study.paths.finished)
REPORT = near(study.paths.figures / "report.html")


workdir: paths.root()


wildcard_constraints:
    selection="best|matched", pretraining="[a-z]+", finetune_depth="[0-5]", seed="[0-9]+", ending=f"({'|'.join(ENDINGS)})",


localrules: all


rule all:
    # every result by name, so that a lost one is made again; a variant has no figures of its own
    input: SLICES, PREDICTIONS, CLASSIFICATION, INTERSECTIONS, SCORES, EXAMPLES, FINISHED if IS_VARIANT else REPORT


def stage(notebook, reads, makes, draws=(), parameters="", of="run", name="", workers=1, only={}, **depends):
    """A rule that runs a notebook; return what it makes.

    It reads and makes files, draws figures and gets further parameters; `of` is the name of the executed notebook, `only`
    limits wildcards. It `depends` on its settings and code (`fingerprint`), and on what else is given.
    """
    name = name or notebook.split("_", 1)[1]
    made = [*makes, *figures(notebook, *draws)]
    program = f"{PYTHON} -m pretrain_xai.run_notebook {quoted(paths.NOTEBOOKS / f'{notebook}.ipynb')}"

    rule:
        name: name
        wildcard_constraints: **only
        input: reads
        output: made
        log: f"{near(Paths(owner(notebook)).executed)}/{notebook}/{of}.ipynb"
        params: fingerprint(study, notebook), **depends
        threads: study.threads if "threads" in STAGES[notebook].settings else workers
        resources: **asks(name)
        shell: f"{program} {{log}} -p study {owner(notebook)} {parameters} --made {{output:q}}"

    return made


stage("01_make_lesions", [], LESIONS)
stage("02_make_slices", [], [*SLICES, near(study.paths.slices / "slices.npy")], ["slices"])
stage(
    "03_build_dataset",
    LESIONS + SLICES,
    [*dataset(*SPLITS), *(f"{near(study.paths.dataset)}/{split}/thumbnails.npy" for split in SPLITS), AUDIT], ["audit"],
    workers=study.workers, slices=fingerprint(study, "02_make_slices"),
)
stage(
    "04_pretrain",
    lambda wildcards: SLICES if wildcards.pretraining == "mri" else [],
    [PRETRAINED, PRETRAINED.replace(".safetensors", ".history.csv")],
    of="{pretraining}-seed{seed}", parameters=OF_CORPUS, only={"pretraining": "|".join(study.pretraining.trained) or "-"},
    slices=lambda wildcards: fingerprint(study, "02_make_slices") if wildcards.pretraining == "mri" else None,
)
stage(
    "04_pretrain", brought, [PRETRAINED], name="take_weights",
    of="{pretraining}-seed{seed}", parameters=OF_CORPUS,
    only={"pretraining": "|".join(corpus for corpus in CORPORA if corpus not in study.pretraining.trained) or "-"},
)
stage(
    "05_finetune",
    lambda wildcards: [origin(wildcards), *dataset(*SPLITS)],
    # the checkpoints are removed when models are matched
    [temp(directory(f"{FINETUNED}/checkpoints"))] * bool(MATCHED)
    + multiext(f"{FINETUNED}/", "weights.safetensors", "history.csv", "predictions.parquet")
    + [f"{FINETUNED}/checkpoints.csv"] * bool(MATCHED),
    of=RUN, parameters=OF_RUN, only={"selection": "|".join(study.finetuning.selections)},
    learning_rate=lambda w: study.learning_rate(Run(w.selection, w.pretraining, int(w.finetune_depth), int(w.seed))),
)
if MATCHED:
    stage(
        "12_match_accuracy",
        [near(study.paths.checkpoints(run.name).with_suffix("")) for run in TRAINED]
        + of_runs(TRAINED, "checkpoints.csv") + of_runs(TRAINED, "weights.safetensors") + dataset("validation", "test"),
        MATCHING + of_runs(MATCHED, "weights.safetensors") + of_runs(MATCHED, "predictions.parquet"),
        ["matching"],
    )
stage(
    "08_explanation_metrics",
    network_and_images,
    [near(study.paths.scores / f"{RUN}.parquet")]
    + [near(folder / f"{RUN}.npz") for folder in (study.paths.setting_scores, study.paths.example_maps)],
    of=RUN, parameters=f"{OF_RUN} -p methods '[{', '.join(study.attribution.methods)}]'",
)
stage(
    "17_score_switches",
    network_and_images,
    [near(folder / f"{RUN}.parquet") for folder in (study.paths.switch_scores, study.paths.switch_predictions)],
    of=RUN, parameters=OF_RUN,
)
CHECKS = stage(
    "16_sanity_checks",
    of_runs(CHECKED, "weights.safetensors") + of_runs(CHECKED, "predictions.parquet") + dataset("test") + INTERSECTIONS,
    [near(study.paths.data / "sanity_checks.csv"), *statistics(*SANITY)], ["sanity_checks"],
    parameters=OF_RUN.format(wildcards=CHECKED[0]),
)
BOXPLOTS = stage(
    "10_boxplots",
    SCORES + CLASSIFICATION + INTERSECTIONS + MATCHING,
    [], ["boxplots_tpr{ending}", "boxplots_tnr{ending}", "boxplots_by_class{ending}"],
    of="run{ending}", parameters="-p selection {params.selection}",
    selection=lambda wildcards: wildcards.ending.removeprefix("_") or SELECTION,
)
SUMMARIES = [
    stage(
        "06_classification_metrics",
        PREDICTIONS,
        CLASSIFICATION, ["classification", "lesion_dependence"], OF_SELECTION,
    ),
    stage("07_find_intersections", PREDICTIONS + MATCHING, INTERSECTIONS),
    stage(
        "09_heatmaps",
        EXAMPLES + PREDICTIONS + dataset("test") + INTERSECTIONS,
        [], [f"heatmaps_correct_{corpus}" for corpus in CORPORA], OF_SELECTION,
    ),
    stage("11_boxplots_incorrect", SCORES, [], ["boxplots_wrong"], OF_SELECTION),
    stage(
        "13_statistics",
        SCORES + EXAMPLES + CLASSIFICATION + PREDICTIONS + INTERSECTIONS + dataset("test"),
        statistics(*STATISTICS) + TABLES,
        ["skill_intervals", "ranks", "redundancy", *(f"effect_{pair}" for pair in PAIRS)]
        + ["power"] * (study.n_seeds(SELECTION) > 1),
        OF_SELECTION,
    ),
    stage(
        "14_equal_accuracy",
        SCORES + CLASSIFICATION + INTERSECTIONS + MATCHING + dataset("test"),
        statistics(*EQUAL_ACCURACY), ["accuracy_and_skill", *(f"equal_accuracy_{pair}" for pair in PAIRS)],
    ),
    stage(
        "15_sensitivity",
        SETTING_SCORES + INTERSECTIONS + dataset("test"),
        statistics(*SENSITIVITY), ["sensitivity"], OF_SELECTION,
    ),
]
stage(
    "18_compare_protocols",
    SCORES + CLASSIFICATION + INTERSECTIONS + PREDICTIONS + SWITCH_SCORES + OF_VARIANTS,
    [near(study.paths.data / "protocols.csv")], ["protocols"], OF_SELECTION, variants=VARIANTS,
)


# the mark of a variant, from which its study sees that it can be compared
rule finish_variant:
    input: dataset("test"), PREDICTIONS, INTERSECTIONS, SCORES
    output: FINISHED
    params: made_from(study)
    shell: f"{PYTHON} -m pretrain_xai.running.variants {STUDY}"


rule report:
    input:
        AUDIT, figures("02_make_slices", "slices"), SUMMARIES, CHECKS,
        [path.format(ending=ending) for path in BOXPLOTS for ending in ENDINGS],
    output: REPORT
    params: study.model_dump(mode="json"), code=code_digest(paths.LIBRARY / "report.py")
    resources: **asks("report")
    shell: f"{PYTHON} -m pretrain_xai.report {STUDY}"
