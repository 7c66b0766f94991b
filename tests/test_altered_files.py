"""Results that were changed after they were made are found by their digests, and the batch makes them again."""

import contextlib
import os
import re
import shutil
from pathlib import Path

import pytest
from faults import alter, digests, finish, recorded, verdict
from pretrain_xai import paths
from pretrain_xai.paths import Paths
from pretrain_xai.provenance import read_sums, record, write_sums
from pretrain_xai.run_notebook import main
from pretrain_xai.running.altered_files import aside, find_altered, make_again, name_altered, times_kept
from test_batch import batch
from test_run_notebook import PARAMETERS, write_notebook

RUN = "best-mri-depth5-seed0"


@pytest.fixture
def results(root) -> Path:
    """Return a folder with three results, as two notebooks of the tiny study recorded them."""
    for name in ("a.csv", "b.csv", "c.csv"):
        Paths("tiny").data.mkdir(parents=True, exist_ok=True)
        (Paths("tiny").data / name).write_text(f"{name}\n1,2,3\n")
    folder = Paths("tiny").data
    write_sums(Paths("tiny").executed / "one" / "run.sha256", [folder / "a.csv", folder / "b.csv"])
    write_sums(Paths("tiny").executed / "two" / "run.sha256", [folder / "c.csv"])
    return folder


def found(study: str = "tiny") -> dict[str, tuple[str, ...]]:
    """Return the altered files by name, with the names of the files that their jobs are known by."""
    return {
        Path(altered.file).name: tuple(Path(file).name for file in altered.made_with) for altered in find_altered(study)
    }


def made_when(root: Path) -> dict[str, int]:
    """Return the time of each recorded result of the tiny study, in ns."""
    return {name: (root / name).stat().st_mtime_ns for name in recorded(root)}


def test_what_is_as_it_was_recorded_is_left_alone(results):
    assert found() == {}
    os.utime(results / "a.csv")
    (results / "c.csv").unlink()  # room on the disk: it is made when something needs it
    assert found() == {}


@pytest.mark.parametrize("how", ["flip", "cut"])
def test_a_change_is_found_whatever_the_time_says(results, how):
    alter(results / "b.csv", how)
    assert found() == {"b.csv": ("b.csv", "a.csv")}
    assert found("tiny+head_kept") == found(), "a variant is made from files of its study"


def test_a_result_that_was_set_aside_counts_until_it_is_made_again(results):
    content = (results / "c.csv").read_text()
    alter(results / "c.csv", "flip")
    (altered,) = find_altered("tiny")
    altered.set_aside()
    assert not (results / "c.csv").exists() and aside(results / "c.csv").is_file()
    assert found() == {"c.csv": ("c.csv",)}
    (results / "c.csv").write_text(content)
    assert found() == {}


def test_one_of_several_records_is_enough(results):
    """An earlier version of the study may have made a file by another notebook."""
    alter(results / "c.csv", "flip")
    write_sums(Paths("tiny").executed / "three" / "run.sha256", [results / "a.csv", results / "c.csv"])
    assert found() == {}


def test_a_record_that_is_none_stops_nothing(results):
    (Paths("tiny").executed / "one" / "run.sha256").write_bytes(b"\xff\x00")
    alter(results / "c.csv", "cut")
    assert found() == {"c.csv": ("c.csv",)}


def made_again(results: Path, contents: dict[str, str]) -> set[str]:
    """Set altered results aside, write `contents` by name, and return the names whose time is the earlier one."""
    names = ("a.csv", "b.csv", "c.csv")
    times = {name: (results / name).stat().st_mtime_ns for name in names}
    for altered in find_altered("tiny"):
        altered.set_aside()
    with times_kept("tiny"):
        for name, content in contents.items():
            (results / name).write_text(content)
            os.utime(results / name, ns=(times[name] + 1, times[name] + 1))
    return {name for name in names if (results / name).stat().st_mtime_ns == times[name]}


def test_what_is_made_again_as_it_was_keeps_its_time(results):
    """So no job that reads it is out of date; another result of its job, written anew, does too."""
    content = {name: (results / name).read_text() for name in ("a.csv", "b.csv")}
    alter(results / "a.csv", "flip")
    assert made_again(results, content | {"c.csv": "another result"}) == {"a.csv", "b.csv"}


def test_what_was_edited_gets_a_new_time_since_something_may_be_made_of_it(results):
    sums = Paths("tiny").executed / "one" / "run.sha256"
    content = (results / "a.csv").read_text()
    os.utime(sums, ns=(1, 1))
    (results / "a.csv").write_text("edited later")
    assert made_again(results, {"a.csv": content}) == {"b.csv", "c.csv"}


def test_what_was_read_with_other_bytes_gets_a_new_time(results):
    content = (results / "a.csv").read_text()
    alter(results / "a.csv", "flip")
    record(results / "b.csv", parameters={}, inputs=[results / "a.csv"])
    assert made_again(results, {"a.csv": content}) == {"b.csv", "c.csv"}


