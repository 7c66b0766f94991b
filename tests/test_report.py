"""The report's page: whole, static, and made of the study's own numbers."""

import html
import re
from pathlib import Path

import numpy as np
import pytest
from pretrain_xai import names, report
from pretrain_xai.batch import stage_times
from pretrain_xai.paths import Paths
from pretrain_xai.report import main, write_report
from pretrain_xai.statistics.table_names import MANUSCRIPT
from pretrain_xai.study import load_study
from pretrain_xai.tables import read_classification, read_scores, read_table
from sentence_numbers import check_numbers

FIGURES = """boxplots_tpr boxplots_tnr boxplots_wrong classification sanity_checks audit protocols skill_intervals
effect_mri_natural ranks redundancy accuracy_and_skill equal_accuracy_mri_natural matching boxplots_tpr_matched
heatmaps_correct_natural heatmaps_correct_mri"""


@pytest.fixture
def page(tiny) -> Path:
    return write_report(tiny)


@pytest.fixture
def text(page) -> str:
    return page.read_text(encoding="utf-8")


def test_report_is_static_and_every_link_leads_somewhere(page, text):
    assert "<script" not in text
    links = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert {f"tables/{name}.{kind}" for name in MANUSCRIPT for kind in ("tex", "md")} <= set(links)
    for link in links:
        assert "://" not in link
        assert f'id="{link[1:]}"' in text if link.startswith("#") else (page.parent / link).exists(), link
    for told in ("title: Tiny study for tests", "08_explanation_metrics", "torch 2."):
        assert told in text


def test_report_shows_each_figure_with_an_alternative_text_at_one_size_of_letters(page, text):
    shown = re.findall(r'<img src="(\w+)\.png" srcset="\1\.png 2\.2x"', text)
    assert set(FIGURES.split()) <= set(shown)
    assert "power" not in shown, "one seed has none"
    assert len(re.findall(r'alt="[^"]{20,}"', text)) == text.count("<img")


def test_answers_are_linked_to_figures_and_to_the_tables_that_have_their_numbers(page, text):
    answers = re.findall(r'<li>([^<]*?) <a href="#(.*?)">Figure</a>, <a href="(.*?)">', text)
    assert len(answers) > 5
    for answer, figure, table in answers:
        assert (page.parent / f"{figure}.png").is_file() and f'id="{figure}"' in text
        check_numbers(html.unescape(answer), page.parent / table)
    assert "At equal accuracy" in text and "cells (corpus and depth)" in text


def test_the_page_says_on_what_decisions_depend_and_what_a_random_classifier_leaves(tiny, text):
    told = html.unescape(re.sub(r"\s+", " ", text))
    networks = read_table(Paths(tiny).lesion_dependence).query("selection == 'best'")
    for default in set(networks["default"]) - {"none"}:
        assert re.search(rf"(their default: |\), ){default} lesions \(pre-trained on", told)
    left = read_table(Paths(tiny).figures / "sanity_checks.csv").query("measure == 'score_left' and layer == 'fc1'")
    whole = left.loc[left["method"] == "all methods", "mean"].iloc[0]
    assert ("With a random classifier" in told) == bool(np.isfinite(whole))
    assert f"maps keep {whole:.2f} of what they score" in told or np.isnan(whole)
    assert "Too few right decisions depend on the lesions" in told or "On the images whose decision depends" in told


def test_the_page_calls_mri_by_what_the_study_says_it_teaches(tiny, monkeypatch):
    study = load_study(tiny)
    told = {"pretraining": study.pretraining.model_copy(update={"target": "diagnosis"})}
    monkeypatch.setattr(report, "load_study", lambda name: study.model_copy(update=told))
    monkeypatch.setattr(names, "_LABELS", dict(names._LABELS))
    text = write_report(tiny).read_text(encoding="utf-8")
    assert "MRI (diagnosis)" in text and "MRI (sex)" not in text


def test_sections_and_tables_have_the_order_of_the_figures(text):
    assert text.index('id="boxplots_tpr"') < text.index("Further answers") < text.index('id="ranks"')
    tables = [re.findall(r"<td>(photographs|MRI \(sex\)|untrained)</td>", table) for table in text.split("<table")[1:3]]
    trained = ["photographs", "MRI (sex)"]
    assert [list(dict.fromkeys(table)) for table in tables] == [trained, [*trained, "untrained"]]


def test_answers_come_with_the_accuracies(tiny, text):
    rows = read_classification(tiny).query("selection == 'best'")
    accuracy = rows.set_index(["pretraining", "finetune_depth"])["accuracy"].map("{:.2f}".format)
    for corpus, name in (("natural", "photographs"), ("mri", "MRI (sex)")):
        told = f"goes from {accuracy[corpus, 1]} (depth 1) to {accuracy[corpus, 5]} (depth 5)"
        assert re.search(rf"{re.escape(name)}, classification accuracy {re.escape(told)}", " ".join(text.split()))


def test_of_two_selections_the_first_is_shown_and_the_page_says_so(tiny, text, monkeypatch):
    start, answers = text.split('id="answers"')
    assert "(best, matched)" in start and "<em>best</em>" in start
    scores, classification = read_scores(tiny), read_classification(tiny)
    scores.loc[scores["selection"] == "matched", "value"] = 0.123
    monkeypatch.setattr(report, "read_scores", lambda name: scores)
    classification.loc[classification["selection"] == "matched", "accuracy"] = 0.001
    monkeypatch.setattr(report, "read_classification", lambda name: classification)
    assert write_report(tiny).read_text(encoding="utf-8").split('id="answers"')[1] == answers


def test_the_empty_log_of_a_killed_job_counts_for_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Paths, "executed", tmp_path)
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "killed.ipynb").touch()
    (tmp_path / "stage" / "run.ipynb").write_text('{"metadata": {"papermill": {"duration": 2.5}}}')
    assert stage_times(load_study("tiny")) == {"stage": [2.5]}


UNFINISHED = [("tiny", "make study STUDY=tiny"), ("nothing", "nothing"), ("demo+nothing", "demo")]


@pytest.mark.parametrize(("study", "told"), UNFINISHED)
def test_what_was_not_run_or_is_not_known_is_one_line(root, capsys, study, told):
    assert main([study]) == 1
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1 and told in printed
