"""One static page per study: the question, the figures in order, the tables, what was run."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import pandas as pd

from pretrain_xai import paths
from pretrain_xai.batch import stage_times
from pretrain_xai.errors import UserError
from pretrain_xai.names import label, pairs, use_target
from pretrain_xai.provenance import git_describe, package_versions, write_sums, write_text
from pretrain_xai.sentences import render, sentence
from pretrain_xai.statistics.findings import Finding, equality_findings, explained_finding, findings, sanity_findings
from pretrain_xai.statistics.table_names import EQUAL_ACCURACY, MANUSCRIPT, SANITY, SENSITIVITY, STATISTICS
from pretrain_xai.study import CLASSES, NETWORK, UNTRAINED, Study, load_study
from pretrain_xai.tables import read_classification, read_scores, read_table

#: the notebooks that make the tables of findings
_NOTEBOOKS = dict.fromkeys(STATISTICS, "13_statistics") | dict.fromkeys(EQUAL_ACCURACY, "14_equal_accuracy")
_NOTEBOOKS |= dict.fromkeys(SENSITIVITY, "15_sensitivity") | dict.fromkeys(SANITY, "16_sanity_checks")
_NOTEBOOKS |= dict.fromkeys(("classification", "lesion_dependence"), "06_classification_metrics")
_NOTEBOOKS["sanity_checks"] = "16_sanity_checks"


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
    scores = read_scores(name).query("selection == @study.main_selection")
    classification = read_classification(name).query("selection == @study.main_selection")
    values = {"study": study, "manuscript_tables": MANUSCRIPT, "packages": package_versions(), "code": git_describe()}
    values |= {"answers": _answers(study, classification), "sections": list(_sections(study))}
    values |= {"tables": _tables(study, scores, classification), "settings": paths.study_file(name).read_text("utf-8")}
    values["stages"] = {stage: sum(seconds) / 60 for stage, seconds in stage_times(study).items()}
    values["folder"] = study.paths.executed.relative_to(paths.root()).as_posix()
    values["link"] = lambda path: Path(os.path.relpath(path, study.paths.figures)).as_posix()
    path = study.paths.figures / "report.html"
    write_text(path, render("report.html", **values))
    write_sums(study.paths.executed / "report" / "run.sha256", [path])
    return path


def _answers(study: Study, classification: pd.DataFrame) -> list[tuple[Finding, Path, Path]]:
    """Return sentences, each with the file of the table that has its numbers and the executed notebook that made it."""
    names = (*STATISTICS, *EQUAL_ACCURACY, *SENSITIVITY, *SANITY)
    numbers = {name: study.paths.statistics / f"{name}.csv" for name in names}
    tables = {name: read_table(path) for name, path in numbers.items()}
    numbers |= {
        name: study.paths.figures / f"{name}.csv" for name in ("classification", "lesion_dependence", "sanity_checks")
    }
    found = [*findings(tables), *equality_findings(tables), explained_finding(tables["explained"])]
    for corpus in study.pretraining.corpora:
        accuracy = classification[classification["pretraining"] == corpus].groupby("finetune_depth")["accuracy"]
        spread = accuracy.agg(["min", "max"]).map("{:.2f}".format).agg(lambda ends: " - ".join(ends.unique()), axis=1)
        text = sentence("findings.j2", "accuracies", corpus=corpus, depths=[*spread.index], ends=[*spread])
        found.append(Finding(text, "classification", "classification", True))
    found.append(_dependence(read_table(study.paths.lesion_dependence).query("selection == @study.main_selection")))
    found += sanity_findings(read_table(numbers["sanity_checks"]))
    return [(one, numbers[one.table], study.paths.executed / _NOTEBOOKS[one.table] / "run.ipynb") for one in found]


def _dependence(table: pd.DataFrame) -> Finding:
    """Return the sentence on whether decisions depend on the lesions, from the networks of `lesion_dependence`."""
    networks = table.drop_duplicates(NETWORK)
    groups = networks[networks["default"] != "none"].groupby(["default", "pretraining"])["finetune_depth"]
    defaults = [(*which, sorted(set(depths))) for which, depths in groups]
    shares = table.groupby("label")["owed"].agg(["min", "max"]).dropna().itertuples(name=None)
    owed = [(CLASSES[one], low, high) for one, low, high in shares]
    text = sentence("findings.j2", "dependence", defaults=defaults, owed=owed)
    return Finding(text, "lesion_dependence", "lesion_dependence", True)


def _sections(study: Study) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield the headings that the study has figures for, in the order of the captions, with their names and captions."""
    folder, corpora = study.paths.figures, study.pretraining.corpora
    contrasts = [contrast.replace(" - ", "_") for contrast in pairs(corpora)] or [""]
    for text in render("captions.j2").split("\n\n"):
        first, caption = text.split("\n", 1)
        name, heading = first.split(": ")
        names = {name.format(corpus=corpus, pair=pair): label(corpus) for corpus, pair in product(corpora, contrasts)}
        files = {folder / f"{figure}.png": corpus for figure, corpus in names.items()}
        made = [(file.stem, caption.format(corpus=corpus)) for file, corpus in files.items() if file.is_file()]
        if made:
            yield heading, made


def _tables(study: Study, scores: pd.DataFrame, classification: pd.DataFrame) -> dict[str, str]:
    """Return tables in HTML by what they show."""
    right = (scores["pretraining"] == UNTRAINED) | (scores["label"] == scores["predicted"]).fillna(False)
    tpr = scores[(scores["metric"] == "relevance_rank_accuracy") & right]
    cells = tpr.groupby(["pretraining", "finetune_depth", "method"], observed=True)["value"]
    medians = cells.median().unstack("method")[study.attribution.methods].reset_index()
    corpora, audit = study.pretraining.corpora, read_table(study.paths.dataset / "audit.csv")
    return {
        "Classification metrics on the test images": _html(classification, "{:.3f}", corpora),
        "Median Relevance Rank Accuracy on correctly classified images": _html(medians, "{:.3f}", corpora),
        "Audit of the dataset": _html(audit, "{:.3g}"),
    }


def _html(table: pd.DataFrame, numbers: str, corpora: Sequence[str] = ()) -> str:
    """Return a table in HTML; given corpora, its rows in their order and its columns called as in the figures."""
    if corpora:
        names = table["pretraining"].astype(str)
        order = names.map([*corpora, UNTRAINED].index).argsort(kind="stable")
        table = table.assign(pretraining=names.map(label)).iloc[order]
        table = table.rename(columns={"pretraining": "pre-trained on", "finetune_depth": "fine-tuned blocks"})
    table = table.rename(columns=label).rename_axis(columns=None)
    return table.to_html(index=False, float_format=numbers.format, border=0, na_rep="", justify="left")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m pretrain_xai.report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study")
    try:
        print(f"wrote {write_report(parser.parse_args(arguments).study)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
