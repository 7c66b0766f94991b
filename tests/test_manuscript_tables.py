"""Tables for papers: the numbers of the statistics, in LaTeX that is whole and in Markdown."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrain_xai.drawing import manuscript_tables as made
from pretrain_xai.drawing.manuscript_tables import number, p_value, to_latex, to_markdown
from pretrain_xai.paths import Paths
from pretrain_xai.statistics.power import Spread
from pretrain_xai.statistics.summary import study_statistics
from pretrain_xai.statistics.table_names import MANUSCRIPT
from simulated_studies import Size, as_skills, simulate_scores

TEXT = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), max_size=12)


@pytest.fixture(scope="module", params=[1, 3])
def statistics(request) -> dict[str, pd.DataFrame]:
    size = Size(request.param, n_depths=3, n_methods=4, n_images=20)
    skills = as_skills(simulate_scores(1, size, Spread(), np.random.default_rng(0))[0], n_subjects=10)
    return study_statistics(dataclasses.replace(skills, references={"sobel": np.full((4, 20), 0.2)}))


def latex_rows(text: str) -> list[list[str]]:
    """Return the cells of a tabular, having checked that it is whole; as LaTeX would read it."""
    form = r"% .*\n\\begin\{tabular\}\{([lr]+)\}\n\\toprule\n(.*)\n\\midrule\n(.*)\n\\bottomrule\n\\end\{tabular\}\n"
    columns, *parts = re.fullmatch(form, text, re.DOTALL).groups()
    rows = [row.removesuffix(r" \\") for row in "\n".join(parts).split("\n")]
    assert text.count(" \\\\\n") == len(rows), "each row is ended"
    for row in rows:
        plain = re.sub(r"(?<!\\)\$(?:[-<>|]|\\[a-z]+)\$", "", row)
        plain = re.sub(r"\\text\w+ ?|\\space ?|\\[&%$#_{}~^]", "", plain)
        assert plain.count("{") == plain.count("}") and not set(plain) & set("#_^~%$\\−×<>|"), row
    cells = [re.split(r"(?<!\\) & ", row) for row in rows]
    assert {len(row) for row in cells} == {len(columns)}
    return cells


def test_every_estimate_stands_with_its_interval(statistics):
    cells = statistics["cells"]
    table = made.cells_table(cells).set_index(["Corpus", "Method"])
    assert table.shape == (8, 3) and list(table.columns) == ["1 block", "2 blocks", "3 blocks"]
    row = cells.query("pretraining == 'mri' and finetune_depth == 2 and method == 'method1'").iloc[0]
    shown = table.at[("MRI (sex)", "method1"), "2 blocks"].replace("−", "-")
    assert shown == "{estimate:.3f} [{low:.3f}, {high:.3f}]".format(**row)


def test_effects_are_those_of_the_primary_way(statistics):
    effects = statistics["effects"].query("way == 't'")
    table = made.effects_table(statistics["effects"])
    left_out = effects["family"].isin(["methods", "depth_slope", "depth_by_corpus_by_class"])
    assert len(table) == len(effects[~left_out & ~effects["family"].str.endswith("_x_class")])
    (corpus,) = effects.query("family == 'corpus'").itertuples()
    skill = f"{number(corpus.estimate)} [{number(corpus.low)}, {number(corpus.high)}]"
    assert table.iloc[0, :4].tolist() == ["MRI (sex) − photographs", "all", skill, p_value(corpus.p)]
    assert ("d" in table) == (corpus.unit == "seed"), "no effect size without several seeds"
    assert set(table["Of"]) >= {"1 block", "2 blocks", "method0", "photographs", "change with depth", "round lesions"}


def test_numbers_have_a_true_minus_and_zero_no_sign():
    assert [number(-0.0004), number(-0.0006), number(1.0), number(float("nan"))] == ["0.000", "−0.001", "1.000", "–"]
    assert [p_value(0.0004), p_value(0.0012), p_value(1), p_value(float("nan"))] == ["<0.001", "0.001", "1.000", "–"]


def test_latex_is_whole_and_holds_the_same_cells_as_markdown(statistics):
    for name in ("cells", "effects", "ranks"):
        table = getattr(made, f"{name}_table")(statistics[name])
        expected = [list(table.columns), *table.to_numpy().tolist()]
        latex = to_latex(table, "What it shows.").replace("$-$", "−").replace("$<$", "<").replace("--", "–")
        assert [line.removesuffix(r" \\").split(" & ") for line in latex.split("\n") if " & " in line] == expected
        header, rule, *rows, _, caption, _ = to_markdown(table, "What it shows.").split("\n")
        assert [line.strip("| ").split(" | ") for line in (header, *rows)] == expected
        assert (rule, caption) == ("|" + " --- |" * table.shape[1], "*What it shows.*")


@given(st.lists(TEXT, min_size=2, max_size=2), TEXT)
@settings(max_examples=40)
def test_any_text_is_escaped(cells, header):
    table = pd.DataFrame([cells], columns=["a", f"b{header}"])
    latex_rows(to_latex(table, "About\nit."))
    row = to_markdown(table, "").split("\n")[2]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


def test_saved_tables_repeat_to_the_byte_and_say_where_they_come_from(root, statistics):
    def saved() -> dict[str, bytes]:
        table = made.ranks_table(statistics["ranks"])
        written = made.save_table(table, "tiny", "ranks", "Ranks.", parameters={"study": "tiny"})
        return {path.name: path.read_bytes() for path in written}

    assert saved() == saved() and list(saved()) == ["ranks.tex", "ranks.md"]
    assert '"caption": "Ranks."' in (Paths("tiny").figures / "tables" / "ranks.json").read_text()


def test_the_study_has_its_tables_and_they_are_whole(tiny):
    for name in MANUSCRIPT:
        latex_rows((Paths(tiny).figures / "tables" / f"{name}.tex").read_text())
