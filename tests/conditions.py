"""Circumstances on which no result may depend: the tiny study runs again under each, to be compared with another run."""

import os
import shutil
import subprocess
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from faults import finish, make_root
from pretrain_xai import paths
from pretrain_xai.tables import read_table

#: a folder whose `sitecustomize` makes every Python list folders in a random order
SHUFFLED = Path(__file__).with_name("shuffled")
#: scores may differ by so much between numbers of threads or of images in a pass
SCORE_TOLERANCE = 0.01
#: what the study is made by, without what lies in a checkout besides
CODE = ("lib", "notebooks", "profiles", "studies")


@dataclass(frozen=True)
class Condition:
    """One way to run the tiny study.

    Attributes
    ----------
    options : of Snakemake, such as `--cores 4`
    environment : variables; `settings` : of the study file, by dotted names
    shuffled : list folders in a random order; `elsewhere` : with a copy of the code in another folder
    tolerance : of scores, from 0 to 1; 0: equal bytes are expected
    """

    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    shuffled: bool = False
    elsewhere: bool = False
    tolerance: float = 0.0


def run(folder: Path, condition: Condition) -> subprocess.CompletedProcess:
    """Run the tiny study in the new root `folder`."""
    search = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    if condition.elsewhere:
        copy_code(folder)
        search.insert(0, str(folder / "lib"))
    else:
        folder.mkdir(parents=True)
        make_root(folder)
    if condition.shuffled:
        search.insert(0, str(SHUFFLED))
    change(folder / "studies" / "tiny.yaml", condition.settings)
    variables = {"PYTHONPATH": os.pathsep.join(search)} if search else {}
    return finish(folder, *condition.options, **variables, **condition.environment)


def copy_code(folder: Path) -> None:
    """Copy the code to another folder, as a fresh clone has it, with what is not committed yet."""
    for name in CODE:
        shutil.copytree(paths.REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(paths.REPOSITORY / "Snakefile", folder)


def change(study_file: Path, settings: Mapping[str, Any]) -> None:
    """Change settings of a study file, given by dotted names."""
    content = yaml.safe_load(study_file.read_text())
    for name, value in settings.items():
        *sections, last = name.split(".")
        reduce(lambda section, part: section.setdefault(part, {}), sections, content)[last] = value
    study_file.write_text(yaml.safe_dump(content, sort_keys=False))  # the order of splits counts


def foreign_locale(folder: Path, language: str) -> dict[str, str]:
    """Return the environment of a language, which is made in `folder`; that of C where it can't be made."""
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{language}.UTF-8"
    if shutil.which("localedef"):
        subprocess.run(["localedef", "-i", language, "-f", "UTF-8", str(made)], capture_output=True, check=False)
    if made.is_dir():
        return {"LC_ALL": made.name, "LOCPATH": str(folder)}
    warnings.warn(f"the language {language} can't be made here (Debian's package locales): C is taken", stacklevel=2)
    return {"LC_ALL": "C"}


def largest_difference(root: Path, other: Path) -> float:
    """Return by how much the scores from 0 to 1 of two roots differ at most; infinite if one has other rows."""
    largest = 0.0
    files = sorted((root / "data" / "tiny" / "scores").glob("*.parquet"))
    for file in files:
        one, two = read_table(file), read_table(other / file.relative_to(root))
        rates = one["metric"].isin(["relevance_rank_accuracy", "true_negative_rate"])
        row = ["method", "image_index", "metric"]
        both = one[rates].merge(two, on=row, how="left", suffixes=("", "_other"))
        gap = (both["value"] - both["value_other"]).abs()
        largest = max(largest, float(gap.where(both["value"].notna(), 0.0).fillna(np.inf).max()))
    return largest if files else np.inf


def all_at_once(language: Mapping[str, str]) -> Condition:
    """Return the condition in which all is other at once: jobs, order of files, language, time zone, hash seeds, folder."""
    environment = {**language, "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "7"}
    return Condition(("--cores", "4"), environment, shuffled=True, elsewhere=True)


def conditions(locales: Path) -> dict[str, Condition]:
    """Return the conditions of the determinism matrix by what is said of them; the reference has two jobs.

    `locales` is a folder for languages that are made.
    """
    # Turkish has other capitals of i, German a comma in numbers
    turkish, german = foreign_locale(locales, "tr_TR"), foreign_locale(locales, "de_DE")
    nothing_kept = {"finetuning.cache": {"memory_gib": 0.0, "disk_gib": 0.0}}
    return {
        "1 job, random hash seeds": Condition(("--cores", "1"), {"PYTHONHASHSEED": "random"}),
        "4 jobs, folders listed in random order, nothing kept of the frozen layers": Condition(
            ("--cores", "4"), settings=nothing_kept, shuffled=True
        ),
        f"locale {turkish['LC_ALL']}, time zone America/St_Johns, the code in another folder": Condition(
            environment={**turkish, "TZ": "America/St_Johns"}, elsewhere=True
        ),
        "passes of 4 images": Condition(settings={"attribution.micro_batch": 4}, tolerance=SCORE_TOLERANCE),
        "2 threads a job": Condition(settings={"threads": 2}, tolerance=SCORE_TOLERANCE),
        f"4 jobs, random order, hash seed 7, locale {german['LC_ALL']}, Asia/Kathmandu, another folder": all_at_once(
            german
        ),
    }
