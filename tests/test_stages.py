"""What makes a notebook run again: code that does something else, and every setting that it uses."""

import dataclasses
import shutil

import pytest
from pretrain_xai import paths
from pretrain_xai.protocol import CORRECTED, PUBLISHED
from pretrain_xai.running.stages import STAGES, code_digest, fingerprint
from pretrain_xai.study import Study, load_study

#: the notebooks that load a fine-tuned network
LOADING = {"12_match_accuracy", "08_explanation_metrics", "17_score_switches", "16_sanity_checks"}
#: the notebooks that know which models are matched
MATCHING = {"12_match_accuracy", "07_find_intersections", "10_boxplots", "14_equal_accuracy"}
EXPLAINING = {"08_explanation_metrics", "09_heatmaps", "17_score_switches", "18_compare_protocols"}
EXPLAINING |= {"15_sensitivity", "16_sanity_checks"}

CODE = {
    "notebooks/count.py": "# %% [markdown]\n# # Count\n\n# %%\nfrom pretrain_xai.direct import count\n\ncount(2)\n",
    "lib/pretrain_xai/direct.py": (
        '"""Count."""\n\nfrom pretrain_xai import indirect\n\n\n'
        'def count(n):\n    """Count to n."""\n    return n + indirect.START\n'
    ),
    "lib/pretrain_xai/indirect.py": "START = 0  # where to start\n",
    "lib/pretrain_xai/unused.py": "STOP = 9\n",
}


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """Return a function that gives the digest of the notebook after an edit, each time in a new copy of the code."""

    def digest_after(file: str | None = None, old: str = "", new: str = "") -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in CODE.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            assert name != file or old in text
            (folder / name).write_text(text.replace(old, new) if name == file else text)
        monkeypatch.setattr(paths, "LIBRARY", folder / "lib" / "pretrain_xai")
        return code_digest(folder / "notebooks" / "count.py")

    return digest_after


EDITS = [
    ("notebooks/count.py", "# # Count", "# # Count to two\n#\n# In prose.", False),
    ("notebooks/count.py", "count(2)", "# %% [markdown]\n# A remark.\n\n# %%\ncount(2)  # to two", False),
    ("lib/pretrain_xai/direct.py", "Count to n.", "Count to n.\n\n    And no further.\n    ", False),
    ("lib/pretrain_xai/direct.py", '    """Count to n."""\n', "", False),
    ("lib/pretrain_xai/direct.py", "return n + indirect.START", "# why\n\n    return (n + indirect.START)", False),
    ("lib/pretrain_xai/unused.py", "9", "10", False),
    ("notebooks/count.py", "count(2)", "count(3)", True),
    ("lib/pretrain_xai/direct.py", "n + indirect", "n - indirect", True),
    ("lib/pretrain_xai/indirect.py", "START = 0", "START = 1", True),
    ("lib/pretrain_xai/indirect.py", "START = 0", "from pretrain_xai.unused import STOP\nSTART = 0", True),
]


@pytest.mark.parametrize(("file", "old", "new", "counts"), EDITS)
def test_what_code_does_counts_and_words_and_unused_code_do_not(digest, file, old, new, counts):
    assert (digest() != digest(file, old, new)) == counts


def test_code_of_the_library_counts_for_the_notebooks_that_import_it(tmp_path, monkeypatch):
    def digests(folder, old="", new="") -> dict[str, str]:
        shutil.copytree(paths.REPOSITORY / "lib", folder / "lib")
        training = folder / "lib" / "pretrain_xai" / "networks" / "training.py"
        assert old in training.read_text()
        training.write_text(training.read_text().replace(old, new))
        shutil.copytree(paths.REPOSITORY / "notebooks", folder / "notebooks")
        monkeypatch.setattr(paths, "LIBRARY", folder / "lib" / "pretrain_xai")
        return {name: code_digest(folder / "notebooks" / f"{name}.py") for name in STAGES}

    before, after = digests(tmp_path / "a"), digests(tmp_path / "b", "BATCH = 64", "BATCH = 65")
    changed = {name for name in STAGES if before[name] != after[name]}
    assert {"04_pretrain", "05_finetune", "08_explanation_metrics"} <= changed
    assert not changed & {"01_make_lesions", "02_make_slices", "03_build_dataset", "06_classification_metrics"}


