"""One static page per study: the question, the figures in order, the tables, what was run."""

import argparse
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader

from pretrain_xai import paths
from pretrain_xai.batch import stage_times
from pretrain_xai.errors import UserError
from pretrain_xai.names import label, use_target
from pretrain_xai.provenance import git_describe, package_versions, write_sums, write_text
from pretrain_xai.statistics.equality_findings import equality_findings
from pretrain_xai.statistics.findings import Finding, findings
from pretrain_xai.statistics.table_names import EQUAL_ACCURACY, MANUSCRIPT, SENSITIVITY, STATISTICS
from pretrain_xai.study import UNTRAINED, Study, load_study
from pretrain_xai.tables import read_classification, read_scores, read_table

#: figures in the order of the page: name (one per corpus where it says so), heading, caption
SECTIONS = (
    (
        "boxplots_tpr",
        "How well do the methods find the lesions?",
        "A panel per explanation method. Height: Relevance Rank Accuracy on test images that all models classify correctly, "
        "that is, of the k strongest pixels of a map, the share inside the lesions, which have k pixels. From left to right: "
        "maps of the image alone (edges by Sobel and Laplace, and brightness), a network with random weights, then networks "
        "by what they were pre-trained on and how many of their blocks were fine-tuned on the lesions. Boxes are quartiles "
        "with the median; whiskers reach 1.5 interquartile ranges; the dashed line is what a random map gets; diamonds are "
        "classification accuracies. Lesions are bright, so that brightness alone may find them better than any method: a "
        "method is asked what the network used, and a high score does not prove that it says so (see below whether the maps "
        "depend on what the network has learnt).",
    ),
    (
        "boxplots_by_class",
        "Is one class explained better?",
        "The mean of the methods' Relevance Rank Accuracies, by the class of the image; boxes as above. A network may look "
        "for the signs of one class and take their absence for the other, whose maps then find less.",
    ),
    (
        "skill_intervals",
        "How far above chance, and how sure is it?",
        "Skill = (score - chance) / (1 - chance), mean with 95 % interval: over seeds, or with one seed over test subjects "
        "with their images. "
        "Dashed: chance in the image; dotted: chance of a map that is random within the brain.",
    ),
    (
        "effect_{pair}",
        "Does the corpus matter?",
        "Difference of skill with 95 % intervals: over all in every way, then by method and by depth. Filled: the interval "
        "leaves out 0. Each corpus has one pre-trained network: seeds are those of fine-tuning.",
    ),
    (
        "accuracy_and_skill",
        "Are networks explained better that classify better?",
        "A point is a network: test accuracy and mean skill of all methods, on the images that all networks of its selection "
        "classify correctly. In the titles Pearson's correlation with its 95 % interval. The larger a marker, the more "
        "blocks are fine-tuned. Hollow: not matched, and left out of the correlation.",
    ),
    (
        "equal_accuracy_{pair}",
        "Does the corpus matter at equal accuracy?",
        "Difference of skill with 95 % intervals, of all networks; with their test accuracy as a covariate; at the depths "
        "whose networks can be matched, before and after matching. Filled: the interval leaves out 0.",
    ),
    (
        "matching",
        "Which networks are of equal accuracy?",
        "Validation accuracy along each training. Points: the checkpoints nearest to the common accuracy (dashed; the band "
        "is the tolerance). Hollow: not matched, and left out of the comparison at equal accuracy.",
    ),
    (
        "boxplots_tpr_matched",
        "How well are lesions found at equal accuracy?",
        "As the first figure, of the selection matched. A star marks cells that are not matched: they are shown on the "
        "images that all matched models classify correctly, which they may get wrong themselves.",
    ),
    (
        "ranks",
        "Which methods rank first?",
        "Mean ranks over networks; bars join methods that Nemenyi's test can't tell apart.",
    ),
    (
        "redundancy",
        "How many different methods are there?",
        "Spearman's correlation of methods: above the diagonal of their scores over images, below of their maps over pixels.",
    ),
    (
        "sensitivity",
        "Do ranking and conclusions survive other ways to score?",
        "The same maps under every channel reduction, mask threshold and score, on images that all models classify correctly "
        "and on those that each network misclassifies itself. Numbers and colour: Kendall's tau of the methods' mean ranks "
        "with those of the study, whose own setting is framed. Letters: kinds of conclusions that flip, to the opposite "
        "(capital) or between clear and not clear (small); flips.csv beside the tables of the statistics names each.",
    ),
    (
        "power",
        "How many seeds and images does it take?",
        "Power of the t test paired by seed to see a true difference of skill between corpora, simulated from this study's "
        "spread.",
    ),
    (
        "classification",
        "How well do the models classify?",
        "Metrics on test images of subjects that no training has seen; irregular is the positive class. Dashed: chance.",
    ),
    (
        "heatmaps_correct_{corpus}",
        "Where do the methods look?",
        "A test image that all models classify correctly. The brighter a pixel of a map, the more it counted, whether for or "
        "against the class; each map is scaled to its own maximum. Lesions are outlined; numbers are Relevance Rank "
        "Accuracies.",
    ),
    (
        "heatmaps_wrong_{corpus}",
        "Where do they look when models are wrong?",
        "The kept test image that most models get wrong; ✗ marks the depths whose model is wrong.",
    ),
    (
        "protocols",
        "What do the flaws of the released code do to the numbers?",
        "Each switch alone as published, and all together: published minus corrected, mean over the fine-tuned models. "
        "Coloured and bold: decided. Pale: decided, but less than training with another seed may change. Grey: undecided, "
        "not more than the chances of training and of test subjects may give together. A dash: 0 in every resample of "
        "subjects. Empty: not concerned.",
    ),
    (
        "boxplots_wrong",
        "How well are lesions found in misclassified images?",
        "Each model on the test images that it gets wrong itself.",
    ),
    (
        "boxplots_tnr",
        "How much of the rest is left alone?",
        "True negative rate on the images that all models classify correctly.",
    ),
    (
        "sanity_checks",
        "Do the maps depend on what the network has learnt?",
        "Layers of one network are made random, from the last to the first, and each method's maps compared with those of "
        "the trained network; means over test images. A method whose maps stay alike does not explain the network. The "
        "background, which is 0 for methods that multiply by the image, keeps the similarity over the whole image high.",
    ),
    (
        "slices",
        "What do the brains look like in numbers?",
        "Brightness of brain pixels by split, share of the slice that is brain by class, and, if anything was rejected, "
        "what and why; rejected.csv names each file and slice.",
    ),
    (
        "audit",
        "Is there anything but lesions to learn?",
        "By class: size of lesion masks, of patch boxes before resizing, mean brightening, and lesion centres. Boxes of "
        "irregular lesions are larger by construction; with corrected placement the centres do not depend on the class.",
    ),
)


