# One study from lesions to report: `make demo`, or `snakemake --profile profiles/local --config study=demo`.
# Data are outputs; executed notebooks are logs, so that Snakemake keeps them, with their traceback, when they fail.
# A notebook runs again when its inputs, its settings or its code change (`params`, see pretrain_xai.running.stages).
import shlex
import sys
from itertools import combinations

from pretrain_xai import paths
from pretrain_xai.paths import Paths
from pretrain_xai.running.resources import count_images, needs
from pretrain_xai.running.stages import STAGES, code_digest, fingerprint
from pretrain_xai.statistics.table_names import EQUAL_ACCURACY, MANUSCRIPT, SENSITIVITY, STATISTICS
from pretrain_xai.study import Run, load_study
from pretrain_xai.running.variants import finished_variants, made_from, variant_files

STUDY = config.get("study", "demo")
study = load_study(STUDY)


def quoted(path):
    """A path as a word of a shell command that Snakemake formats first."""
    return shlex.quote(str(path)).replace("{", "{{").replace("}", "}}")


PYTHON = quoted(sys.executable)


def near(path):
    """The path from the working folder: outputs of one rule must not be absolute in one place and relative in another."""
    return path.relative_to(paths.root()).as_posix()


def owner(notebook):
    """The study whose files the notebook makes: a variant shares what its switch does not change."""
    return paths.owner(STUDY, STAGES[notebook].artefact)


def log_of(notebook, run="run"):
    return f"{near(Paths(owner(notebook)).executed)}/{notebook}/{run}.ipynb"


def command(notebook, parameters="", also=()):
    """What runs a notebook; `also` has patterns of what it may make besides, by the folder of its first output."""
    program = f"{PYTHON} -m pretrain_xai.run_notebook {quoted(paths.NOTEBOOKS / f'{notebook}.ipynb')}"
    further = "".join(f" {pattern!r}" for pattern in also)
    return f"{program} {{log}} -p study {owner(notebook)} {parameters} --made {{output:q}}" + (further and f" --also{further}")


def figure(notebook, name):
    return multiext(f"{near(Paths(owner(notebook)).figures)}/{name}", ".png", ".pdf", ".csv")


def dataset(*splits):
    names = ("images.npy", "strength.npy", "images.csv", "lesions.csv")
    return [f"{near(study.paths.dataset)}/{split}/{name}" for split in splits for name in names]


def checked_run():
    """The model whose layers the sanity check makes random: of the first corpus, fine-tuned deepest, its first seed."""
    runs = [run for run in study.runs() if (run.selection, run.pretraining) == (SELECTION, study.pretraining.corpora[0])]
    return max(runs, key=lambda run: run.finetune_depth)


def asks(stage):
    """What a job asks a cluster for; twice as much when it is tried again."""
    most = needs(study, stage, IMAGES)
    return {
        "mem_mb": lambda wildcards, attempt: attempt * most.mem_mb,
        "runtime": lambda wildcards, attempt: attempt * most.runtime,
        **({"gpu": most.gpu} if most.gpu else {}),
    }


RUN = "{selection}-{pretraining}-depth{finetune_depth}-seed{seed}"
OF_RUN = (
    "-p selection {wildcards.selection} -p pretraining {wildcards.pretraining}"
    " -p finetune_depth {wildcards.finetune_depth} -p seed {wildcards.seed}"
)
RUNS = [run.name for run in study.runs()]
UNTRAINED_RUNS = [run.name for run in study.untrained_runs()]
SELECTION = study.main_selection
TRAINED_RUNS = [run.name for run in study.runs() if run.selection in study.finetuning.selections]
CHECKPOINT_RUNS = [run.name for run in study.checkpoint_runs()]
MAIN_RUNS = [run.name for run in (*study.runs(), *study.untrained_runs()) if run.selection == SELECTION]
# other selections have a boxplot of their own
OTHERS = [selection for selection in study.selections if selection != SELECTION]
METHODS = f"[{', '.join(study.attribution.methods)}]"
CHECKED = checked_run()
IMAGES = count_images(study, study.paths.slices / "slices.csv")

