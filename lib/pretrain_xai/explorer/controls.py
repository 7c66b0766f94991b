"""The menus of the `explore` notebook: what is chosen goes to the view, what the view drew to the page."""

import base64
import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets as widgets
import pandas as pd

from pretrain_xai import paths
from pretrain_xai.drawing.figures import save_figure
from pretrain_xai.errors import UserError
from pretrain_xai.explorer.data import IMAGES, ORDERS, RANK_ACCURACY, Choice, Explorer, finished_studies
from pretrain_xai.explorer.view import MODES, MOST_METHODS, MOST_NETWORKS, as_png, explorer_figure
from pretrain_xai.lesions import CLASSES
from pretrain_xai.names import label
from pretrain_xai.settings.sections import Selection
from pretrain_xai.study import UNTRAINED

#: the class of the explorer's element in the page
_ROOT = "pretrain-xai-explorer"


class ExplorerError(UserError):
    """What is chosen can't be shown."""


def _menu(kind: type[widgets.Widget], width: str = "20em", **options: Any) -> widgets.Widget:
    return kind(style={"description_width": "initial"}, layout={"width": width}, **options)


class ExplorerControls(widgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Menus on the left, the picture with its table on the right.

    Every menu is reached by Tab and moved by the arrow keys. The picture is drawn anew when a choice changes; maps that
    are not at hand are computed when asked for.

    Parameters
    ----------
    study : str
        A finished study, shown first.
    selection : str

    Raises
    ------
    UserError
        The study was not run, or has no such selection.
    """

    def __init__(self, study: str, selection: Selection) -> None:
        self._quiet = False
        self._make_menus(study)
        self._make_picture()
        self._load(study, selection)
        self._listen()
        first, last = [self.study, self.selection, self.seed], [self.methods, self.further]
        networks = [widgets.VBox(first), self.corpora, self.depths, widgets.VBox(last)]
        images = widgets.VBox([self.listed, self.order, self.image], layout={"width": "24em"})
        above = [_row(self.mode, self.strength), _row(self.compute, self.progress, self.status)]
        below = [self.picture, self.numbers, _row(self.file_name, self.export)]
        right = widgets.VBox([*above, *below], layout={"flex": "1 1 30em", "min_width": "20em"})
        super().__init__([_row(*networks), _row(images, right), _keys_stay()])
        self.add_class(_ROOT)

    @property
    def choice(self) -> Choice:
        """What the menus say."""
        runs = self.explorer.runs(self.selection.value, self.corpora.value, self.depths.value, self.seed.value)
        return Choice(self.image.value, tuple(runs), tuple(self.methods.value))

    def _make_menus(self, study: str) -> None:
        studies, several = sorted({*finished_studies(), study}), widgets.SelectMultiple
        self.study = _menu(widgets.Dropdown, options=studies, value=study, description="study")
        self.selection = _menu(widgets.Dropdown, description="selection")
        self.corpora = _menu(several, "16em", description="corpora", rows=4)
        self.depths = _menu(several, "10em", description="depths", rows=5)
        self.seed = _menu(widgets.Dropdown, description="seed")
        self.methods = _menu(several, description="methods", rows=6)
        self.further = _menu(widgets.Button, description="list methods that were not run")
        self.listed = _menu(widgets.Dropdown, options=IMAGES, description="images")
        self.order = _menu(widgets.Dropdown, options=list(ORDERS), description="sorted by")
        self.image = _menu(widgets.Select, "23em", description="image", rows=24)

    def _make_picture(self) -> None:
        self.mode = widgets.ToggleButtons(options=list(MODES), description="show", style={"button_width": "10em"})
        slider = {"value": 0.8, "min": 0, "max": 1, "step": 0.1, "continuous_update": False}
        self.strength = _menu(widgets.FloatSlider, "22em", description="overlay strength", **slider)
        self.compute = widgets.Button(layout={"width": "14em"})
        self.progress = widgets.IntProgress(layout={"width": "10em", "visibility": "hidden"})
        self.status, self.picture, self.numbers = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.file_name = _menu(widgets.Text, "22em", description="file name")
        self.export = widgets.Button(description="export this view")

    def _listen(self) -> None:
        self.study.observe(lambda _: self._change_study(), "value")
        for menu in (self.selection, self.corpora, self.depths, self.seed, self.methods, self.listed, self.order):
            menu.observe(lambda _: self._list_images(), "value")
        for menu in (self.image, self.mode, self.strength):
            menu.observe(lambda _: self._draw(), "value")
        self.further.on_click(lambda _: self._list_further_methods())
        self.compute.on_click(lambda _: self._compute())
        self.export.on_click(lambda _: self._export())

    def _change_study(self) -> None:
        with self._reported():
            self._load(self.study.value, None)

    def _load(self, name: str, selection: Selection | None) -> None:
        """Show another study: its own menus, the first two corpora at the greatest depth, the first three methods."""
        explorer = Explorer(name)
        study = explorer.study
        selected = study.check_selection(selection or study.main_selection)
        self.explorer = explorer
        corpora, depths, methods = study.pretraining.corpora, study.finetuning.depths, study.attribution.methods
        n_seeds = study.n_seeds(selected)
        seeds = [*((f"{n + 1} of {n_seeds}", n) for n in range(n_seeds)), ("all", None)]
        with self._changing():
            for menu, options, value in (
                (self.selection, study.selections, selected),
                (self.corpora, [(explorer.corpus_name(name), name) for name in [*corpora, UNTRAINED]], corpora[:2]),
                (self.depths, depths, depths[-1:]),
                (self.seed, seeds, 0),
                (self.methods, [(label(method), method) for method in methods], methods[:3]),
            ):
                menu.options, menu.value = tuple(options), tuple(value) if isinstance(value, list) else value
            self.listed.value = IMAGES[1]
            self.further.disabled = False
        self._list_images()

    def _list_images(self) -> None:
        """List the images anew, and stay at the one that is shown if it is still among them."""
        if self._quiet:
            return
        with self._reported():
            runs = self.choice.runs
            table = self.explorer.images(runs, self.methods.value, self.listed.value, self.order.value)
            labels = self.explorer.test.labels
            shown = self.image.value
            with self._changing():
                self.image.options = [
                    (_row_words(row, CLASSES[labels[row.image_index]], len(runs), self.order.value), row.image_index)
                    for row in table.itertuples()
                ]
                if shown in set(table["image_index"]):
                    self.image.value = shown
                elif len(table):
                    self.image.value = table["image_index"][0]
        self._draw()

    def _draw(self) -> None:
        if self._quiet:
            return
        with self._reported():
            self._require_drawable()
            choice = self.choice
            figure, table = explorer_figure(self.explorer, choice, self.mode.value, self.strength.value)
            named = table.assign(pretraining=table["pretraining"].map(self.explorer.corpus_name))
            self.picture.value = _image_tag(as_png(figure), _alternative_text(named))
            self.numbers.value = _table_html(named, self.explorer.score_names)
            missing = len(self.explorer.missing(choice, signed=self._signed))
            self.compute.disabled = not missing
            self.compute.description = f"compute {missing} map{'s' * (missing != 1)}" if missing else "all maps at hand"
            self.status.value = ""
            self.file_name.value = f"explore_image{choice.image}_{self.mode.value.replace(' ', '_')}"

    @property
    def _signed(self) -> bool:
        return self.mode.value == "signed map"

    def _require_drawable(self) -> None:
        if self.image.value is None:
            raise ExplorerError(f"no image is {self.listed.value}: choose other images or networks")
        for found, most, what in (
            (len(self.choice.runs), MOST_NETWORKS, "networks"),
            (len(self.methods.value), MOST_METHODS, "methods"),
        ):
            if not 1 <= found <= most:
                raise ExplorerError(f"{found} {what} are chosen: choose 1 to {most}")

    def _list_further_methods(self) -> None:
        """Add the methods that the study did not run; torch is loaded for their list."""
        self.status.value = _status("loading torch ...")
        from pretrain_xai.attribution import METHODS

        chosen, listed = self.methods.value, dict(self.methods.options)
        further = [method for method in METHODS if method not in listed.values()]
        with self._changing():
            self.methods.options = [*listed.items(), *((f"{label(method)} (not run)", method) for method in further)]
            self.methods.value = chosen
        self.further.disabled = True
        self.status.value = _status(f"{len(further)} methods more")

    def _compute(self) -> None:
        self.compute.disabled = True
        self.progress.layout.visibility = "visible"
        try:
            with self._reported():
                self._require_drawable()
                self.explorer.compute(self.choice, signed=self._signed, progress=self._show_progress)
                self._draw()
        finally:
            self.progress.layout.visibility = "hidden"

    def _show_progress(self, done: int, total: int, what: str) -> None:
        self.progress.max, self.progress.value = total, done
        self.status.value = _status(f"{done} of {total} computed{': now ' + what if what else ''}")

    def _export(self) -> None:
        """Write the picture and its numbers to the study's figures."""
        with self._reported():
            self._require_drawable()
            name = self.file_name.value.strip()
            if not re.fullmatch(r"[\w-]+", name, re.ASCII):
                raise ExplorerError(f"file name {name!r}: letters, digits, _ and - are expected")
            choice = self.choice
            shown = {"shown": self.mode.value, "overlay_strength": self.strength.value}
            figure, table = explorer_figure(self.explorer, choice, *shown.values())
            models = [run.name for run in choice.runs]
            chosen = {"image": choice.image, "models": models, "methods": choice.methods}
            parameters = {"study": self.explorer.name} | chosen | shown
            inputs = [self.explorer.study.paths.scores / f"{run.name}.parquet" for run in choice.runs]
            path = save_figure(figure, table, self.explorer.name, name, parameters=parameters, inputs=inputs)
            written = path.relative_to(paths.root()) if path.is_relative_to(paths.root()) else path
            self.status.value = _status(f"wrote {written} with PDF, CSV and JSON")

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Change menus without drawing after each."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Show an error that the user can mend beside the picture."""
        try:
            yield
        except UserError as error:
            self.status.value = _status(str(error))
            self.picture.value = self.numbers.value = ""


def _row_words(row: Any, name: str, n_runs: int, order: str) -> str:
    """Return the words of an image in the list: the number that it is sorted by, what it is, who gets it wrong."""
    value = row.disagreement if order == "methods disagree" else row.score
    number = " –  " if pd.isna(value) else f"{value:.2f}"
    wrong = f" · {row.n_wrong} of {n_runs} wrong" if row.n_wrong else ""
    return f"{number} · {row.image_index} {name}{wrong}{' · kept' if row.kept else ''}"


def _image_tag(png: bytes, words: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img style="max-width: 100%" alt="{html.escape(words)}" src="data:image/png;base64,{data}">'


def _alternative_text(table: pd.DataFrame) -> str:
    """Say what the picture shows to those who can't see it; corpora in `table` are already named."""
    first = table.iloc[0]
    maps = [
        f"{label(row.method)}, {row.pretraining} depth {row.finetune_depth}: {getattr(row, RANK_ACCURACY):.2f}"
        for row in table.itertuples()
    ]
    shown = f"Test image {first['image_index']} with {first['class']} lesions and its maps"
    return f"{shown}. Relevance Rank Accuracies, chance {first[f'{RANK_ACCURACY}_chance']:.2f}: {'; '.join(maps)}."


def _table_html(table: pd.DataFrame, scores: list[str]) -> str:
    """Return the numbers of the maps as a table, each score with its chance level; corpora are already named."""
    shown = pd.DataFrame({"method": table["method"].map(label), "network": table["pretraining"]})
    shown["depth"], shown["seed"] = table["finetune_depth"], table["seed"]
    shown["says"], shown["p"] = table["predicted"].fillna("–"), table["probability"]
    for score in (score for score in scores if score in table):
        pairs = zip(table[score], table[f"{score}_chance"], strict=True)
        shown[f"{label(score)}, chance"] = [_number(value) + f", {_number(chance)}" for value, chance in pairs]
    for count in (count for count in ("hits", "misses", "false_alarms") if count in table):
        shown[label(count)] = table[count].map(lambda value: "–" if pd.isna(value) else f"{value:g}")
    page = shown.to_html(index=False, border=0, na_rep="–", float_format=_number, justify="left")
    return f'<div style="overflow-x: auto" tabindex="0" role="region" aria-label="Numbers of the maps">{page}</div>'


def _number(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.3f}"


def _row(*children: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(children, layout={"flex_flow": "row wrap"})


def _keys_stay() -> widgets.HTML:
    """Return an invisible element that lets the arrow keys reach the menus.

    JupyterLab takes them for moving from cell to cell, also where a menu has the focus, except in elements with an
    attribute that ipywidgets can't set: here it is set on whatever gets the focus.
    """
    script = (
        "const image = this, timer = setInterval(() => {"
        f" const root = image.closest('.{_ROOT}'); if (!root) return; clearInterval(timer);"
        " root.addEventListener('focusin', event => event.target.setAttribute('data-lm-suppress-shortcuts', 'true'));"
        " }, 100)"
    )
    pixel = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
    return widgets.HTML(f'<img alt="" hidden src="{pixel}" onload="{script}">')


def _status(words: str) -> str:
    return f'<span role="status">{html.escape(words)}</span>'