def changed_by(study: Study, other: Study) -> set[str]:
    """Return the notebooks that run again; Snakemake compares what it printed, so that the order of a mapping counts."""
    return {name for name in STAGES if repr(fingerprint(study, name)) != repr(fingerprint(other, name))}


SETTINGS = [("title", "Another", set())]
SETTINGS += [("lesions.patches", {"train": 7, "validation": 5, "test": 5}, {"01_make_lesions", "03_build_dataset"})]
SETTINGS += [("slices.z_range", [0.0, 31.0], {"02_make_slices"})]
OF_NETWORKS = {"04_pretrain", "05_finetune", *LOADING}
SETTINGS += [("network.width", 0.5, OF_NETWORKS), ("threads", 2, OF_NETWORKS), ("device", "auto", OF_NETWORKS)]
SETTINGS += [("dataset.image_size", 96, {"03_build_dataset", "04_pretrain"})]
SETTINGS += [("dataset.lesion_intensity", 0.4, {"03_build_dataset"})]
SETTINGS += [("pretraining.learning_rate", 0.5, {"04_pretrain"})]
SETTINGS += [("pretraining.weights", {"mri": "mri.pt"}, {"04_pretrain"}), ("workers", 7, set())]
SETTINGS += [("finetuning.cache_gib", 0.0, set()), ("finetuning.training.momentum", 0.9, {"05_finetune"})]
SETTINGS += [("finetuning.matching.tolerance", 0.01, MATCHING)]
SETTINGS += [("finetuning.matching.checkpoints_per_epoch", 9, {"05_finetune", *MATCHING})]
SETTINGS += [("attribution.seed", 7, EXPLAINING), ("attribution.explained", "difference", EXPLAINING)]
SETTINGS += [("protocols.max_images", 2, {"18_compare_protocols"})]


@pytest.mark.parametrize(("place", "value", "notebooks"), SETTINGS)
def test_a_setting_counts_for_the_notebooks_that_use_it(place, value, notebooks):
    study = load_study("tiny")
    settings = study.model_dump(by_alias=True)
    *sections, name = place.split(".")
    section = settings
    for part in sections:
        section = section[part]
    assert section[name] != value
    section[name] = value
    assert changed_by(study, Study.model_validate(settings | {"name": "tiny"})) == notebooks


#: the first notebook that a switch changes; further ones get its results as their inputs
SWITCHED = {
    **dict.fromkeys(("lesion_floor", "round_never_shuffled", "shared_patch_pool"), "03_build_dataset"),
    **dict.fromkeys(("corner_placement", "shared_seed", "selection_on_test", "lesion_free_share"), "03_build_dataset"),
    **dict.fromkeys(("first_conv_frozen", "head_kept", "dropout_active"), "05_finetune"),
    "swapped_rates": "06_classification_metrics",
    **dict.fromkeys(("channel_reduction", "mask_threshold", "ties", "signed_edges"), "08_explanation_metrics"),
    **dict.fromkeys(("captum_deep_lift", "gradient_shap_unseeded"), "08_explanation_metrics"),
}


@pytest.mark.parametrize("switch", [field.name for field in dataclasses.fields(CORRECTED)])
def test_a_switch_counts_for_the_notebook_that_uses_it_and_not_for_those_before(switch):
    study = load_study("tiny")
    value = getattr(PUBLISHED, switch)
    value = 0.25 if value == getattr(study.protocol, switch) else value
    changed = changed_by(study, study.model_copy(update={"switches": {switch: value}}))
    assert min(changed) == SWITCHED[switch]


def test_the_selection_that_is_shown_first_counts_for_what_is_shown_and_explains_nothing_again():
    study = load_study("paper")
    turned = dict(reversed(study.finetuning.selections.items()))
    other = study.model_copy(update={"finetuning": study.finetuning.model_copy(update={"selections": turned})})
    drawn = {"06_classification_metrics", "09_heatmaps", "10_boxplots", "11_boxplots_incorrect", "13_statistics"}
    changed = changed_by(study, other)
    assert drawn <= changed
    assert not changed & {"05_finetune", "08_explanation_metrics", "16_sanity_checks"}
