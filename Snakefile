# One study from lesions to report: `make demo`, or `snakemake --profile profiles/local --config study=demo`.
# Data are outputs; executed notebooks are logs, so that Snakemake keeps them, with their traceback, when they fail.
# A notebook runs again when its inputs, its settings or its code change (`params`, see pretrain_xai.running.stages).
import shlex
import sys
from itertools import combinations

from pretrain_xai import paths
from pretrain_xai.paths import Paths
from pretrain_xai.plan import requested
from pretrain_xai.running.stages import STAGES, code_digest, fingerprint
from pretrain_xai.running.variants import finished_variants, made_from, variant_files
from pretrain_xai.statistics.table_names import EQUAL_ACCURACY, MANUSCRIPT, SENSITIVITY, STATISTICS
from pretrain_xai.study import Run, load_study

STUDY = config.get("study", "demo")
study = load_study(STUDY)


def quoted(path):
    """A path as a word of a shell command that Snakemake formats first."""
    return shlex.quote(str(path)).replace("{", "{{").replace("}", "}}")


def near(path):
    """The path from the working folder: outputs of one rule must not be absolute in one place and relative in another."""
    return path.relative_to(paths.root()).as_posix()


def owner(notebook):
    """The study whose files the notebook makes: a variant shares what its switch does not change."""
    return paths.owner(STUDY, STAGES[notebook].artefact)


def log_of(notebook, run="run"):
    return f"{near(Paths(owner(notebook)).executed)}/{notebook}/{run}.ipynb"


def command(notebook, parameters="", made="{output:q}"):
    program = f"{PYTHON} -m pretrain_xai.run_notebook {quoted(paths.NOTEBOOKS / f'{notebook}.ipynb')}"
    return f"{program} {{log}} -p study {owner(notebook)} {parameters} --made {made}"


def figures(notebook, *names):
    folder = near(Paths(owner(notebook)).figures)
    return [f"{folder}/{name}{suffix}" for name in names for suffix in (".png", ".pdf", ".csv")]


def dataset(*splits):
    names = ("images.npy", "strength.npy", "images.csv", "lesions.csv")
    return [f"{near(study.paths.dataset)}/{split}/{name}" for split in splits for name in names]


def statistics(*names):
    return [f"{near(study.paths.statistics)}/{name}.csv" for name in names]


def asks(rule):
    """What a job asks a cluster for, by the last plan of the study; twice as much when it is tried again."""
    asked = requested(study, rule)
    growing = {
        name: lambda wildcards, attempt, value=asked[name]: attempt * value for name in ("mem_mb", "runtime") if name in asked
    }
    return asked | growing


def learning_rate(wildcards):
    run = Run(wildcards.selection, wildcards.pretraining, int(wildcards.finetune_depth), int(wildcards.seed))
    return study.learning_rate(run)


def brought(wildcards):
    """The local file of weights that are not trained here; the batch refuses to start when it is missing."""
    path = paths.weights_file(study.pretraining.weights[wildcards.pretraining])
    return [path] if path and path.is_file() else []


def weights(wildcards):
    return [] if wildcards.pretraining == "none" else [f"{FINETUNED}/weights.safetensors".format(**wildcards)]


def slices_of(wildcards):
    """What the slices depend on, for networks that are trained on them."""
    return fingerprint(study, "02_make_slices") if wildcards.pretraining == "mri" else None


PYTHON = quoted(sys.executable)
SELECTION = study.main_selection
CORPORA = study.pretraining.corpora
IS_VARIANT = bool(paths.split_name(STUDY)[1])
# variants are run by batches of their own; those that are finished are compared
VARIANTS = [] if IS_VARIANT else finished_variants(study)

