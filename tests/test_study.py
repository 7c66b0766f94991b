"""Study files: one clear line for whatever is wrong."""

import dataclasses
import functools
import math
import operator

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pretrain_xai import paths
from pretrain_xai.batch import main
from pretrain_xai.errors import UserError
from pretrain_xai.paths import Paths
from pretrain_xai.protocol import CORRECTED, PUBLISHED, Protocol
from pretrain_xai.running.prerequisites import check_attribution
from pretrain_xai.study import Run, Study, StudyError, load_study

STUDIES = sorted(path.stem for path in (paths.REPOSITORY / "studies").glob("*.yaml"))


FOUR_EACH = {"train": 4, "validation": 4, "test": 4}
CELLS = {corpus: {"learning_rate": 0.1, "seeds": [0]} for corpus in ("natural", "mri")}


def tiny_settings() -> dict:
    return yaml.safe_load((paths.REPOSITORY / "studies" / "tiny.yaml").read_text())


def edited(root, *changes) -> str:
    """Write a copy of the tiny study with settings changed, each given as place and value, and return its name."""
    settings = tiny_settings()
    for place, value in zip(changes[::2], changes[1::2], strict=True):
        *sections, name = place.split(".")
        functools.reduce(operator.getitem, sections, settings)[name] = value
    (root / "studies" / "edited.yaml").write_text(yaml.safe_dump(settings))
    return "edited"


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_file_is_valid(name):
    study = load_study(name)
    check_attribution(study)
    runs = list(study.runs())
    assert len(runs) == len(set(runs)) > 0


def test_matching_adds_a_selection_with_the_models_of_best_and_trains_none(root):
    study = load_study("tiny")
    matched = list(study.checkpoint_runs())
    assert [dataclasses.replace(run, selection="best") for run in matched] == list(study.runs())[: len(matched)]
    assert study.learning_rate(matched[0]) == 0.001
    assert study.kept_checkpoints == {"per_epoch": 2, "lowest_rate": 0.0}
    assert study.image_limits["matched"] == {"max_images": 3, "misclassified": False}
    assert study.image_limits["best"] == {"max_images": 4, "misclassified": True}
    alone = load_study(edited(root, "finetuning.matching", None))
    assert list(alone.checkpoint_runs()) == [] and alone.kept_checkpoints is None
    assert set(alone.image_limits) == {"best"}


def test_variants_keep_no_checkpoints(root):
    for variant in ("reseed1", "head_kept", "published"):
        study = load_study(f"tiny+{variant}")
        assert study.kept_checkpoints is None
        assert {run.selection for run in study.runs()} == {"best"}


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("dataset.image_size", "96", ["dataset.image_size", "integer", "'96'"]),
        ("dataset.image_sise", 96, ["dataset.image_sise", "not permitted"]),
        ("threads", 1.5, ["threads", "integer"]),
        ("pretraining.corpora", ["imagenette"], ["pretraining.corpora", "natural", "mri"]),
        ("finetuning.depths", [6], ["finetuning.depths", "6"]),
        ("finetuning.training.epochs", 0, ["finetuning.training.epochs", "greater than 0"]),
        ("switches", {"tie": "strict"}, ["switches", "'tie'", "did you mean 'ties'"]),
        ("switches", {"ties": "sometimes"}, ["switches.ties", "expected", "strict", "'sometimes'"]),
        ("switches", {"dropout_active": "yes"}, ["switches.dropout_active", "'yes'"]),
        ("lesions.patches", {"train": 5}, ["lesions.patches", "test, validation"]),
        ("finetuning.selections.best.mri.learning_rate", [0.1, 0.2], ["learning_rate", "5 items", "[0.1, 0.2]"]),
        ("finetuning.selections", {}, ["finetuning.selections", "at least 1"]),
        ("finetuning.selections.best.mri.seeds", [-1], ["finetuning.selections.best.mri.seeds", "from 0", "[-1]"]),
        ("finetuning.selections.best.mri.seeds", [3, 3], ["finetuning.selections.best.mri.seeds", "3 more than once"]),
        ("finetuning.selections.best.mri.seeds", [[0], [1], [], [2], [3]], ["best.mri.seeds", "at least one", "[]"]),
        ("finetuning.selections.best.mri.seeds", [[0], [1]], ["finetuning.selections.best.mri.seeds", "5 items"]),
        ("finetuning.matching.tolerance", 0.03, ["finetuning.matching.tolerance", "0.02", "0.03"]),
        ("finetuning.selections", {"matched": CELLS}, ["finetuning", "have best alone", "found matched"]),
        ("finetuning.selections", {"best": CELLS, "matched": CELLS}, ["finetuning", "found best, matched"]),
        ("finetuning.depths", [1, 1, 5], ["finetuning.depths", "1 more than once"]),
        ("pretraining.corpora", [], ["pretraining.corpora", "at least 1"]),
        ("attribution.seed", -1, ["attribution.seed", "greater than or equal to 0", "-1"]),
        ("dataset.seed_bases", {"test": 60000}, ["dataset.seed_bases", "no entry for train, validation"]),
        ("expected_slices", FOUR_EACH, ["expected_slices", "pretraining, pretraining_v"]),
        ("protocols.depths", [1, 3], ["protocols.depths", "[3]", "depths that are explained"]),
        ("attribution.depths", [1, 3], ["attribution.depths", "[3]", "finetuning.depths"]),
        ("network.width", math.inf, ["network.width", "finite number"]),
        ("switches", {"lesion_floor": math.nan}, ["switches.lesion_floor", "finite number"]),
        ("attribution.methods", ["saliency'; touch hacked; '"], ["attribution.methods", "match pattern"]),
        ("dataset.seed_bases", {"../../train": 0}, ["dataset.seed_bases", "match pattern"]),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(root, place, value, words):
    with pytest.raises(StudyError) as error:
        load_study(edited(root, place, value))
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in ["edited.yaml", *words])


