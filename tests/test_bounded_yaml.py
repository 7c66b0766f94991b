"""YAML of plain values: what is written comes back, everything else is one line, soon, with nothing made of it."""

import time
import tracemalloc

import pytest
import yaml
from hostile_yaml import CODE, bomb
from hypothesis import given
from hypothesis import strategies as st
from pretrain_xai.files.bounded_yaml import MAX_CHARACTERS, MAX_DEPTH, MAX_VALUES, YamlError, read_yaml

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_come_back(value):
    assert read_yaml(yaml.safe_dump(value)) == value


def test_aliases_and_merges_of_a_few_values_are_what_they_stand_for():
    text = "base: &base {epochs: 3, rate: 0.1}\nsame: *base\nother: {<<: *base, rate: 0.2}\n"
    base = {"epochs": 3, "rate": 0.1}
    assert read_yaml(text) == {"base": base, "same": base, "other": {"epochs": 3, "rate": 0.2}}


def test_nothing_is_nothing():
    assert read_yaml("") is None and read_yaml("# a remark\n") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: 'a' comes twice"),
        ("x: &x [1, *x]", "line 1: an alias stands for something that holds it"),
        ("day: 2026-01-02", "line 1: of the kind 'timestamp'; if it is text, put it in quotes"),
        ("a: !!set {b}", "of the kind 'set'"),
        ("a: !own b", "of the kind '!own'"),
        ("? [a]\n: b", "line 1: a name that is no word"),
        ("n: " + "9" * 41, "line 1: a number of 41 digits"),
        ("n: 0b" + "1" * 500, "a number of 502 digits"),
        ("[1, 2", "not a YAML file: while parsing a flow sequence"),
        ("n: !!int ''", "not a YAML file: IndexError"),
        ("n: !!bool maybe", "not a YAML file: KeyError: 'maybe'"),
        ("a: *b", "found undefined alias 'b'"),
        ("a\x00", "not a YAML file: unacceptable character"),
        ("--- 1\n--- 2", "expected a single document"),
        ("#" * (MAX_CHARACTERS + 1), f"longer than {MAX_CHARACTERS:,} characters"),
        ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), f"nested more than {MAX_DEPTH} deep"),
        ("[" * 5_000 + "]" * 5_000, f"nested more than {MAX_DEPTH} deep"),
        (f"[{'1,' * MAX_VALUES}]", f"more than {MAX_VALUES:,} values"),
    ],
)
def test_what_is_refused_is_one_line_that_says_where(text, words):
    with pytest.raises(YamlError) as error:
        read_yaml(text)
    assert words in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_the_bounds_themselves_are_allowed():
    read_yaml("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
    assert len(read_yaml(f"[{'1,' * (MAX_VALUES - 1)}]")) == MAX_VALUES - 1
    assert read_yaml("9" * 40) == int("9" * 40)


@pytest.mark.parametrize("text", [code for code in CODE if "!!" in code])
def test_no_object_is_made(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(YamlError, match="of the kind 'python/"):
        read_yaml(f"title: {text}")
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("merged", [False, True])
def test_bombs_are_counted_before_they_go_off(merged):
    """Nine to the power of 40 values; PyYAML alone would merge them until the memory is full."""
    tracemalloc.start()
    try:
        started = time.monotonic()
        with pytest.raises(YamlError, match=r"more than 5,000 values, aliases included"):
            read_yaml(bomb(40, merged))
        assert time.monotonic() - started < 2
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()
