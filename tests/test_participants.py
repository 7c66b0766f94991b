"""The table of subjects: strict to read, dealt to disjoint splits."""

import math
from collections import Counter

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretrain_xai.settings.slices import Participants
from pretrain_xai.slices.files import SourceError, check_splits, deal, read_age, read_participants, read_sex

TABLE = "participant_id\tsex\tage\thandedness\nsub-01\tF\t22-25\tL\nsub-02\tmale\t31.5\tR\nsub-03\tn/a\tn/a\tR\n"


def read(folder, content: str | bytes, target: str = "sex", **columns) -> pd.DataFrame:
    columns = Participants(**columns)
    (folder / columns.file).write_bytes(content.encode() if isinstance(content, str) else content)
    return read_participants(folder, columns, target)


def test_a_bids_table_is_read(tmp_path):
    table = read(tmp_path, "\ufeff" + TABLE.replace("male", '"male') + "\n\t\t\t\n", "handedness")
    assert table.index.tolist() == ["01", "02", "03"]
    assert table["sex"].tolist() == ["F", '"male', ""], "a quote is a character like any other"
    assert table["age"].tolist()[:2] == [23.5, 31.5] and math.isnan(table["age"].iloc[2])
    assert table["handedness"].tolist() == ["L", "R", "R"]


def test_a_table_with_commas_and_other_names_is_read(tmp_path):
    content = 'Subject,Gender,Age,"Note, long"\r\n100307,F,26-30,"a, b"\r\n100408,M,36+,\r\n'
    names = {"file": "hcp.csv", "subject": "Subject", "sex": "Gender"}
    table = read(tmp_path, content, age="Age", **names)
    assert table.to_dict("index") == {"100307": {"sex": "F", "age": 28.0}, "100408": {"sex": "M", "age": 36.0}}
    table = read(tmp_path, content, "Gender", age=None, **names)
    assert table["age"].isna().all() and table["Gender"].tolist() == ["F", "M"]


def test_sex_in_its_spellings_and_what_is_no_age():
    assert list(map(read_sex, ["f", " Female", "MALE", "0", "N/A", "x"])) == ["F", "F", "M", "0", "", "x"]
    for text in ("old", "-3", "1e3", "3-4-5", "²²", "22 years"):
        with pytest.raises(ValueError, match="is no age"):
            read_age(text)


WRONG_TABLES = [(TABLE.replace("sub-02", "sub-01"), "more than once or without a name: '01'")]
WRONG_TABLES += [(TABLE.replace("sub-02", "01"), "name: '01'")]
WRONG_TABLES += [(TABLE.replace("\tsex", "\tSex"), "one column 'sex' is expected, it has participant_id, Sex, age")]
WRONG_TABLES += [(TABLE.replace("\t", ","), "one column 'participant_id'")]
WRONG_TABLES += [(TABLE.replace("\tmale", ""), r"row 2 has fewer or more fields, separated by '\t'")]
WRONG_TABLES += [(TABLE.encode("utf-16"), "not UTF-8")]
WRONG_TABLES += [(TABLE.replace("sub-02", "sub-é").encode("latin-1"), "position 55"), ("", "not enough values")]


@pytest.mark.parametrize(("content", "words"), WRONG_TABLES)
def test_a_wrong_table_is_one_line_that_names_it(tmp_path, content, words):
    with pytest.raises(SourceError) as error:
        read(tmp_path, content)
    assert str(error.value).startswith(str(tmp_path)) and words in str(error.value)


def test_a_missing_target_names_its_setting(tmp_path):
    with pytest.raises(SourceError, match=r"'diagnosis' is expected.*pretraining\.target"):
        read(tmp_path, TABLE, "diagnosis")
    with pytest.raises(SourceError, match=r"absent\.tsv.*No such file"):
        read_participants(tmp_path, Participants(file="absent.tsv"), "sex")