def test_an_unknown_method_is_one_line_before_anything_runs(root, capfd):
    study = edited(root, "attribution.methods", ["integrated_gradient"])
    assert main([study]) == 2
    printed = capfd.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1
    assert "did you mean 'integrated_gradients'" in printed.err
    assert not (root / "data").exists()


def test_an_unknown_option_of_a_method_is_refused(root):
    study = load_study(edited(root, "attribution.options", {"integrated_gradients": {"n_step": 4}}))
    with pytest.raises(StudyError, match="n_steps"):
        check_attribution(study)


@pytest.mark.parametrize("options", [{"window": 8, "stride": 9}, {"window": 65}, {"stride": 17}])
def test_squares_that_do_not_fit_the_images_are_refused_before_anything_runs(root, options):
    study = load_study(edited(root, "attribution.options", {"occlusion": options}))  # images have 64 px
    with pytest.raises(StudyError, match=r"attribution: occlusion got window=.* side of 64 px: stride must be"):
        check_attribution(study)
    check_attribution(load_study(edited(root, "attribution.options", {"occlusion": {"window": 64, "stride": 64}})))


def test_a_missing_study_names_those_there_are():
    with pytest.raises(StudyError, match=r"no study 'dmeo'.*did you mean 'demo'"):
        load_study("dmeo")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[1, 2", "not a YAML file"),
        (b"- a\n- b", "valid dictionary"),
        (b"title: !!python/object/apply:os.system ['touch hacked']", "not a YAML file"),
        (b"", "valid dictionary"),
        ("title: é".encode("latin-1"), "can't decode byte 0xe9 in position 7"),
        (b"unknown: " + b"x" * 20_000, "title: Field required"),
    ],
)
def test_what_is_no_settings_file_is_refused_in_one_line(root, content, words, monkeypatch):
    monkeypatch.chdir(root)
    (root / "studies" / "broken.yaml").write_bytes(content)
    with pytest.raises(StudyError, match=r"broken\.yaml") as error:
        load_study("broken")
    assert words in str(error.value) and len(str(error.value)) < 2_500 and "\n" not in str(error.value)
    assert not (root / "hacked").exists()


def test_a_setting_that_comes_twice_is_refused_not_overruled(root):
    text = (root / "studies" / "tiny.yaml").read_text()
    (root / "studies" / "twice.yaml").write_text(f"{text}\nthreads: 1\nthreads: 2\n")
    with pytest.raises(StudyError, match=r"twice\.yaml: .*'threads' comes twice"):
        load_study("twice")


@pytest.mark.parametrize("name", ["../demo", "/etc", "", ".", "demo;touch x", "demo+../x", "de mo", "a\nb", "x" * 101])
def test_a_name_that_leaves_the_folder_of_studies_is_none(root, name):
    for use_name in (load_study, lambda name: Paths(name).data, lambda name: Paths(name).scores):
        with pytest.raises(UserError, match="is no name of a study") as error:
            use_name(name)
        assert "\n" not in str(error.value)


