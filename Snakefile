# One study from lesions to report: `make demo`, or `snakemake --profile profiles/local --config study=demo`.
# Data are outputs; executed notebooks are logs, so that Snakemake keeps them, with their traceback, when they fail.
import sys

from pretrain_xai import paths
from pretrain_xai.stages import code_digest, fingerprint
from pretrain_xai.study import Run, load_study

STUDY = config.get("study", "demo")
study = load_study(STUDY)

DATA, FIGURES, EXECUTED = f"data/{STUDY}", f"figures/{STUDY}", f"papermill_runs/{STUDY}"
DATASET = f"{DATA}/dataset"
RUN = "{selection}-{pretraining}-depth{finetune_depth}-seed{seed}"
MODELS = [run.name for run in study.runs()]
SCORED = MODELS + [run.name for run in study.untrained_runs()]
SELECTION = next(iter(study.finetuning.selections))
NOTEBOOK = f"{sys.executable} -m pretrain_xai.run_notebook {paths.NOTEBOOKS}"


workdir: paths.root()


wildcard_constraints:
    selection="best|matched",
    pretraining="[a-z]+",
    finetune_depth="[0-5]",
    seed="[0-9]+",


def learning_rate(wildcards):
    run = Run(wildcards.selection, wildcards.pretraining, int(wildcards.finetune_depth), int(wildcards.seed))
    return study.learning_rate(run)


def weights(wildcards):
    return [] if wildcards.pretraining == "none" else [f"{DATA}/finetuned/{RUN}/weights.safetensors".format(**wildcards)]


def dataset(split):
    return multiext(f"{DATASET}/{split}/", "images.npy", "masks.npy", "images.csv")


localrules:
    all,


rule all:
    input:
        f"{FIGURES}/report.html",


rule make_lesions:
    output:
        f"{DATA}/lesions.npz",
    log:
        f"{EXECUTED}/01_make_lesions/run.ipynb",
    params:
        fingerprint(study, "01_make_lesions"),
    shell:
        f"{NOTEBOOK}/01_make_lesions.ipynb {{log}} -p study {STUDY}"


rule make_slices:
    output:
        multiext(f"{DATA}/slices/", "slices.npy", "slices.csv", "participants.csv"),
    log:
        f"{EXECUTED}/02_make_slices/run.ipynb",
    params:
        fingerprint(study, "02_make_slices"),
    shell:
        f"{NOTEBOOK}/02_make_slices.ipynb {{log}} -p study {STUDY}"


rule build_dataset:
    input:
        rules.make_lesions.output,
        rules.make_slices.output,
    output:
        [dataset(split) for split in study.dataset.seed_bases],
        f"{DATASET}/audit.csv",
        multiext(f"{FIGURES}/audit", ".png", ".pdf", ".csv"),
    log:
        f"{EXECUTED}/03_build_dataset/run.ipynb",
    params:
        fingerprint(study, "03_build_dataset"),
    shell:
        f"{NOTEBOOK}/03_build_dataset.ipynb {{log}} -p study {STUDY}"


rule pretrain:
    input:
        lambda wildcards: rules.make_slices.output if wildcards.pretraining == "mri" else [],
    output:
        f"{DATA}/pretrained/{{pretraining}}.safetensors",
        f"{DATA}/pretrained/{{pretraining}}.history.csv",
    log:
        f"{EXECUTED}/04_pretrain/{{pretraining}}.ipynb",
    params:
        fingerprint(study, "04_pretrain"),
    threads: study.threads
    shell:
        f"{NOTEBOOK}/04_pretrain.ipynb {{log}} -p study {STUDY} -p pretraining {{wildcards.pretraining}}"


rule finetune:
    input:
        rules.pretrain.output,
        [dataset(split) for split in study.dataset.seed_bases],
    output:
        multiext(f"{DATA}/finetuned/{RUN}/", "weights.safetensors", "history.csv", "predictions.parquet"),
    log:
        f"{EXECUTED}/05_finetune/{RUN}.ipynb",
    params:
        fingerprint(study, "05_finetune"),
        learning_rate=learning_rate,
    threads: study.threads
    shell:
        f"{NOTEBOOK}/05_finetune.ipynb {{log}} -p study {STUDY} -p selection {{wildcards.selection}}"
        " -p pretraining {wildcards.pretraining} -p finetune_depth {wildcards.finetune_depth} -p seed {wildcards.seed}"