NAMES = st.sampled_from(["participant_id", "sex", "age", "Age", "", "\ufeffsex", "handedness"])
CELLS = st.sampled_from(["", "n/a", "F", "31", "26-30", "-1", "1e9", "sub-01", "01", " 01 ", "é", '"', '"a', "a,b"])
CELLS |= st.sampled_from(["$(touch hacked)", "9" * 400, "\x00"]) | st.text(max_size=5)
HEADERS = st.just(["participant_id", "sex", "age"]) | st.lists(NAMES, min_size=1, max_size=5)
ROWS = st.lists(st.tuples(CELLS, st.sampled_from("FM"), CELLS) | st.lists(CELLS, max_size=5), max_size=6)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1", "shift_jis", "utf-7"])


@given(HEADERS, ROWS, ENCODINGS, st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["odd.tsv", "odd.csv"]))
def test_no_odd_table_does_harm(tmp_path, monkeypatch, header, rows, encoding, end, name):
    monkeypatch.chdir(tmp_path)
    separator = "," if name == "odd.csv" else "\t"
    text = end.join(separator.join(row) for row in (header, *rows))
    try:
        table = read(tmp_path, text.encode(encoding, "replace"), file=name)
    except SourceError as error:
        assert "\n" not in str(error) and str(error).startswith(str(tmp_path))
    else:
        assert table.index.is_unique and "" not in table.index
        assert table["age"].isna().any() or table["age"].between(0, 999).all()
    assert not (tmp_path / "hacked").exists()


NAMED = st.text("abc123", min_size=1, max_size=5)
CLASSES = st.dictionaries(NAMED, st.sampled_from(["F", "M"]), min_size=8, max_size=60)


@given(CLASSES, st.integers(0, 3))
def test_splits_are_disjoint_and_complete_and_repeat_whatever_the_order(subjects, seed):
    splits = {"train": 0.5, "validation": 0.25, "test": 0.25}
    of, reserve = deal(subjects, splits, seed)
    assert reserve == [] and set(of) == set(subjects)
    counts = Counter(of.values())
    assert all(abs(counts[split] - share * len(subjects)) <= 1 for split, share in splits.items())
    assert (of, reserve) == deal(dict(reversed(subjects.items())), splits, seed)
    of, reserve = deal(subjects, {"train": 5, "test": 2}, seed)
    assert Counter(of.values()) == {"train": 5, "test": 2} and {*of, *reserve} == set(subjects)


@given(st.integers(6, 40), st.integers(6, 40), st.integers(0, 100))
def test_every_split_has_its_share_of_every_class(women, men, seed):
    subjects = {f"w{n}": "F" for n in range(women)} | {f"m{n}": "M" for n in range(men)}
    of, _ = deal(subjects, {"pretraining": 0.5, "test": 0.5}, seed)
    for sex, count in (("F", women), ("M", men)):
        assert abs(sum(split == "test" for name, split in of.items() if subjects[name] == sex) - count / 2) <= 2


def test_too_few_subjects_and_empty_splits_are_errors():
    subjects = {"a": "F", "b": "M", "c": "F"}
    with pytest.raises(SourceError, match="asks for 4 subjects, but only 3 can be used"):
        deal(subjects, {"train": 3, "test": 1}, 0)
    with pytest.raises(SourceError, match="test would have none of 3 subjects"):
        deal(subjects, {"train": 0.9, "test": 0.1}, 0)


SPLITS = ["pretraining", "pretraining_validation", "train"]


def of_splits(*sexes: str) -> pd.DataFrame:
    rows = [(SPLITS[place % 3], sex) for place, of_split in enumerate(sexes) for sex in of_split]
    return pd.DataFrame(rows, columns=["split", "sex"])


def test_what_a_study_needs_of_its_splits():
    table = of_splits("FM", "MF", "F")
    check_splits(table, SPLITS, "sex")
    check_splits(table.query("split == 'train'"), ["train"], "sex")
    for sexes, words in (
        (("FM", "MF", ""), "no slice is left for train"),
        (("FF", "MF", "F"), "pretraining has no subject with sex M"),
        (("FM", "M", "F"), "pretraining_validation has no subject with sex F"),
        (("F", "F", "F"), r"sex has 1 values \(F\)"),
        (tuple(map(chr, range(60))) * 3, "sex has 60 values"),
    ):
        with pytest.raises(SourceError, match=words):
            check_splits(of_splits(*sexes), SPLITS, "sex")
