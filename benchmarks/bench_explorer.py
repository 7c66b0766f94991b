"""The explorer's pictures of stored maps: how long one takes. Run `python benchmarks/bench_explorer.py` after `make demo`."""

import io
import statistics
import time

from pretrain_xai.drawing.figures import use_style
from pretrain_xai.explorer.data import Choice, Explorer
from pretrain_xai.explorer.view import explorer_figure


def main() -> None:
    """Print the median time for few and for many maps in a picture."""
    use_style()
    explorer = Explorer("demo", "best")
    study = explorer.study
    for depths, n_methods in (([5], 3), ([1, 5], 8)):
        runs = tuple(run for run in study.runs() if run.selection == "best" and run.finetune_depth in depths)
        times = []
        for image in explorer.kept_images(runs) * 2:
            start = time.perf_counter()
            choice = Choice(image, runs, tuple(study.attribution.methods[:n_methods]))
            explorer_figure(explorer, choice, "hits and misses", 0.8)[0].savefig(io.BytesIO(), format="png")
            times.append(1000 * (time.perf_counter() - start))
        print(f"{len(runs) * n_methods:2} maps: {statistics.median(times):.0f} ms")


if __name__ == "__main__":
    main()