SLICES = [near(study.paths.slices / name) for name in ("slices.npy", "slices.csv")]
AUDIT = near(study.paths.dataset / "audit.csv")
PRETRAINED = near(study.paths.pretrained("{pretraining}"))
FINETUNED = near(study.paths.finetuned(RUN))
PREDICTIONS = [near(study.paths.finetuned(run) / "predictions.parquet") for run in RUNS]
CLASSIFICATION = near(study.paths.classification)
MATCHING = [near(study.paths.matching)] if CHECKPOINT_RUNS else []
INTERSECTIONS = near(study.paths.intersections)
SCORES = [near(study.paths.scores / f"{run}.parquet") for run in RUNS + UNTRAINED_RUNS]
SETTING_SCORES = [near(study.paths.setting_scores / f"{run}.npz") for run in RUNS + UNTRAINED_RUNS]
EXAMPLES = [near(study.paths.example_maps / f"{run}.npz") for run in RUNS]
REPORT = near(study.paths.figures / "report.html")
FINISHED = near(study.paths.finished)
IS_VARIANT = bool(paths.split_name(STUDY)[1])
# variants are run by batches of their own; those that are finished are compared
VARIANTS = [] if IS_VARIANT else finished_variants(study)
OF_VARIANTS = {path for variant in VARIANTS for path in variant_files(STUDY, variant)}


workdir: paths.root()


wildcard_constraints:
    selection="best|matched",
    pretraining="[a-z]+",
    finetune_depth="[0-5]",
    seed="[0-9]+",


def learning_rate(wildcards):
    run = Run(wildcards.selection, wildcards.pretraining, int(wildcards.finetune_depth), int(wildcards.seed))
    return study.learning_rate(run)


def brought(wildcards):
    """The local file of weights that are not trained here; the batch refuses to start when it is missing."""
    path = paths.weights_file(study.pretraining.weights[wildcards.pretraining])
    return [path] if path and path.is_file() else []


def weights(wildcards):
    return [] if wildcards.pretraining == "none" else [f"{FINETUNED}/weights.safetensors".format(**wildcards)]


localrules:
    all,


rule all:
    input:
        # every result by name, so that a lost one is made again; a variant has no figures of its own
        PREDICTIONS,
        CLASSIFICATION,
        INTERSECTIONS,
        SCORES,
        EXAMPLES,
        FINISHED if IS_VARIANT else REPORT,


rule make_lesions:
    output:
        near(study.paths.lesions),
    log:
        log_of("01_make_lesions"),
    params:
        fingerprint(study, "01_make_lesions"),
    shell:
        command("01_make_lesions")


rule make_slices:
    output:
        SLICES,
        multiext(f"{near(study.paths.slices)}/", "participants.csv", "rejected.csv"),
        figure("02_make_slices", "slices"),
    log:
        log_of("02_make_slices"),
    params:
        fingerprint(study, "02_make_slices"),
    shell:
        command("02_make_slices")


rule build_dataset:
    input:
        rules.make_lesions.output,
        SLICES,
    output:
        dataset(*study.dataset.seed_bases),
        [f"{near(study.paths.dataset)}/{split}/thumbnails.npy" for split in study.dataset.seed_bases],
        AUDIT,
        figure("03_build_dataset", "audit"),
    log:
        log_of("03_build_dataset"),
    params:
        fingerprint(study, "03_build_dataset"),
    threads: study.workers
    shell:
        command("03_build_dataset")


rule pretrain:
    wildcard_constraints:
        pretraining="|".join(study.pretraining.trained) or "-",
    input:
        lambda wildcards: SLICES if wildcards.pretraining == "mri" else [],
    output:
        PRETRAINED,
        PRETRAINED.replace(".safetensors", ".history.csv"),
    log:
        log_of("04_pretrain", "{pretraining}"),
    params:
        fingerprint(study, "04_pretrain"),
    threads: study.threads
    resources:
        **asks("04_pretrain"),
    shell:
        command("04_pretrain", "-p pretraining {wildcards.pretraining}")


rule take_weights:
    wildcard_constraints:
        pretraining="|".join(study.pretraining.weights) or "-",
    input:
        brought,
    output:
        PRETRAINED,
    log:
        log_of("04b_take_weights", "{pretraining}"),
    params:
        fingerprint(study, "04b_take_weights"),
    shell:
        command("04b_take_weights", "-p pretraining {wildcards.pretraining}")


rule finetune:
    input:
        PRETRAINED,
        dataset(*study.dataset.seed_bases),
    output:
        multiext(f"{FINETUNED}/", "weights.safetensors", "history.csv", "predictions.parquet"),
        [f"{FINETUNED}/checkpoints.csv"] if CHECKPOINT_RUNS else [],
    wildcard_constraints:
        selection="|".join(study.finetuning.selections),
    log:
        log_of("05_finetune", RUN),
    params:
        fingerprint(study, "05_finetune"),
        learning_rate=learning_rate,
    threads: study.threads
    resources:
        **asks("05_finetune"),
    shell:
        command("05_finetune", OF_RUN, ["checkpoints/*.safetensors"])


