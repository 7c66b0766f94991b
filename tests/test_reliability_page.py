"""docs/reliability.md says what was counted, and nothing else."""

import json

import soak
from reliability_page import FUZZ, JSON, MUTATION, PAGE, page


def fault(name: str, times: int, **counts: int) -> dict:
    return {"fault": name, "times": times, "survived": times, "lost": 0, "wrong": 0} | counts


def test_the_page_is_made_of_the_counts():
    """If not: `.venv/bin/python tests/soak.py page`."""
    assert PAGE.read_text(encoding="utf-8") == page(json.loads(JSON.read_text(encoding="utf-8")))


def test_all_counts_are_on_the_page():
    about = {"date": "2026-11-25", "cores": 2, "minutes": 3.5}
    run = {"condition": "1 job", "results": 40, "equal": 39, "difference": 0.012, "tolerance": 0.01}
    rows = [fault("SIGKILL of a kernel", 1200, lost=1), fault("disk full", 34)]
    written = page({"kills": about | {"rows": rows}, "determinism": about | {"rows": [run]}})
    assert "| SIGKILL of a kernel | 1,200 | 1,200 | 1 | 0 |" in written
    assert "| **all** | 1,234 | 1,234 | 1 | 0 |" in written
    assert "| 1 job | 39 of 40 | 0.012 |" in written
    assert "| kills | 2026-11-25 | 2 cores | 3.5 |" in written
    assert ("make fuzz" in written, "make mutation" in written) == (FUZZ.is_file(), MUTATION.is_file())


def test_a_part_keeps_the_rows_of_the_others_and_replaces_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "JSON", tmp_path / "a.json")
    monkeypatch.setattr(soak, "PAGE", tmp_path / "a.md")
    for part, row in (
        ("kills", fault("a", 1)),
        ("disk", fault("b", 2)),
        ("kills", fault("c", 3)),
        ("kills", fault("a", 4)),
    ):
        soak.keep(part, row, minutes=1.0)
    kept = json.loads((tmp_path / "a.json").read_text())
    assert [(row["fault"], row["times"]) for row in kept["kills"]["rows"]] == [("a", 4), ("c", 3)]
    assert [row["times"] for row in kept["disk"]["rows"]] == [2]
    assert (tmp_path / "a.md").read_text() == page(kept)


def test_what_does_not_hold_is_told():
    assert soak.holds(fault("a", 3))
    for counts in ({"lost": 1}, {"wrong": 1}, {"survived": 2}):
        assert not soak.holds(fault("a", 3, **counts))
    equal = {"condition": "x", "results": 2, "equal": 2, "difference": 0.0, "tolerance": 0.0}
    assert soak.holds(equal) and soak.holds(equal | {"equal": 1, "difference": 0.005, "tolerance": 0.01})
    assert not soak.holds(equal | {"equal": 1}) and not soak.holds(equal | {"difference": 0.1, "tolerance": 0.01})
