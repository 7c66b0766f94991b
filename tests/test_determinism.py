"""The tiny study gives the same bytes whatever its surroundings are."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults import digests, finish
from pretrain_xai import paths

#: a folder whose `sitecustomize` makes every Python list folders in a random order
SHUFFLED = Path(__file__).with_name("shuffled")


def test_folders_are_listed_in_random_order(tmp_path):
    """Else the test below would say nothing."""
    for number in range(30):
        (tmp_path / f"{number:02}").touch()
    code = "import glob, os, pathlib, sys; d = sys.argv[1]; print(os.listdir(d), [f.name for f in os.scandir(d)], "
    code += "glob.glob('*', root_dir=d), [f.name for f in pathlib.Path(d).iterdir()], next(os.walk(d))[2])"
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(SHUFFLED)}
    printed = [subprocess.run(command, env=environment, capture_output=True, check=True).stdout for _ in range(2)]
    assert printed[0] != printed[1]


@pytest.mark.system
def test_surroundings_change_no_byte(tiny_root, tmp_path):
    """Other jobs side by side, order of files, language, time zone, hash seeds and folder of the code, all at once."""
    root, language = tmp_path / "elsewhere", tmp_path / "de_DE.UTF-8"
    for name in ("lib", "notebooks", "profiles", "studies"):
        shutil.copytree(paths.REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(paths.REPOSITORY / "Snakefile", root)
    if shutil.which("localedef"):  # Debian's package locales: with a comma in numbers
        subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", language], capture_output=True, check=False)
    surroundings = {"LC_ALL": language.name, "LOCPATH": str(tmp_path)} if language.is_dir() else {"LC_ALL": "C"}
    surroundings |= {"TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "7"}
    surroundings["PYTHONPATH"] = os.pathsep.join([str(SHUFFLED), str(root / "lib")])
    result = finish(root, "--cores", "4", **surroundings)
    assert result.returncode == 0, result.stderr[-2000:]
    assert digests(root) == digests(tiny_root)