RUN = "{selection}-{pretraining}-depth{finetune_depth}-seed{seed}"
OF_RUN = " ".join(f"-p {name} {{wildcards.{name}}}" for name in ("selection", "pretraining", "finetune_depth", "seed"))
OF_SELECTION = f"-p selection {SELECTION}"
RUNS = list(study.runs())
TRAINED = [run for run in RUNS if run.selection in study.finetuning.selections]
MATCHED = list(study.checkpoint_runs())
SCORED = [*RUNS, *study.untrained_runs()]
# whose layers the sanity check makes random: of the first corpus, fine-tuned deepest, its first seed
CHECKED = max((run for run in TRAINED if run.pretraining == CORPORA[0]), key=lambda run: run.finetune_depth)

# all but the pixels, which are removed when the study is finished
SLICES = [near(study.paths.slices / name) for name in ("slices.csv", "participants.csv", "rejected.csv")]
AUDIT = near(study.paths.dataset / "audit.csv")
PRETRAINED = near(study.paths.pretrained("{pretraining}"))
FINETUNED = near(study.paths.finetuned(RUN))
PREDICTIONS = [near(study.paths.finetuned(run.name) / "predictions.parquet") for run in RUNS]
CLASSIFICATION = [near(study.paths.classification)]
MATCHING = [near(study.paths.matching)] if MATCHED else []
INTERSECTIONS = [near(study.paths.intersections)]
SCORES = [near(study.paths.scores / f"{run.name}.parquet") for run in SCORED]
SETTING_SCORES = [near(study.paths.setting_scores / f"{run.name}.npz") for run in SCORED]
EXAMPLES = [near(study.paths.example_maps / f"{run.name}.npz") for run in RUNS]
SWITCH_SCORES = [near(study.paths.switch_scores / f"{run.name}.parquet") for run in SCORED if run.selection == SELECTION]
OF_VARIANTS = sorted({near(path) for variant in VARIANTS for path in variant_files(STUDY, variant)})
TABLES = [f"{near(study.paths.figures)}/tables/{name}{suffix}" for name in MANUSCRIPT for suffix in (".tex", ".md")]
PAIRS = [f"{second}_{first}" for first, second in combinations(CORPORA, 2)]
BOXPLOTS = ("boxplots_tpr{ending}", "boxplots_tnr{ending}", "boxplots_by_class{ending}")
# boxplots of the main selection have no ending
ENDINGS = ["" if selection == SELECTION else f"_{selection}" for selection in study.selections]
FINISHED = near(study.paths.finished)
REPORT = near(study.paths.figures / "report.html")

# notebooks that sum up all models: what each reads, which tables it writes, which figures, and its parameters
SUMMARIES = {
    "06_classification_metrics": (PREDICTIONS, CLASSIFICATION, ["classification"], OF_SELECTION),
    "07_find_intersections": (PREDICTIONS + MATCHING, INTERSECTIONS, [], ""),
    "09_heatmaps": (
        EXAMPLES + PREDICTIONS + dataset("test") + INTERSECTIONS,
        [],
        [f"heatmaps_correct_{corpus}" for corpus in CORPORA],
        OF_SELECTION,
    ),
    "11_boxplots_incorrect": (SCORES, [], ["boxplots_wrong"], OF_SELECTION),
    "13_statistics": (
        SCORES + EXAMPLES + CLASSIFICATION + INTERSECTIONS + dataset("test"),
        statistics(*STATISTICS) + TABLES,
        ["skill_intervals", "ranks", "redundancy"]
        + [f"effect_{pair}" for pair in PAIRS]
        + ["power"] * (study.n_seeds(SELECTION) > 1),
        OF_SELECTION,
    ),
    "14_equal_accuracy": (
        SCORES + CLASSIFICATION + INTERSECTIONS + MATCHING + dataset("test"),
        statistics(*EQUAL_ACCURACY),
        ["accuracy_and_skill", *(f"equal_accuracy_{pair}" for pair in PAIRS)],
        "",
    ),
    "15_sensitivity": (
        SETTING_SCORES + INTERSECTIONS + dataset("test"), statistics(*SENSITIVITY), ["sensitivity"], OF_SELECTION
    ),
    "18_compare_protocols": (
        SCORES + CLASSIFICATION + INTERSECTIONS + PREDICTIONS + SWITCH_SCORES + OF_VARIANTS,
        [near(study.paths.data / "protocols.csv")],
        ["protocols"],
        OF_SELECTION,
    ),
}