if CHECKPOINT_RUNS:

    rule match_accuracy:
        input:
            [near(study.paths.checkpoints(run)) for run in TRAINED_RUNS],
            [near(study.paths.finetuned(run) / "weights.safetensors") for run in TRAINED_RUNS],
            dataset("validation", "test"),
        output:
            MATCHING,
            [near(study.paths.finetuned(run) / "weights.safetensors") for run in CHECKPOINT_RUNS],
            [near(study.paths.finetuned(run) / "predictions.parquet") for run in CHECKPOINT_RUNS],
            figure("05b_match_accuracy", "matching"),
        log:
            log_of("05b_match_accuracy"),
        params:
            fingerprint(study, "05b_match_accuracy"),
        threads: study.threads
        resources:
            **asks("05b_match_accuracy"),
        shell:
            command("05b_match_accuracy")


rule classification_metrics:
    input:
        PREDICTIONS,
    output:
        CLASSIFICATION,
        figure("06_classification_metrics", "classification"),
    log:
        log_of("06_classification_metrics"),
    params:
        fingerprint(study, "06_classification_metrics"),
    shell:
        command("06_classification_metrics", f"-p selection {SELECTION}")


rule find_intersections:
    input:
        PREDICTIONS,
        MATCHING,
    output:
        INTERSECTIONS,
    log:
        log_of("07_find_intersections"),
    params:
        fingerprint(study, "07_find_intersections"),
    shell:
        command("07_find_intersections")


rule explanation_metrics:
    input:
        weights,
        dataset("test"),
        INTERSECTIONS,
    output:
        near(study.paths.scores / f"{RUN}.parquet"),
        near(study.paths.setting_scores / f"{RUN}.npz"),
        near(study.paths.example_maps / f"{RUN}.npz"),
    log:
        log_of("08_explanation_metrics", RUN),
    params:
        fingerprint(study, "08_explanation_metrics"),
    threads: study.threads
    resources:
        **asks("08_explanation_metrics"),
    shell:
        command("08_explanation_metrics", f"{OF_RUN} -p methods '{METHODS}'")


rule heatmaps:
    input:
        EXAMPLES,
        PREDICTIONS,
        dataset("test"),
        INTERSECTIONS,
    output:
        [figure("09_heatmaps", f"heatmaps_correct_{corpus}") for corpus in study.pretraining.corpora],
    log:
        log_of("09_heatmaps"),
    params:
        fingerprint(study, "09_heatmaps"),
    shell:
        command("09_heatmaps", f"-p selection {SELECTION}", [f"heatmaps_wrong_*.{kind}" for kind in ("png", "pdf", "csv")])


rule boxplots:
    input:
        SCORES,
        CLASSIFICATION,
        INTERSECTIONS,
    output:
        figure("10_boxplots", "boxplots_tpr"),
        figure("10_boxplots", "boxplots_tnr"),
        figure("10_boxplots", "boxplots_by_class"),
    log:
        log_of("10_boxplots"),
    params:
        fingerprint(study, "10_boxplots"),
    resources:
        **asks("10_boxplots"),
    shell:
        command("10_boxplots", f"-p selection {SELECTION}")


rule boxplots_of_other_selection:
    input:
        SCORES,
        CLASSIFICATION,
        INTERSECTIONS,
        MATCHING,
    output:
        figure("10_boxplots", "boxplots_tpr_{selection}"),
        figure("10_boxplots", "boxplots_tnr_{selection}"),
        figure("10_boxplots", "boxplots_by_class_{selection}"),
    log:
        log_of("10_boxplots", "{selection}"),
    params:
        fingerprint(study, "10_boxplots"),
    resources:
        **asks("10_boxplots"),
    shell:
        command("10_boxplots", "-p selection {wildcards.selection}")


rule boxplots_incorrect:
    input:
        SCORES,
    output:
        figure("11_boxplots_incorrect", "boxplots_wrong"),
    log:
        log_of("11_boxplots_incorrect"),
    params:
        fingerprint(study, "11_boxplots_incorrect"),
    resources:
        **asks("11_boxplots_incorrect"),
    shell:
        command("11_boxplots_incorrect", f"-p selection {SELECTION}")


rule statistics:
    input:
        SCORES,
        EXAMPLES,
        CLASSIFICATION,
        INTERSECTIONS,
        dataset("test"),
    output:
        [f"{near(study.paths.statistics)}/{name}.csv" for name in STATISTICS],
        [figure("13_statistics", name) for name in ("skill_intervals", "ranks", "redundancy")],
        [figure("13_statistics", f"effect_{second}_{first}") for first, second in combinations(study.pretraining.corpora, 2)],
        figure("13_statistics", "power") if study.n_seeds(SELECTION) > 1 else [],
        [f"{near(study.paths.figures)}/tables/{name}{suffix}" for name in MANUSCRIPT for suffix in (".tex", ".md")],
    log:
        log_of("13_statistics"),
    params:
        fingerprint(study, "13_statistics"),
    resources:
        **asks("13_statistics"),
    shell:
        command("13_statistics", f"-p selection {SELECTION}")


