"""Files are written whole or not at all, and say where they came from; figures with them."""

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys

import pandas as pd
import pytest
from matplotlib.figure import Figure
from pretrain_xai import paths
from pretrain_xai.drawing import figures
from pretrain_xai.paths import Paths
from pretrain_xai.provenance import PACKAGES, atomic_path, git_describe, record, sha256, write_text


@pytest.mark.parametrize(("error", "old"), [(ValueError, None), (KeyboardInterrupt, "old"), (SystemExit, "old")])
def test_an_interrupted_writer_leaves_the_old_file_and_no_other(tmp_path, error, old):
    path = tmp_path / "folder" / "table.csv"
    if old:
        write_text(path, old)
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half of the ne")
        raise error
    assert [file.read_text() for file in path.parent.iterdir()] == ([old] if old else [])


def test_a_killed_writer_leaves_the_old_file_and_nothing_that_a_reader_takes_for_one(tmp_path):
    write_text(tmp_path / "old.csv", "old")
    script = """
import sys, time
from pathlib import Path
from pretrain_xai.provenance import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half of the ne")
    print("writing", flush=True)
    time.sleep(60)
"""
    environment = os.environ | {"PYTHONPATH": str(paths.LIBRARY.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "old.csv"], env=environment, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout.readline() == b"writing\n"
        writer.kill()
        assert writer.wait() == -signal.SIGKILL
    assert (tmp_path / "old.csv").read_text() == "old"
    assert [file.name for file in tmp_path.glob("[!.]*")] == ["old.csv"]
    write_text(tmp_path / "old.csv", "new")  # what was left behind is in nobody's way
    assert (tmp_path / "old.csv").read_text() == "new"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_get_the_permissions_that_the_umask_gives(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "file", "text")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_the_record_has_digests_that_check(root):
    folder = Paths("tiny").data
    write_text(folder / "input.csv", "a\n1\n")
    write_text(folder / "output.csv", "b\n2\n")
    record(folder / "output.csv", parameters={"study": "tiny", "seed": 3}, inputs=[folder / "input.csv"])
    facts = json.loads((folder / "output.csv.json").read_text())
    assert facts["file"] == "data/tiny/output.csv"
    assert facts["parameters"] == {"study": "tiny", "seed": 3}
    assert facts["inputs"].keys() == {"data/tiny/input.csv"}
    for name, digest in {facts["file"]: facts["sha256"], **facts["inputs"]}.items():
        assert digest == hashlib.sha256((root / name).read_bytes()).hexdigest() == sha256(root / name)
    assert facts["packages"].keys() == set(PACKAGES)
    assert facts["code"] == git_describe()
    assert str(root) not in json.dumps(facts)


def test_results_on_another_disk_are_called_by_their_place_in_the_root(root, tmp_path_factory):
    """On clusters `data/` is often a link; Snakemake and `make verify` say data/ as well."""
    (root / "data").symlink_to(tmp_path_factory.mktemp("scratch"), target_is_directory=True)
    file = Paths("tiny").data / "output.csv"
    write_text(file, "b\n2\n")
    record(file, parameters={}, inputs=[file])
    facts = json.loads(file.with_name("output.csv.json").read_text())
    assert facts["file"] == "data/tiny/output.csv" and facts["inputs"].keys() == {"data/tiny/output.csv"}


def test_a_figure_is_four_files_whose_pictures_and_numbers_repeat(root):
    data = pd.DataFrame({"x": [0, 1], "y": [2.5, 3.5]})
    content = []
    for _ in range(2):
        figure = Figure()
        figure.subplots().plot(data["x"], data["y"])
        saved = figures.save_figure(figure, data, "tiny", "line", parameters={"study": "tiny"})
        content.append({file.suffix: file.read_bytes() for file in saved.parent.iterdir()})
    assert saved == root / "figures" / "tiny" / "line.png"
    assert content[0].keys() == {".pdf", ".png", ".csv", ".json"}
    for ending in (".pdf", ".png", ".csv"):
        assert content[0][ending] == content[1][ending]
    pd.testing.assert_frame_equal(pd.read_csv(saved.with_suffix(".csv")), data)
    facts = json.loads(content[1][".json"])
    assert (facts["file"], facts["sha256"]) == ("figures/tiny/line.png", sha256(saved))
    assert b"%PDF" in content[0][".pdf"][:8] and b"CreationDate" not in content[0][".pdf"]


def test_a_file_that_keeps_its_bytes_keeps_its_time(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "a\n1\n")
    os.utime(path, ns=(10**18, 10**18))
    write_text(path, "a\n1\n")
    assert path.stat().st_mtime_ns == 10**18
    write_text(path, "a\n2\n")
    assert path.stat().st_mtime_ns != 10**18
    assert path.read_text() == "a\n2\n"
    assert list(tmp_path.iterdir()) == [path]