PLAIN = st.none() | st.booleans() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(PLAIN, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=5), part))


@given(VALUES, st.sampled_from(sorted(tiny_settings())))
def test_any_value_for_any_section_gives_a_study_or_a_study_error(root, value, section):
    try:
        assert isinstance(load_study(edited(root, section, value)), Study)
    except StudyError as error:
        assert "\n" not in str(error)


def test_switches_override_single_fields_of_the_protocol(root):
    study = load_study(edited(root, "switches", {"ties": "strict", "lesion_floor": 0.1}))
    assert study.protocol == dataclasses.replace(CORRECTED, ties="strict", lesion_floor=0.1)
    assert study.protocol_name == "corrected+lesion_floor=0.1+ties=strict"


def test_published_differs_from_corrected_in_every_switch():
    for field in dataclasses.fields(Protocol):
        assert getattr(PUBLISHED, field.name) != getattr(CORRECTED, field.name), field.name


def test_models_of_some_depths_alone_can_be_explained(root):
    study = load_study(edited(root, "protocols", {}, "attribution.depths", [5]))
    assert {run.finetune_depth for run in study.runs() if run.selection == "best"} == {1, 5}
    assert {run.finetune_depth for run in study.explained_runs()} == {5} == set(study.compared_depths)
    assert {run.finetune_depth for run in study.checkpoint_runs()} == {5}, "no model is matched only to be left out"
    assert study.scored_runs() == [*study.explained_runs(), *study.untrained_runs()]


def test_learning_rates_and_seeds_per_depth(root):
    cells = {
        "natural": {"learning_rate": [0.1, 0.2, 0.3, 0.4, 0.5], "seeds": [[1], [2], [3], [4], [5, 6]]},
        "mri": {"learning_rate": 0.7, "seeds": [9]},
    }
    study = load_study(edited(root, "finetuning.selections", {"best": cells}))
    assert study.learning_rate(Run("best", "natural", 5, 6)) == 0.5
    assert study.learning_rate(Run("best", "mri", 1, 9)) == 0.7


def test_what_a_study_has_not_is_named_with_what_it_has(root):
    study = load_study("paper")
    assert study.check_selection("matched") == "matched"
    study.check_metric("relevance_rank_accuracy")
    study.check_corpus("imagenet")
    for check, words in (
        (lambda: study.check_selection("bset"), r"'bset' \(did you mean 'best'\?\); there are: best, matched"),
        (lambda: study.check_metric("tpr"), "'tpr'; there are: relevance_rank_accuracy"),
        (lambda: study.check_corpus("natural"), "'natural'; there are: imagenet, mri"),
        (lambda: study.check_run(Run("best", "mri", 1, 77)), "'best-mri-depth1-seed77'.*there are: best-imagenet"),
    ):
        with pytest.raises(StudyError, match=f"^this study .* {words}"):
            check()


def several_pretrainings(root, seeds: list[int], **weights) -> str:
    """Write a copy of the tiny study with several pre-trainings per corpus, and return its name."""
    cells = {corpus: {"learning_rate": 0.001, "seeds": seeds} for corpus in ("natural", "mri")}
    pretraining = tiny_settings()["pretraining"] | {"seeds": [4, 9], "weights": weights}
    return edited(root, "pretraining", pretraining, "finetuning.selections.best", cells)


def test_each_seed_of_fine_tuning_starts_from_a_pre_training_of_its_own(root):
    study = load_study(several_pretrainings(root, [7, 3]))
    expected = {7: 4, 3: 9}
    assert all(study.pretraining_seed(run) == expected[run.seed] for run in study.runs())
    reseeded = load_study("edited+reseed1")
    assert {reseeded.pretraining_seed(run) for run in reseeded.runs()} == {4, 9}
    one = load_study("tiny")
    assert {one.pretraining_seed(run) for run in one.runs()} == {0}
    with pytest.raises(StudyError, match=r"2 seeds of fine-tuning at every depth of (natural|mri) are expected"):
        load_study(several_pretrainings(root, [7, 3, 1]))


def test_weights_that_are_brought_are_one_pre_training(root):
    study = load_study(several_pretrainings(root, [7, 3], natural="natural.safetensors"))
    found = {(run.pretraining, run.seed): study.pretraining_seed(run) for run in study.runs()}
    assert found == {("natural", 7): 4, ("natural", 3): 4, ("mri", 7): 4, ("mri", 3): 9}