def write_report(name: str) -> Path:
    """Write `figures/<study>/report.html` from the finished study's files, and return its path.

    Of the study's selections it shows the first, as the figures do.

    Raises
    ------
    UserError
        The study is not finished, or there is none.
    """
    study = load_study(name)
    use_target(study.pretraining.target)
    selection = next(study.runs()).selection
    scores = read_scores(name).query("selection == @selection")
    classification = read_classification(name).query("selection == @selection")
    path = study.paths.figures / "report.html"
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html").render(
        study=study,
        name=name,
        selection=selection,
        answers=_answers(study, classification),
        folder=study.paths.executed.relative_to(paths.root()).as_posix(),
        sections=[_section(study, *section) for section in SECTIONS],
        manuscript_tables=_manuscript_tables(study),
        tables=_tables(study, scores, classification),
        settings=paths.study_file(name).read_text(encoding="utf-8"),
        stages=_stages(study),
        packages=package_versions(),
        code=git_describe(),
    )
    write_text(path, page)
    write_sums(study.paths.executed / "report" / "run.sha256", [path])
    return path


class Picture(NamedTuple):
    """A figure of the page: its name, caption and size on the page, in pixels of the page."""

    name: str
    caption: str
    width: int
    height: int


class Answer(NamedTuple):
    """A sentence and where it comes from: a figure of the page by its name, and links from the page."""

    text: str
    figure: str
    numbers: str
    notebook: str
    short: bool


def _answers(study: Study, classification: pd.DataFrame) -> list[Answer]:
    """Return sentences whose numbers stand in the tables that they are linked to."""
    names = (*STATISTICS, *EQUAL_ACCURACY, *SENSITIVITY)
    tables = {name: read_table(study.paths.statistics / f"{name}.csv") for name in names}
    notebooks = {name: _from_page(study, study.paths.executed / name / "run.ipynb") for name in _ANSWERING}
    accuracy = [
        Answer(text, "classification", "classification.csv", notebooks["06_classification_metrics"], short=True)
        for text in _accuracies(classification, study)
    ]
    found = [
        _answer(study, finding, notebooks["13c_sensitivity" if finding.table in SENSITIVITY else "13_statistics"])
        for finding in findings(tables)
    ]
    found += [_answer(study, finding, notebooks["13b_equal_accuracy"]) for finding in equality_findings(tables)]
    return [*found, *accuracy]


#: the notebooks that answers come from
_ANSWERING = ("06_classification_metrics", "13_statistics", "13b_equal_accuracy", "13c_sensitivity")


def _answer(study: Study, finding: Finding, notebook: str) -> Answer:
    numbers = _from_page(study, study.paths.statistics / f"{finding.table}.csv")
    return Answer(finding.text, finding.figure, numbers, notebook, finding.short)