rule equal_accuracy:
    input:
        SCORES,
        CLASSIFICATION,
        INTERSECTIONS,
        MATCHING,
        dataset("test"),
    output:
        [f"{near(study.paths.statistics)}/{name}.csv" for name in EQUAL_ACCURACY],
        figure("13b_equal_accuracy", "accuracy_and_skill"),
        [
            figure("13b_equal_accuracy", f"equal_accuracy_{second}_{first}")
            for first, second in combinations(study.pretraining.corpora, 2)
        ],
    log:
        log_of("13b_equal_accuracy"),
    params:
        fingerprint(study, "13b_equal_accuracy"),
    resources:
        **asks("13b_equal_accuracy"),
    shell:
        command("13b_equal_accuracy")


rule sensitivity:
    input:
        SETTING_SCORES,
        INTERSECTIONS,
        dataset("test"),
    output:
        [f"{near(study.paths.statistics)}/{name}.csv" for name in SENSITIVITY],
        figure("13c_sensitivity", "sensitivity"),
    log:
        log_of("13c_sensitivity"),
    params:
        fingerprint(study, "13c_sensitivity"),
    resources:
        **asks("13c_sensitivity"),
    shell:
        command("13c_sensitivity", f"-p selection {SELECTION}")


rule sanity_checks:
    input:
        near(study.paths.finetuned(CHECKED.name) / "weights.safetensors"),
        dataset("test"),
        INTERSECTIONS,
    output:
        near(study.paths.data / "sanity_checks.csv"),
        figure("15_sanity_checks", "sanity_checks"),
    log:
        log_of("15_sanity_checks"),
    params:
        fingerprint(study, "15_sanity_checks"),
    threads: study.threads
    resources:
        **asks("15_sanity_checks"),
    shell:
        command(
            "15_sanity_checks",
            f"-p selection {CHECKED.selection} -p pretraining {CHECKED.pretraining}"
            f" -p finetune_depth {CHECKED.finetune_depth} -p seed {CHECKED.seed}",
        )


rule score_switches:
    input:
        weights,
        dataset("test"),
        INTERSECTIONS,
    output:
        near(study.paths.switch_scores / f"{RUN}.parquet"),
        near(study.paths.switch_predictions / f"{RUN}.parquet"),
    log:
        log_of("11b_score_switches", RUN),
    params:
        fingerprint(study, "11b_score_switches"),
    threads: study.threads
    resources:
        **asks("11b_score_switches"),
    shell:
        command("11b_score_switches", OF_RUN)


# the mark of a variant, from which its study sees that it can be compared
rule finish_variant:
    input:
        dataset("test"),
        PREDICTIONS,
        INTERSECTIONS,
        SCORES,
    output:
        FINISHED,
    params:
        made_from(study),
    shell:
        f"{PYTHON} -m pretrain_xai.running.variants {STUDY}"


# `make switches` and `make protocols`: not part of the study itself
rule compare_protocols:
    input:
        SCORES,
        CLASSIFICATION,
        INTERSECTIONS,
        PREDICTIONS,
        [near(study.paths.switch_scores / f"{run}.parquet") for run in MAIN_RUNS],
        [near(path) for path in sorted(OF_VARIANTS)],
    output:
        near(study.paths.data / "protocols.csv"),
        figure("12_compare_protocols", "protocols"),
    log:
        log_of("12_compare_protocols"),
    params:
        fingerprint(study, "12_compare_protocols"),
        variants=VARIANTS,
    resources:
        **asks("12_compare_protocols"),
    shell:
        command("12_compare_protocols", f"-p selection {SELECTION}")


rule report:
    input:
        AUDIT,
        figure("02_make_slices", "slices"),
        rules.classification_metrics.output,
        rules.heatmaps.output,
        rules.boxplots.output,
        rules.boxplots_incorrect.output,
        [f"{near(study.paths.figures)}/boxplots_tpr_{selection}.png" for selection in OTHERS],
        rules.statistics.output,
        rules.sensitivity.output,
        rules.equal_accuracy.output,
        rules.sanity_checks.output,
    output:
        REPORT,
    params:
        study.model_dump(mode="json"),
        code=code_digest(paths.LIBRARY / "report.py"),
    resources:
        **asks("report"),
    shell:
        f"{PYTHON} -m pretrain_xai.report {STUDY}"
