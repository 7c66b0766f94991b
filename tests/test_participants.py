"""The table of subjects: strict to read, dealt to disjoint splits."""

import math
from collections import Counter

import pandas as pd
import pytest
from fuzz import survive
from hypothesis import given
from hypothesis import strategies as st
from pretrain_xai.settings.slices import Participants
from pretrain_xai.slices.files import SourceError
from pretrain_xai.slices.participants import check_splits, deal, read_age, read_participants, read_sex

TABLE = "participant_id\tsex\tage\thandedness\nsub-01\tF\t22-25\tL\nsub-02\tmale\t31.5\tR\nsub-03\tn/a\tn/a\tR\n"


def written(folder, content: str | bytes, name: str = "participants.tsv"):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_bids_table_is_read(tmp_path):
    table = read_participants(written(tmp_path, "\ufeff" + TABLE + "\n"), Participants(), "handedness")
    assert table.index.tolist() == ["01", "02", "03"]
    assert table["sex"].tolist() == ["F", "M", ""]
    assert table["age"].tolist()[:2] == [23.5, 31.5] and math.isnan(table["age"].iloc[2])
    assert table["handedness"].tolist() == ["L", "R", "R"]


def test_a_table_with_commas_and_other_names_is_read(tmp_path):
    path = written(tmp_path, 'Subject,Gender,Age,"Note, long"\r\n100307,F,26-30,"a, b"\r\n100408,M,36+,\r\n', "hcp.csv")
    table = read_participants(path, Participants(subject="Subject", sex="Gender", age="Age"), "sex")
    assert table.to_dict("index") == {"100307": {"sex": "F", "age": 28.0}, "100408": {"sex": "M", "age": 36.0}}
    table = read_participants(path, Participants(subject="Subject", sex="Gender", age=None), "Gender")
    assert table["age"].isna().all() and table["Gender"].tolist() == ["F", "M"]


@pytest.mark.parametrize(
    ("text", "sex"), [("f", "F"), (" Female", "F"), ("MALE", "M"), ("0", "0"), ("1", "1"), ("N/A", ""), ("x", "x")]
)
def test_sex_in_its_spellings(text, sex):
    assert read_sex(text) == sex


@pytest.mark.parametrize("text", ["old", "-3", "1e3", "3-4-5", "²²", "22 years"])
def test_what_is_no_age_is_refused(text):
    with pytest.raises(ValueError, match="is no age"):
        read_age(text)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (TABLE.replace("sub-02", "sub-01"), "01 more than once"),
        (TABLE.replace("sub-02", "01"), "01 more than once"),
        (TABLE.replace("\tsex", "\tSex"), "no column 'sex' (slices.participants.sex)"),
        (TABLE.replace("\tsex", "\tgender"), "it has participant_id, gender, age"),
        (TABLE.replace("\tsex", "\tage"), "no column 'sex'"),
        (TABLE.replace("handedness", "sex"), "'sex' comes 2 times"),
        (TABLE.replace("\tmale", ""), "line 3 has 3 fields, the header 4; fields are separated by tabs"),
        (TABLE.replace("\t", ","), "no column 'participant_id'"),
        (TABLE.replace("31.5", "?"), "02: '?' is no age"),
        (TABLE.replace("sub-02", ""), "row 2 has no subject"),
        (TABLE.encode("utf-16"), "not UTF-8 (byte 0)"),
        (TABLE.replace("sub-02", "sub-é").encode("latin-1"), "not UTF-8 (byte 55)"),
        ("participant_id\tsex\tage\n", "no subjects"),
        ("", "no subjects"),
    ],
)
def test_a_wrong_table_is_one_line_that_names_it(tmp_path, content, words):
    with pytest.raises(SourceError) as error:
        read_participants(written(tmp_path, content), Participants(), "sex")
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)
    assert words in str(error.value)


