"""The explorer's pictures of stored maps: the figure changed, beside a new figure for every picture.

Run `python benchmarks/bench_explorer.py` after `make demo`; it takes some seconds.
"""

import statistics
import time
from collections.abc import Callable

from pretrain_xai.drawing.figures import use_style
from pretrain_xai.explorer.data import Choice, Explorer
from pretrain_xai.explorer.view import ExplorerView

#: what the explorer promises for maps that were kept, ms
PROMISED_MS = 300


def milliseconds(draw: Callable[[Choice], None], choices: list[Choice]) -> tuple[float, float]:
    """Return the median time of a picture, of the process alone and by the clock."""
    times = []
    for choice in choices:
        start, clock = time.process_time(), time.perf_counter()
        draw(choice)
        times.append((1000 * (time.process_time() - start), 1000 * (time.perf_counter() - clock)))
    alone, by_clock = zip(*times, strict=True)
    return statistics.median(alone), statistics.median(by_clock)


def main() -> None:
    """Print both times for few and for many maps in a picture."""
    use_style()
    explorer = Explorer("demo")
    study = explorer.study
    for corpora, depths, n_methods in ((2, [5], 3), (2, [1, 5], 8)):
        runs = tuple(explorer.runs("best", study.pretraining.corpora[:corpora], depths))
        methods = tuple(study.attribution.methods[:n_methods])
        choices = [Choice(image, runs, methods) for image in explorer.kept_images(runs)] * 2
        view = ExplorerView(explorer)

        def changed(choice: Choice, view: ExplorerView = view) -> None:
            view.show(choice, "hits and misses", 0.8)
            view.png()

        def anew(choice: Choice) -> None:
            fresh = ExplorerView(explorer)
            fresh.show(choice, "hits and misses", 0.8)
            fresh.png()

        changed(choices[0])
        (alone, clock), (alone_anew, _) = milliseconds(changed, choices), milliseconds(anew, choices[:6])
        verdict = "held" if clock <= PROMISED_MS else "not held"
        print(
            f"{len(runs) * len(methods):2} maps: {alone:.0f} ms of the process, {clock:.0f} ms by the clock "
            f"({PROMISED_MS} ms: {verdict}); a new figure takes {alone_anew / alone:.1f} times as long"
        )


if __name__ == "__main__":
    main()
