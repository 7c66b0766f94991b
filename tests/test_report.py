"""The report's page: whole, static, and made of the study's own numbers."""

import html
import re
import shutil

import pandas as pd
import pytest
from matplotlib import pyplot as plt
from pretrain_xai import names, paths, report
from pretrain_xai.batch import stage_times
from pretrain_xai.paths import Paths
from pretrain_xai.report import main, write_report
from pretrain_xai.study import load_study
from pretrain_xai.tables import read_classification, read_scores

STATISTICS = ("skill_intervals", "effect_mri_natural", "ranks", "redundancy")


def test_report_is_static_and_every_link_leads_somewhere(tiny):
    page = Paths(tiny).figures / "report.html"
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"<script[^>]*>", text) == ["<script>"], "one script, in the page: it opens from a file"
    links = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert len(links) > 30
    for link in links:
        assert "://" not in link
        assert f'id="{link[1:]}"' in text if link.startswith("#") else (page.parent / link).exists(), link


def test_report_shows_each_figure_with_an_alternative_text(tiny):
    text = write_report(tiny).read_text(encoding="utf-8")
    names = ("boxplots_tpr", "boxplots_tnr", "boxplots_wrong", "classification", "sanity_checks", "audit", "protocols")
    for name in (*names, *STATISTICS):
        assert f'src="{name}.png"' in text
    for corpus in ("natural", "mri"):
        assert f'src="heatmaps_correct_{corpus}.png"' in text
    assert len(re.findall(r'alt="[^"]{20,}"', text)) == text.count("<img")


def test_answers_are_linked_to_the_tables_that_have_their_numbers(tiny):
    page = write_report(tiny)
    answers = re.findall(
        r'<li>(.*?) <a href="(.*?)">Figure</a>, <a href="(.*?)">', page.read_text(encoding="utf-8"), re.S
    )
    assert len(answers) > 5
    for text, figure, table in ((html.unescape(text), figure, table) for text, figure, table in answers):
        assert (page.parent / f"{figure[1:]}.png").is_file() and f'id="{figure[1:]}"' in page.read_text(
            encoding="utf-8"
        )
        rows = pd.read_csv(page.parent / table)
        values = [value for name in rows.select_dtypes("number") for value in rows[name].dropna()]
        words = (page.parent / table).read_text(encoding="utf-8")
        for number in re.findall(r"[+-]?\d+(?:\.\d+)?(?:e-\d+)?", text.replace("95 %", "")):
            decimals = len(number.partition(".")[2])
            style = ".1e" if "e" in number else f"{'+' if number[0] in '+-' else ''}.{decimals}f"
            assert number in {format(value, style) for value in values} or re.search(
                rf"(?<![\d.]){re.escape(number)}(?![\d.])", words
            ), (number, text)


def test_the_page_calls_mri_by_what_the_study_says_it_teaches(tiny, monkeypatch):
    study = load_study(tiny)
    told = study.pretraining.model_copy(update={"target": "diagnosis"})
    monkeypatch.setattr(report, "load_study", lambda name: study.model_copy(update={"pretraining": told}))
    monkeypatch.setattr(names, "_LABELS", dict(names._LABELS))
    text = write_report(tiny).read_text(encoding="utf-8")
    assert "MRI (diagnosis)" in text and "MRI (sex)" not in text


def test_figures_have_one_size_of_text_and_tables_the_order_of_the_figures(tiny):
    page = write_report(tiny)
    text = page.read_text(encoding="utf-8")
    assert text.index('id="boxplots_tpr"') < text.index("Further answers") < text.index('id="ranks"')
    for name, width in re.findall(r'<img src="(\w+)\.png" width="(\d+)"', text):
        drawn = plt.imread(page.parent / f"{name}.png").shape[1]
        assert drawn / int(width) == pytest.approx(2.2, abs=0.01), "else one column is as wide as two"
    tables = [re.findall(r"<td>(photographs|MRI \(sex\)|untrained)</td>", table) for table in text.split("<table")[1:3]]
    assert list(dict.fromkeys(tables[0])) == ["photographs", "MRI (sex)"]
    assert list(dict.fromkeys(tables[1])) == ["photographs", "MRI (sex)", "untrained"]


def test_answers_come_with_the_accuracies(tiny):
    text = write_report(tiny).read_text(encoding="utf-8")
    accuracy = (
        read_classification(tiny).query("selection == 'best'").set_index(["pretraining", "finetune_depth"])["accuracy"]
    )
    for corpus, name in (("natural", "photographs"), ("mri", r"MRI \(sex\)")):
        low, high = (accuracy[corpus, depth] for depth in (1, 5))
        assert re.search(
            rf"{name}, classification accuracy goes from {low:.2f} \(depth 1\) to {high:.2f} \(depth 5\)", text
        )


def test_of_two_selections_the_first_is_shown_and_the_page_says_so(tiny, monkeypatch):
    page = write_report(tiny).read_text(encoding="utf-8")
    start, answers = page.split('id="answers"')
    assert "(best, matched)" in start and "<em>best</em>" in start
    scores, classification = read_scores(tiny), read_classification(tiny)
    scores.loc[scores["selection"] == "matched", "value"] = 0.123
    monkeypatch.setattr(report, "read_scores", lambda name: scores)
    classification.loc[classification["selection"] == "matched", "accuracy"] = 0.001
    monkeypatch.setattr(report, "read_classification", lambda name: classification)
    assert write_report(tiny).read_text(encoding="utf-8").split('id="answers"')[1] == answers


def test_the_matched_selection_has_its_answer_and_its_figures(tiny):
    text = write_report(tiny).read_text(encoding="utf-8")
    for name in ("accuracy_and_skill", "equal_accuracy_mri_natural", "matching", "boxplots_tpr_matched"):
        assert f'src="{name}.png"' in text
    assert re.search(r"cells \(corpus and depth\)", text)
    assert "At equal accuracy" in text


def test_the_empty_log_of_a_killed_job_counts_for_nothing(tiny, tmp_path, monkeypatch):
    executed = tmp_path / "executed"
    shutil.copytree(Paths(tiny).executed / "13_statistics", executed / "13_statistics")
    monkeypatch.setattr(paths, "executed", lambda study: executed)
    times = stage_times(load_study(tiny))
    (executed / "13_statistics" / "killed.ipynb").touch()
    assert stage_times(load_study(tiny)) == times and len(times["13_statistics"]) == 1 and times["13_statistics"][0] > 0


def test_settings_versions_and_executed_notebooks_are_there(tiny):
    text = write_report(tiny).read_text(encoding="utf-8")
    assert "title: Tiny study for tests" in text
    assert re.search(r"torch 2\.\d+", text)
    assert "08_explanation_metrics" in text


def test_a_study_that_was_not_run_is_one_line(root, capsys):
    assert main(["tiny"]) == 1
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert "make study STUDY=tiny" in printed


def test_a_study_with_one_seed_has_no_figure_of_power(tiny):
    assert 'src="power.png"' not in write_report(tiny).read_text(encoding="utf-8")


@pytest.mark.parametrize("study", ["nothing", "demo+nothing"])
def test_an_unknown_study_is_one_line(root, capsys, study):
    assert main([study]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