workdir: paths.root()


wildcard_constraints:
    selection="best|matched",
    pretraining="[a-z]+",
    finetune_depth="[0-5]",
    seed="[0-9]+",
    ending="|".join(ENDINGS),


localrules: all


rule all:
    # every result by name, so that a lost one is made again; a variant has no figures of its own
    input: SLICES, PREDICTIONS, CLASSIFICATION, INTERSECTIONS, SCORES, EXAMPLES, FINISHED if IS_VARIANT else REPORT


rule make_lesions:
    output: near(study.paths.lesions)
    log: log_of("01_make_lesions")
    params: fingerprint(study, "01_make_lesions")
    shell: command("01_make_lesions")


rule make_slices:
    output:
        SLICES,
        near(study.paths.slices / "slices.npy"),
        figures("02_make_slices", "slices"),
    log: log_of("02_make_slices")
    params: fingerprint(study, "02_make_slices")
    shell: command("02_make_slices")


rule build_dataset:
    input: rules.make_lesions.output, SLICES
    output:
        dataset(*study.dataset.seed_bases),
        [f"{near(study.paths.dataset)}/{split}/thumbnails.npy" for split in study.dataset.seed_bases],
        AUDIT,
        figures("03_build_dataset", "audit"),
    log: log_of("03_build_dataset")
    params: fingerprint(study, "03_build_dataset"), slices=fingerprint(study, "02_make_slices")
    threads: study.workers
    shell: command("03_build_dataset")


rule pretrain:
    wildcard_constraints: pretraining="|".join(study.pretraining.trained) or "-"
    input: lambda wildcards: SLICES if wildcards.pretraining == "mri" else []
    output: PRETRAINED, PRETRAINED.replace(".safetensors", ".history.csv")
    log: log_of("04_pretrain", "{pretraining}")
    params: fingerprint(study, "04_pretrain"), slices=slices_of
    threads: study.threads
    resources: **asks("pretrain")
    shell: command("04_pretrain", "-p pretraining {wildcards.pretraining}")


rule take_weights:
    wildcard_constraints: pretraining="|".join(study.pretraining.weights) or "-"
    input: brought
    output: PRETRAINED
    log: log_of("04_pretrain", "{pretraining}")
    params: fingerprint(study, "04_pretrain")
    shell: command("04_pretrain", "-p pretraining {wildcards.pretraining}")


rule finetune:
    input: PRETRAINED, dataset(*study.dataset.seed_bases)
    output:
        # the checkpoints are removed when models are matched
        [temp(directory(f"{FINETUNED}/checkpoints"))] if MATCHED else [],
        made=multiext(f"{FINETUNED}/", "weights.safetensors", "history.csv", "predictions.parquet")
        + [f"{FINETUNED}/checkpoints.csv"] * bool(MATCHED),
    wildcard_constraints: selection="|".join(study.finetuning.selections)
    log: log_of("05_finetune", RUN)
    params: fingerprint(study, "05_finetune"), learning_rate=learning_rate
    threads: study.threads
    resources: **asks("finetune")
    shell: command("05_finetune", OF_RUN, "{output.made:q}")


if MATCHED:

    rule match_accuracy:
        input:
            [near(study.paths.checkpoints(run.name).with_suffix("")) for run in TRAINED],
            [near(study.paths.checkpoints(run.name)) for run in TRAINED],
            [near(study.paths.finetuned(run.name) / "weights.safetensors") for run in TRAINED],
            dataset("validation", "test"),
        output:
            MATCHING,
            [near(study.paths.finetuned(run.name) / "weights.safetensors") for run in MATCHED],
            [near(study.paths.finetuned(run.name) / "predictions.parquet") for run in MATCHED],
            figures("12_match_accuracy", "matching"),
        log: log_of("12_match_accuracy")
        params: fingerprint(study, "12_match_accuracy")
        threads: study.threads
        resources: **asks("match_accuracy")
        shell: command("12_match_accuracy")