rule classification_metrics:
    input:
        expand(f"{DATA}/finetuned/{{run}}/predictions.parquet", run=MODELS),
    output:
        f"{DATA}/classification.csv",
        multiext(f"{FIGURES}/classification", ".png", ".pdf", ".csv"),
    log:
        f"{EXECUTED}/06_classification_metrics/run.ipynb",
    params:
        fingerprint(study, "06_classification_metrics"),
    shell:
        f"{NOTEBOOK}/06_classification_metrics.ipynb {{log}} -p study {STUDY}"


rule find_intersections:
    input:
        expand(f"{DATA}/finetuned/{{run}}/predictions.parquet", run=MODELS),
    output:
        f"{DATA}/intersections.csv",
    log:
        f"{EXECUTED}/07_find_intersections/run.ipynb",
    params:
        fingerprint(study, "07_find_intersections"),
    shell:
        f"{NOTEBOOK}/07_find_intersections.ipynb {{log}} -p study {STUDY}"


rule explanation_metrics:
    input:
        weights,
        dataset("test"),
        rules.find_intersections.output,
    output:
        f"{DATA}/scores/{RUN}.parquet",
        f"{DATA}/example_maps/{RUN}.npz",
    log:
        f"{EXECUTED}/08_explanation_metrics/{RUN}.ipynb",
    params:
        fingerprint(study, "08_explanation_metrics"),
    threads: study.threads
    shell:
        f"{NOTEBOOK}/08_explanation_metrics.ipynb {{log}} -p study {STUDY} -p selection {{wildcards.selection}}"
        " -p pretraining {wildcards.pretraining} -p finetune_depth {wildcards.finetune_depth} -p seed {wildcards.seed}"
        f" -p methods '[{', '.join(study.attribution.methods)}]'"


rule heatmaps:
    input:
        expand(f"{DATA}/example_maps/{{run}}.npz", run=MODELS),
        dataset("test"),
        rules.find_intersections.output,
    output:
        [multiext(f"{FIGURES}/heatmaps_correct_{name}", ".png", ".pdf", ".csv") for name in study.pretraining.corpora],
    log:
        f"{EXECUTED}/09_heatmaps/run.ipynb",
    params:
        fingerprint(study, "09_heatmaps"),
    shell:
        f"{NOTEBOOK}/09_heatmaps.ipynb {{log}} -p study {STUDY} -p selection {SELECTION}"


rule boxplots:
    input:
        expand(f"{DATA}/scores/{{run}}.parquet", run=SCORED),
        f"{DATA}/classification.csv",
        rules.find_intersections.output,
    output:
        multiext(f"{FIGURES}/boxplots_tpr", ".png", ".pdf", ".csv"),
        multiext(f"{FIGURES}/boxplots_tnr", ".png", ".pdf", ".csv"),
    log:
        f"{EXECUTED}/10_boxplots/run.ipynb",
    params:
        fingerprint(study, "10_boxplots"),
    shell:
        f"{NOTEBOOK}/10_boxplots.ipynb {{log}} -p study {STUDY} -p selection {SELECTION}"


rule boxplots_incorrect:
    input:
        expand(f"{DATA}/scores/{{run}}.parquet", run=SCORED),
    output:
        multiext(f"{FIGURES}/boxplots_wrong", ".png", ".pdf", ".csv"),
    log:
        f"{EXECUTED}/11_boxplots_incorrect/run.ipynb",
    params:
        fingerprint(study, "11_boxplots_incorrect"),
    shell:
        f"{NOTEBOOK}/11_boxplots_incorrect.ipynb {{log}} -p study {STUDY} -p selection {SELECTION}"


rule report:
    input:
        f"{DATASET}/audit.csv",
        rules.classification_metrics.output,
        rules.heatmaps.output,
        rules.boxplots.output,
        rules.boxplots_incorrect.output,
    output:
        f"{FIGURES}/report.html",
    params:
        study.model_dump(mode="json"),
        code=code_digest(paths.LIBRARY / "report.py"),
    shell:
        f"{sys.executable} -m pretrain_xai.report {STUDY}"