def test_one_of_several_records_says_not_what_was_read(results):
    content = (results / "c.csv").read_text()
    (results / "c.csv").write_text("an earlier version")
    write_sums(Paths("tiny").executed / "three" / "run.sha256", [results / "c.csv"])
    alter(results / "c.csv", "flip")
    assert made_again(results, {"c.csv": content}) == {"a.csv", "b.csv"}


def test_altered_results_are_made_again_by_stage_until_one_fails(results, capsys):
    for name in ("a.csv", "b.csv", "c.csv"):
        alter(results / name, "flip")
    altered, asked = find_altered("tiny"), []
    made_here = {"data/tiny/a.csv", "data/tiny/c.csv"}
    assert make_again("tiny", altered, made_here, lambda *options: asked.append(options) or len(asked) - 1) == 1
    assert asked == [
        ("--forcerun", "data/tiny/a.csv", "--until", "data/tiny/a.csv"),
        ("--forcerun", "data/tiny/c.csv", "--until", "data/tiny/c.csv"),
    ]
    assert not any((results / name).exists() for name in ("a.csv", "b.csv", "c.csv"))
    name_altered(altered, set())
    assert capsys.readouterr().err.count("is not there again yet: this batch does not make it, and leaves it") == 3


def test_what_is_in_the_making_is_no_result_and_what_is_half_is_wrong(results):
    root, whole = paths.root(), digests(paths.root())
    assert len(whole) == 3 and verdict(root, whole) == (0, 0)
    building = results / "dataset" / "train" / ".building"
    building.mkdir(parents=True)
    for file in (building / "images.npy", results / ".a.csv"):
        file.write_text("half")
    assert verdict(root, whole) == (0, 0)
    alter(results / "a.csv", "cut")
    (results / "b.csv").unlink()
    assert verdict(root, whole) == (1, 1)


def test_what_a_notebook_makes_besides_is_recorded_and_an_old_record_goes(root):
    make = "from pathlib import Path\nfor name in ('a.csv', 'steps/1.csv', 'steps/2.csv'):\n"
    make += "    Path(name).parent.mkdir(exist_ok=True)\n    Path(name).write_text(name)\n1 / seed"
    notebook = write_notebook(root / "make.ipynb", PARAMETERS, make)
    made = ["--made", str(root / "a.csv"), "--also", "steps/*.csv"]
    arguments = [str(notebook), str(root / "out.ipynb"), *made, "-p", "seed"]
    with contextlib.chdir(root):
        assert main([*arguments, "1"]) == 0
        assert list(read_sums(root / "out.sha256")) == ["a.csv", "steps/1.csv", "steps/2.csv"]
        assert main([*arguments, "0"]) == 1
    assert not (root / "out.sha256").exists()


@pytest.mark.system
def test_a_dry_run_names_a_changed_result_and_touches_nothing(tiny_root):
    file = tiny_root / f"data/tiny/scores/{RUN}.parquet"
    content, times = file.read_bytes(), file.stat()
    try:
        alter(file, "flip")
        altered = file.read_bytes()
        result = batch(tiny_root, "--dry-run")
        assert f"data/tiny/scores/{RUN}.parquet was changed after it was made: it is made again, and" in result.stderr
        jobs = dict(re.findall(r"^(\w+) +(\d+)$", result.stdout, re.MULTILINE))
        assert {"explanation_metrics", "boxplots", "report"} <= set(jobs)
        assert jobs["explanation_metrics"] == "1" and "finetune" not in jobs
        assert file.read_bytes() == altered
    finally:
        file.write_bytes(content)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.system
def test_changed_results_are_made_again(tiny_root, tmp_path):
    """A bit flipped in one of each kind, or half cut off, all with their time kept, come back as they were, and no more."""
    root = Path(shutil.copytree(tiny_root, tmp_path / "root"))
    before, times = recorded(root), made_when(root)
    names = [
        "data/tiny/dataset/test/images.npy",
        f"data/tiny/finetuned/{RUN}/weights.safetensors",
        next(name for name in sorted(before) if "/checkpoints/" in name),
        f"data/tiny/scores/{RUN}.parquet",
        "figures/tiny/boxplots_tpr.pdf",
        "figures/tiny/report.html",
    ]
    for number, name in enumerate(names):
        alter(root / name, "cut" if number % 2 else "flip")
    result = finish(root)
    assert result.returncode == 0, result.stderr[-2000:]
    named = [
        line.split(" was changed after it was made")[0]
        for line in result.stderr.splitlines()
        if " was changed after " in line
    ]
    assert sorted(named) == sorted(names)
    assert recorded(root) == before
    newer = {name for name, time in made_when(root).items() if time > times[name]}
    assert not newer, "nothing that depends on them was made again"
    assert "Nothing to be done" in (again := finish(root)).stdout + again.stderr