def _accuracies(classification: pd.DataFrame, study: Study) -> Iterator[str]:
    for corpus in study.pretraining.corpora:
        rows = classification[classification["pretraining"] == corpus]
        low, high = rows["finetune_depth"].min(), rows["finetune_depth"].max()
        words = [_spread(rows.loc[rows["finetune_depth"] == depth, "accuracy"]) for depth in (low, high)]
        yield (
            f"Pre-trained on {label(corpus)}, classification accuracy goes from {words[0]} (depth {low}) "
            f"to {words[1]} (depth {high})."
        )


def _spread(values: pd.Series) -> str:
    lowest, highest = f"{values.min():.2f}", f"{values.max():.2f}"
    return lowest if lowest == highest else f"{lowest} - {highest}"


def _from_page(study: Study, path: Path) -> str:
    """Return a link from the study's page to a file of the project."""
    return Path(os.path.relpath(path, study.paths.figures)).as_posix()


def _is_right(scores: pd.DataFrame) -> pd.Series:
    untrained = scores["pretraining"] == UNTRAINED
    return untrained | (scores["label"] == scores["predicted"]).fillna(False)


def _section(study: Study, name: str, heading: str, caption: str) -> dict[str, Any]:
    """Return the heading and the figures, each a name and a caption, that the study has made."""
    captions = {name: caption}
    if "{corpus}" in name:
        corpora = study.pretraining.corpora
        captions = {name.format(corpus=c): f"Networks pre-trained on {label(c)}. {caption}" for c in corpora}
    if "{pair}" in name:
        pairs = combinations(study.pretraining.corpora, 2)
        captions = {name.format(pair=f"{second}_{first}"): caption for first, second in pairs}
    files = {name: study.paths.figures / f"{name}.png" for name in captions}
    figures = [Picture(name, captions[name], *_size(file)) for name, file in files.items() if file.is_file()]
    return {"heading": heading, "figures": figures}


def _size(file: Path) -> tuple[int, int]:
    """Return width and height of a figure on the page: two columns of print fill it, so that all text has one size."""
    with file.open("rb") as png:
        width, height = struct.unpack(">II", png.read(24)[16:])
    return round(width / _DENSITY), round(height / _DENSITY)


#: pixels of a figure, at 300 dpi, per pixel of the page
_DENSITY = 2.2


def _tables(study: Study, scores: pd.DataFrame, classification: pd.DataFrame) -> list[tuple[str, str]]:
    tpr = scores[(scores["metric"] == "relevance_rank_accuracy") & _is_right(scores)]
    medians = (
        tpr.groupby(["pretraining", "finetune_depth", "method"], observed=True)["value"].median().unstack("method")
    )
    medians = medians[study.attribution.methods].reset_index().rename_axis(columns=None)
    audit = read_table(study.paths.dataset / "audit.csv")
    corpora = [*study.pretraining.corpora, UNTRAINED]
    return [
        ("Classification metrics on the test images", _html(_by_corpus(classification, corpora), "{:.3f}")),
        (
            "Median Relevance Rank Accuracy on correctly classified images",
            _html(_by_corpus(medians, corpora), "{:.3f}"),
        ),
        ("Audit of the dataset", _html(audit, "{:.3g}")),
    ]


def _by_corpus(table: pd.DataFrame, corpora: Sequence[str]) -> pd.DataFrame:
    """Return the rows in the order of the figures, with corpora and depths called as there."""
    names = table["pretraining"].astype(str)
    table = table.assign(pretraining=names.map(label)).iloc[names.map(corpora.index).argsort(kind="stable")]
    return table.rename(columns={"pretraining": "pre-trained on", "finetune_depth": "fine-tuned blocks"})


def _manuscript_tables(study: Study) -> list[tuple[str, str]]:
    """Return what each table for papers is, with its link without suffix."""
    folder = study.paths.figures / "tables"
    there = {name: what for name, what in MANUSCRIPT.items() if (folder / f"{name}.tex").is_file()}
    return [(what, _from_page(study, folder / name)) for name, what in there.items()]


def _html(table: pd.DataFrame, numbers: str) -> str:
    table = table.rename(columns=label)
    return table.to_html(index=False, float_format=numbers.format, border=0, na_rep="", justify="left")


def _stages(study: Study) -> list[dict[str, Any]]:
    folder = study.paths.executed
    return [
        {
            "name": stage,
            "minutes": sum(seconds) / 60,
            "notebooks": [
                (file.stem, _from_page(study, file)) for file in sorted((folder / stage).glob("[!.]*.ipynb"))
            ],
        }
        for stage, seconds in stage_times(study).items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m pretrain_xai.report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study")
    options = parser.parse_args(arguments)
    try:
        print(f"wrote {write_report(options.study)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