rule explanation_metrics:
    input: weights, dataset("test"), INTERSECTIONS
    output:
        near(study.paths.scores / f"{RUN}.parquet"),
        near(study.paths.setting_scores / f"{RUN}.npz"),
        near(study.paths.example_maps / f"{RUN}.npz"),
    log: log_of("08_explanation_metrics", RUN)
    params: fingerprint(study, "08_explanation_metrics")
    threads: study.threads
    resources: **asks("explanation_metrics")
    shell: command("08_explanation_metrics", f"{OF_RUN} -p methods '[{', '.join(study.attribution.methods)}]'")


rule score_switches:
    input: weights, dataset("test"), INTERSECTIONS
    output: [near(folder / f"{RUN}.parquet") for folder in (study.paths.switch_scores, study.paths.switch_predictions)]
    log: log_of("17_score_switches", RUN)
    params: fingerprint(study, "17_score_switches")
    threads: study.threads
    resources: **asks("score_switches")
    shell: command("17_score_switches", OF_RUN)


rule sanity_checks:
    input: near(study.paths.finetuned(CHECKED.name) / "weights.safetensors"), dataset("test"), INTERSECTIONS
    output: near(study.paths.data / "sanity_checks.csv"), figures("16_sanity_checks", "sanity_checks")
    log: log_of("16_sanity_checks")
    params: fingerprint(study, "16_sanity_checks")
    threads: study.threads
    resources: **asks("sanity_checks")
    shell: command("16_sanity_checks", OF_RUN.format(wildcards=CHECKED))


rule boxplots:
    input: SCORES, CLASSIFICATION, INTERSECTIONS, MATCHING
    output: figures("10_boxplots", *BOXPLOTS)
    log: log_of("10_boxplots", "run{ending}")
    params:
        fingerprint(study, "10_boxplots"),
        selection=lambda wildcards: wildcards.ending.removeprefix("_") or SELECTION,
    resources: **asks("boxplots")
    shell: command("10_boxplots", "-p selection {params.selection}")


def summary(notebook, reads, tables, drawn, parameters):
    """A rule for a notebook that sums up all models; return what it makes."""

    name = notebook.split("_", 1)[1]

    rule:
        name: name
        input: reads
        output: tables, figures(notebook, *drawn)
        log: log_of(notebook)
        params:
            fingerprint(study, notebook),
            variants=VARIANTS if notebook == "18_compare_protocols" else [],
        resources: **asks(name)
        shell: command(notebook, parameters)

    return tables + figures(notebook, *drawn)


SUMMED_UP = {notebook: summary(notebook, *about) for notebook, about in SUMMARIES.items()}


# the mark of a variant, from which its study sees that it can be compared
rule finish_variant:
    input: dataset("test"), PREDICTIONS, INTERSECTIONS, SCORES
    output: FINISHED
    params: made_from(study)
    shell: f"{PYTHON} -m pretrain_xai.running.variants {STUDY}"


rule report:
    input:
        AUDIT,
        figures("02_make_slices", "slices"),
        # the comparison of protocols is for `make switches` and `make protocols`
        [made for notebook, made in SUMMED_UP.items() if notebook != "18_compare_protocols"],
        [path.format(ending=ending) for path in rules.boxplots.output for ending in ENDINGS],
        rules.sanity_checks.output,
    output: REPORT
    params: study.model_dump(mode="json"), code=code_digest(paths.LIBRARY / "report.py")
    resources: **asks("report")
    shell: f"{PYTHON} -m pretrain_xai.report {STUDY}"
