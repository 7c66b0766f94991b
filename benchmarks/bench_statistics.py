"""Coverage of the intervals and type I error of the tests over simulated studies: `make bench-statistics`."""

import argparse
import dataclasses
import time
from itertools import product

import numpy as np
import pandas as pd
from claims import verdict
from pretrain_xai.paths import Paths
from pretrain_xai.statistics.effects import ALPHA, MixedModel, by_cell
from pretrain_xai.statistics.intervals import by_units
from pretrain_xai.statistics.power import Spread
from pretrain_xai.tables import TableError, read_table
from simulated_studies import CHUNK, Size, as_skills, coverage_table, design_intervals, simulate_scores

N_STUDIES = 1000
#: what networks of one seed number share, as a part of the deviation between networks: pairing by number is put to the test
SHARED = {
    "nothing": {"shared": 0.0, "shared_corpus": 0.0},
    "over corpora and depths": {"shared": 0.8, "shared_corpus": 0.0},
    "over depths": {"shared": 0.0, "shared_corpus": 0.8},
}
#: standard deviations between pre-trainings of one corpus, and how many there are of each; depths of one differ by half of it
PRETRAINING, PRETRAININGS = (0.0, 0.03), (3, 5, 10)
#: so many times as many studies: the standard error of a coverage of .95 is .002
MORE = 10


def measured_spread(study: str) -> tuple[Spread, str]:
    """Return the spread that the statistics of a finished study found, or the defaults, and where it comes from."""
    path = Paths(study).data / "statistics" / "spread.csv"
    try:
        return Spread(**read_table(path).set_index("source")["deviation"].to_dict()), str(path)
    except TableError:
        return Spread(), f"defaults, as {path} is not there"


def largest_difference(spread: Spread, n_seeds: int, n_studies: int = 10) -> float:
    """Return by how much statsmodels' fits differ from the closed form that the table uses, in standard errors."""
    size = Size(n_seeds)
    scores = simulate_scores(n_studies, size, spread, np.random.default_rng(1))
    sign = np.repeat([-1.0, 1.0], size.n_depths * n_seeds) / (size.n_depths * n_seeds)
    weights = np.tile(sign[:, None], size.n_methods) / size.n_methods
    differences = []
    for study in scores:
        skills = as_skills(study)
        fitted = MixedModel(skills.network_means()).interval(by_cell(skills, weights))
        contributions = np.einsum("rm,rmi->ri", weights, skills.values)
        closed = by_units(contributions, np.repeat(np.arange(2 * size.n_depths), n_seeds), pooled=True)
        differences += [abs(fitted.estimate - closed.estimate) / closed.se, abs(fitted.se / closed.se - 1)]
    return float(max(differences))


def pretraining_table(spread: Spread, n_studies: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return coverage of the main effects' intervals: pre-trainings as units, beside seeds of one pre-training.

    What networks of one seed number share is part of the pre-training here. The truth is the effect over all pre-trainings,
    on the images tested for `t` and on all images for `t_both`. It is 0: these intervals move with an effect, so that another
    has the same coverage.
    """
    alone = dataclasses.replace(spread, shared=0.0, shared_corpus=0.0)
    rows = []
    for own, way, deviation, n in product((True, False), ("t", "t_both"), PRETRAINING, PRETRAININGS):
        held: dict[str, list[np.ndarray]] = {"corpus": [], "depth": []}
        options = {"pretraining": deviation, "pretraining_depth": deviation / 2, "own_pretrainings": own}
        for start in range(0, n_studies, CHUNK):
            number = min(CHUNK, n_studies - start)
            scores = simulate_scores(number, Size(n), alone, rng, new_images=way == "t_both", **options)
            for effect, of_way, interval in design_intervals(scores, own_pretrainings=own):
                if of_way == way:
                    held[effect].append(interval.p >= ALPHA)
        facts = {"units": "pre-trainings" if own else "seeds of one", "way": way, "SD": deviation, "n": n}
        rows += [facts | {"effect": effect, "coverage": np.concatenate(held[effect]).mean()} for effect in held]
    return pd.DataFrame(rows)


def main(n_studies: int = N_STUDIES, study: str = "demo3") -> pd.DataFrame:
    """Print and return the table of coverage, type I error, power and width for 3 and 10 seeds."""
    started = time.monotonic()
    spread, source = measured_spread(study)
    print(f"standard deviations of skill ({source}):")
    print("  " + ", ".join(f"{name} {value:.3f}" for name, value in dataclasses.asdict(spread).items()))
    rng = np.random.default_rng(0)
    tables = []
    for shares, part in SHARED.items():
        one = dataclasses.replace(spread, **{name: share * spread.network for name, share in part.items()})
        for new_images in (False, True):
            for n_seeds in (3, 10):
                table = coverage_table(n_studies, Size(n_seeds), one, rng, new_images=new_images)
                facts = {"seeds_share": shares, "truth_is": "on all images" if new_images else "on these images"}
                tables.append(table.assign(**facts, n_seeds=n_seeds))
    result = pd.concat(tables, ignore_index=True)
    wide = result.pivot_table(
        index=["seeds_share", "truth_is", "way"],
        columns="n_seeds",
        values=["coverage", "type_one", "power", "width"],
        sort=False,
    )
    print(f"\n{n_studies} studies without and {n_studies} with an effect of .03, 95 % intervals, tests at .05")
    print(wide.round(3).to_string())
    of_designs = pretraining_table(spread, MORE * n_studies, rng)
    wide = of_designs.pivot(index=["units", "way", "SD"], columns=["effect", "n"], values="coverage").sort_index(axis=1)
    print(f"\ncoverage over {MORE * n_studies} studies; n pre-trainings of each corpus, or n seeds of one of each")
    print("t: truth on these images; t_both: on all images; SD: between pre-trainings of one corpus")
    print(wide.round(3).to_string())
    ours = of_designs[(of_designs["units"] == "pre-trainings") & (of_designs["way"] == "t")]["coverage"]
    print(verdict("lowest coverage by pre-trainings", ours.min(), 0.93, at_most=False))
    print(verdict("highest coverage by pre-trainings", ours.max(), 0.97, at_most=True))
    print(verdict("highest type I error by pre-trainings", 1 - ours.min(), 0.06, at_most=True))
    gap = max(largest_difference(spread, n_seeds) for n_seeds in (3, 10))
    print(f"\nmixed model in closed form and by statsmodels differ by at most {gap:.1e} standard errors")
    print(f"{time.monotonic() - started:.0f} s")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=N_STUDIES)
    parser.add_argument("--study", default="demo3")
    options = parser.parse_args()
    main(options.studies, options.study)