def test_a_missing_target_names_its_setting(tmp_path):
    with pytest.raises(SourceError, match=r"'diagnosis' \(pretraining\.target\)"):
        read_participants(written(tmp_path, TABLE), Participants(), "diagnosis")
    with pytest.raises(SourceError, match=r"absent\.tsv is missing; set slices\.participants\.file"):
        read_participants(tmp_path / "absent.tsv", Participants(), "sex")


@pytest.mark.parametrize("name", ["participants.tsv", "participants.csv"])
def test_no_mutation_of_a_table_does_harm(tmp_path, name):
    content = TABLE.replace("\t", "," if name.endswith("csv") else "\t").encode()
    path = written(tmp_path, content, name)
    assert survive(path, content, 40, lambda: read_participants(path, Participants(), "sex"), SourceError) > 0


classes = st.dictionaries(
    st.text("abc123", min_size=1, max_size=5), st.sampled_from(["F", "M"]), min_size=8, max_size=60
)


@given(classes, st.integers(0, 3))
def test_splits_are_disjoint_and_complete_and_repeat_whatever_the_order(subjects, seed):
    splits = {"train": 0.5, "validation": 0.25, "test": 0.25}
    of, reserve = deal(subjects, splits, seed)
    assert reserve == [] and set(of) == set(subjects)
    counts = Counter(of.values())
    assert all(abs(counts[split] - share * len(subjects)) <= 1 for split, share in splits.items())
    assert (of, reserve) == deal(dict(reversed(subjects.items())), splits, seed)


@given(st.integers(6, 40), st.integers(6, 40), st.integers(0, 100))
def test_every_split_has_its_share_of_every_class(women, men, seed):
    subjects = {f"w{n}": "F" for n in range(women)} | {f"m{n}": "M" for n in range(men)}
    of, _ = deal(subjects, {"pretraining": 0.5, "test": 0.5}, seed)
    for sex, count in (("F", women), ("M", men)):
        assert abs(sum(split == "test" for name, split in of.items() if subjects[name] == sex) - count / 2) <= 2


def test_seeds_deal_differently_and_who_is_left_over_is_in_reserve():
    subjects = {f"{n}": "FM"[n % 2] for n in range(20)}
    dealt = [deal(subjects, {"train": 8, "test": 4}, seed) for seed in (0, 1)]
    assert dealt[0] != dealt[1]
    for of, reserve in dealt:
        assert Counter(of.values()) == {"train": 8, "test": 4} and len(reserve) == 8
        assert set(of) | set(reserve) == set(subjects)


def test_too_few_subjects_and_empty_splits_are_errors():
    subjects = {"a": "F", "b": "M", "c": "F"}
    with pytest.raises(SourceError, match="asks for 4 subjects, but only 3 can be used"):
        deal(subjects, {"train": 3, "test": 1}, 0)
    with pytest.raises(SourceError, match="test would have none of 3 subjects"):
        deal(subjects, {"train": 0.9, "test": 0.1}, 0)


def rows(**splits: str) -> pd.DataFrame:
    return pd.DataFrame([{"split": split, "sex": sex} for split, sexes in splits.items() for sex in sexes])


def test_what_a_study_needs_of_its_splits():
    splits = ["pretraining", "pretraining_validation", "train"]
    check_splits(rows(pretraining="FM", pretraining_validation="MF", train="F"), splits, "sex")
    for table, words in (
        (rows(pretraining="FM", pretraining_validation="MF"), "no slice is left for train"),
        (rows(pretraining="FF", pretraining_validation="MF", train="F"), "pretraining has no subject with sex M"),
        (
            rows(pretraining="FM", pretraining_validation="M", train="F"),
            "pretraining_validation has no subject with sex F",
        ),
        (rows(pretraining="F", pretraining_validation="F", train="F"), r"sex has 1 values \(F\)"),
    ):
        with pytest.raises(SourceError, match=words):
            check_splits(table, splits, "sex")
    check_splits(rows(train="F"), ["train"], "sex")
    many = pd.DataFrame({"split": splits * 20, "age": range(60)})
    with pytest.raises(SourceError, match="age has 60 values"):
        check_splits(many, splits, "age")
