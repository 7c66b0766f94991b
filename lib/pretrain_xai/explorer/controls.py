"""The menus of the `explore` notebook: what is chosen goes to the view, what the view drew to the page."""

import base64
import html
import re
from collections.abc import Callable
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
from pretrain_xai.study import UNTRAINED, Run

#: the class of the explorer's element in the page
_ROOT = "pretrain-xai-explorer"
#: JupyterLab takes the arrow keys for moving from cell to cell, also where a menu has the focus, except in elements with an
#: attribute that ipywidgets can't set: an invisible image sets it on whatever gets the focus
_KEYS_STAY = f"""<img alt="" hidden src="data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==" onload="
const image = this, timer = setInterval(() => {{
    const root = image.closest('.{_ROOT}');
    if (!root) return;
    clearInterval(timer);
    root.addEventListener('focusin', event => event.target.setAttribute('data-lm-suppress-shortcuts', 'true'));
}}, 100)">"""


def _menu(kind: type[widgets.Widget], width: str = "20em", **options: Any) -> widgets.Widget:
    return kind(style={"description_width": "initial"}, layout={"width": width}, **options)


def _row(*children: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(children, layout={"flex_flow": "row wrap"})


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
        self.mode = widgets.ToggleButtons(options=list(MODES), description="show", style={"button_width": "10em"})
        slider = {"value": 0.8, "min": 0, "max": 1, "step": 0.1, "continuous_update": False}
        self.strength = _menu(widgets.FloatSlider, "22em", description="overlay strength", **slider)
        self.compute = widgets.Button(layout={"width": "14em"})
        self.progress = widgets.IntProgress(layout={"width": "10em", "visibility": "hidden"})
        self.status, self.picture, self.numbers = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.file_name = _menu(widgets.Text, "22em", description="file name")
        self.export = widgets.Button(description="export this view")
        self._acting = False
        self._load(study, selection)
        self._act(self._list_images)
        listing = [self.selection, self.corpora, self.depths, self.seed, self.methods, self.listed, self.order]
        drawing = [self.image, self.mode, self.strength]
        actions = {self._change_study: [self.study], self._list_images: listing, self._draw: drawing}
        for action, menus in actions.items():
            for menu in menus:
                menu.observe(lambda _, action=action: self._act(action), "value")
        self.further.on_click(lambda _: self._act(self._list_further_methods))
        self.compute.on_click(lambda _: self._act(self._compute))
        self.export.on_click(lambda _: self._act(self._export))
        first, last = widgets.VBox([self.study, self.selection, self.seed]), widgets.VBox([self.methods, self.further])
        images = widgets.VBox([self.listed, self.order, self.image], layout={"width": "24em"})
        above = [_row(self.mode, self.strength), _row(self.compute, self.progress, self.status)]
        below = [self.picture, self.numbers, _row(self.file_name, self.export)]
        right = widgets.VBox([*above, *below], layout={"flex": "1 1 30em", "min_width": "20em"})
        rows = _row(first, self.corpora, self.depths, last), _row(images, right), widgets.HTML(_KEYS_STAY)
        super().__init__(rows)
        self.add_class(_ROOT)

    @property
    def choice(self) -> Choice:
        """What the menus say; a UserError if it can't be drawn."""
        if self.image.value is None:
            raise UserError(f"no image is {self.listed.value}: choose other images or networks")
        chosen = Choice(self.image.value, tuple(self._runs()), tuple(self.methods.value))
        for what, found, most in ("networks", chosen.runs, MOST_NETWORKS), ("methods", chosen.methods, MOST_METHODS):
            if not 1 <= len(found) <= most:
                raise UserError(f"{len(found)} {what} are chosen: choose 1 to {most}")
        return chosen

    def _runs(self) -> list[Run]:
        return self.explorer.runs(self.selection.value, self.corpora.value, self.depths.value, self.seed.value)

    def _act(self, action: Callable[[], None]) -> None:
        """Do what a menu asks for: menus that it changes ask for nothing, errors that the user can mend are shown."""
        if self._acting:
            return
        self._acting = True
        try:
            action()
        except UserError as error:
            self._say(str(error))
            self.picture.value = self.numbers.value = ""
        finally:
            self._acting = False
            self.progress.layout.visibility = "hidden"

    def _say(self, words: str) -> None:
        self.status.value = f'<span role="status">{html.escape(words)}</span>' if words else ""

    def _change_study(self) -> None:
        self._load(self.study.value, None)
        self._list_images()

    def _load(self, name: str, selection: Selection | None) -> None:
        """Fill the menus of another study: its first two corpora at the greatest depth, its first three methods."""
        explorer = Explorer(name)
        study = explorer.study
        selected = study.check_selection(selection or study.main_selection)
        self.explorer = explorer
        corpora, depths, methods = study.pretraining.corpora, study.finetuning.depths, study.attribution.methods
        n_seeds = study.n_seeds(selected)
        for menu, options, value in (
            (self.selection, study.selections, selected),
            (self.corpora, [(explorer.corpus_name(name), name) for name in [*corpora, UNTRAINED]], corpora[:2]),
            (self.depths, depths, depths[-1:]),
            (self.seed, [*((f"{n + 1} of {n_seeds}", n) for n in range(n_seeds)), ("all", None)], 0),
            (self.methods, [(label(method), method) for method in methods], methods[:3]),
        ):
            menu.options, menu.value = tuple(options), tuple(value) if isinstance(value, list) else value
        self.listed.value = IMAGES[1]
        self.further.disabled = False

    def _list_images(self) -> None:
        """List the images anew, stay at the one that is shown if it is still among them, and draw."""
        runs, shown = self._runs(), self.image.value
        table = self.explorer.images(runs, self.methods.value, self.listed.value, self.order.value)
        listed = table["image_index"].tolist()
        labels = self.explorer.test.labels
        self.image.options = [
            (_row_words(row, CLASSES[labels[row.image_index]], len(runs), self.order.value), row.image_index)
            for row in table.itertuples()
        ]
        self.image.value = shown if shown in listed else next(iter(listed), None)
        self._draw()

    def _draw(self) -> None:
        choice = self.choice
        figure, table = explorer_figure(self.explorer, choice, self.mode.value, self.strength.value)
        named = table.assign(pretraining=table["pretraining"].map(self.explorer.corpus_name))
        data, words = base64.b64encode(as_png(figure)).decode(), html.escape(_alternative_text(named))
        self.picture.value = f'<img style="max-width: 100%" alt="{words}" src="data:image/png;base64,{data}">'
        self.numbers.value = _table_html(named)
        missing = len(self.explorer.missing(choice, signed=self.mode.value == "signed map"))
        self.compute.disabled = not missing
        self.compute.description = f"compute {missing} map{'s' * (missing != 1)}" if missing else "all maps at hand"
        self._say("")
        self.file_name.value = f"explore_image{choice.image}_{self.mode.value.replace(' ', '_')}"

    def _list_further_methods(self) -> None:
        """Add the methods that the study did not run; torch is loaded for their list."""
        self._say("loading torch ...")
        from pretrain_xai.attribution import METHODS

        chosen, listed = self.methods.value, dict(self.methods.options)
        further = [method for method in METHODS if method not in listed.values()]
        self.methods.options = [*listed.items(), *((f"{label(method)} (not run)", method) for method in further)]
        self.methods.value = chosen
        self.further.disabled = True
        self._say(f"{len(further)} methods more")

    def _compute(self) -> None:
        self.compute.disabled = True
        self.progress.layout.visibility = "visible"
        signed = self.mode.value == "signed map"
        self.explorer.compute(self.choice, signed=signed, progress=self._show_progress)
        self._draw()

    def _show_progress(self, done: int, total: int, what: str) -> None:
        self.progress.max, self.progress.value = total, done
        self._say(f"{done} of {total} computed{': now ' + what if what else ''}")

    def _export(self) -> None:
        """Write the picture and its numbers to the study's figures."""
        choice, name, study = self.choice, self.file_name.value.strip(), self.explorer.study
        if not re.fullmatch(r"[\w-]+", name, re.ASCII):
            raise UserError(f"file name {name!r}: letters, digits, _ and - are expected")
        shown = {"shown": self.mode.value, "overlay_strength": self.strength.value}
        figure, table = explorer_figure(self.explorer, choice, *shown.values())
        models = [run.name for run in choice.runs]
        chosen = {"study": study.name, "image": choice.image, "models": models, "methods": choice.methods}
        inputs = [study.paths.scores / f"{model}.parquet" for model in models]
        path = save_figure(figure, table, study.name, name, parameters=chosen | shown, inputs=inputs)
        self._say(f"wrote {path.relative_to(paths.root())} with PDF, CSV and JSON")


def _row_words(row: Any, name: str, n_runs: int, order: str) -> str:
    """Return the words of an image in the list: the number that it is sorted by, what it is, who gets it wrong."""
    value = row.disagreement if order == "methods disagree" else row.score
    number = " –  " if pd.isna(value) else f"{value:.2f}"
    wrong = f" · {row.n_wrong} of {n_runs} wrong" if row.n_wrong else ""
    return f"{number} · {row.image_index} {name}{wrong}{' · kept' if row.kept else ''}"


def _alternative_text(table: pd.DataFrame) -> str:
    """Say what the picture shows to those who can't see it; corpora in `table` are already named."""
    first = table.iloc[0]
    maps = [
        f"{label(row.method)}, {row.pretraining} depth {row.finetune_depth}: {getattr(row, RANK_ACCURACY):.2f}"
        for row in table.itertuples()
    ]
    shown = f"Test image {first['image_index']} with {first['class']} lesions and its maps"
    return f"{shown}. Relevance Rank Accuracies, chance {first[f'{RANK_ACCURACY}_chance']:.2f}: {'; '.join(maps)}."


def _table_html(table: pd.DataFrame) -> str:
    """Return the numbers of the maps as a table, each score before its chance level; corpora are already named."""
    words = {"pretraining": "network", "finetune_depth": "depth", "predicted": "says", "probability": "p"}
    words |= {column: "chance" for column in table if column.endswith("_chance")}
    shown = table.assign(method=table["method"].map(label)).drop(columns=["selection", "image_index", "class"])
    shown.insert(0, "method", shown.pop("method"))
    shown = shown.rename(columns=lambda column: words.get(column, label(column)))
    options = {"index": False, "border": 0, "na_rep": "–", "justify": "left"}
    page = shown.to_html(float_format=lambda value: f"{round(value, 3):g}", **options)
    return f'<div style="overflow-x: auto" tabindex="0" role="region" aria-label="Numbers of the maps">{page}</div>'
