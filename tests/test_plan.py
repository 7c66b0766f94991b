"""The plan: its jobs are those of the batch, its sums are those of a literal count, and it names what is missing."""

import json
import shutil
import subprocess

import pytest
import yaml
from pretrain_xai import paths, plan
from pretrain_xai.plan import RIGHT_FOR_ALL, WRONG, Job, Plan, image_counts, planned_jobs, requested
from pretrain_xai.provenance import write_text
from pretrain_xai.study import StudyError, load_study

#: seconds and bytes that are easy to follow
BY_DEPTH = {str(depth): {"epoch": 0.001 * depth, "before": 0.1} for depth in (1, 2, 3, 4, 5)}
TRAINING = {"by_depth": BY_DEPTH, "prediction": 0.003, "bytes": 2**30, "memory": 6.0}
MEASURED = {"notebook": {"start": 2.0, "memory": 0.1}, "training": TRAINING}
MEASURED["attribution"] = {"image": 0.5, "layers": 11, "memory": 4.0}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> dict[str, list[Job]]:
    """Return the jobs of the demo, of demo3 and of the paper in an empty root folder."""
    root = tmp_path_factory.mktemp("planned")
    shutil.copytree(paths.REPOSITORY / "studies", root / "studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRETRAIN_XAI_ROOT", str(root))
        found = {study: planned_jobs(study) for study in ("demo", "demo3", "paper")}
    assert not (root / "data").exists() and not (root / "papermill_runs").exists()
    return found


def test_the_jobs_are_those_that_the_batch_runs(jobs):
    jobs, study = jobs["demo"], load_study("demo")
    numbers = {rule: sum(job.rule == rule for job in jobs) for rule in ("pretrain", "finetune", "explanation_metrics")}
    assert numbers == {"pretrain": 4, "finetune": 20, "explanation_metrics": 16 + 5}
    assert Job("report", {}) in jobs
    names = {(j.wildcards["pretraining"], j.wildcards["finetune_depth"]) for j in jobs if j.rule == "finetune"}
    assert names == {(run.pretraining, str(run.finetune_depth)) for run in study.runs()}
    assert not any(job.rule == "match_accuracy" for job in jobs)


def test_a_study_of_one_selection_can_be_planned(root):
    settings = yaml.safe_load((root / "studies" / "tiny.yaml").read_text())
    settings["finetuning"]["matching"] = None
    (root / "studies" / "one.yaml").write_text(yaml.safe_dump(settings))
    rules = [job.rule for job in planned_jobs("one")]
    assert (rules.count("finetune"), rules.count("boxplots"), rules.count("report")) == (4, 1, 1)


def test_each_pre_training_is_a_job_and_networks_from_scratch_start_from_random_weights(root):
    settings = yaml.safe_load((root / "studies" / "tiny.yaml").read_text())
    corpora = ["natural", "mri", "scratch"]
    settings["pretraining"] |= {"corpora": corpora, "seeds": [4, 9]}
    cells = {corpus: {"learning_rate": 0.001, "seeds": [0, 1]} for corpus in corpora}
    settings["finetuning"] |= {"selections": {"best": cells}, "matching": None}
    (root / "studies" / "several.yaml").write_text(yaml.safe_dump(settings))
    found = {}
    for job in planned_jobs("several"):
        found.setdefault(job.rule, set()).add((job.wildcards.get("pretraining"), job.wildcards.get("seed")))
    assert found["pretrain"] == {("natural", "4"), ("natural", "9"), ("mri", "4"), ("mri", "9")}
    assert found["take_weights"] == {("scratch", "4"), ("scratch", "9")}
    assert found["finetune"] == {(corpus, seed) for corpus in corpora for seed in ("0", "1")}


def test_the_paper_can_be_planned_without_its_data(root, jobs):
    jobs = jobs["paper"]
    numbers = {rule: sum(job.rule == rule for job in jobs) for rule in {job.rule for job in jobs}}
    assert (numbers["finetune"], numbers["explanation_metrics"], numbers["take_weights"]) == (60, 62, 2)
    lacking = "\n".join(plan.missing(load_study("paper")))
    for word in ("data/hcp", "MRI_pretrained_model.pt", "IMAGENET1K_V1", "528 MB"):
        assert word in lacking


def test_nothing_is_planned_of_what_is_finished(tiny):
    assert planned_jobs(tiny) == []
    assert sum(image_counts(load_study(tiny)).values()) == (8 + 4 + 12 + 6 + 8) * 4


def test_costs_are_those_of_a_literal_count(root, jobs):
    study = load_study("demo")
    counts = image_counts(study)
    assert (counts["train"], counts["test"]) == (1600, 480)
    costs = Plan(study, jobs["demo"], counts, MEASURED).costs()
    depths = [run.finetune_depth for run in study.runs() if run.selection == "best"]
    fine_tuned = study.finetuning.training.epochs * 0.001 * sum(depths) * (1600 + 400)
    fine_tuned += len(depths) * (2.0 + 0.1 * (1600 + 400) + 0.003 * (400 + 480))
    assert costs.loc["finetune"].tolist() == pytest.approx([20, fine_tuned, 6.0])
    right, wrong = min(60, RIGHT_FOR_ALL * 480), min(60, WRONG * 480)
    explained = 4 * 4 * (2.0 + 0.5 * (right + wrong + 6)) + 5 * (2.0 + 0.5 * (right + 6))  # depths 2 to 5; untrained
    assert costs.seconds["explanation_metrics"] == pytest.approx(explained, rel=0.01)
    epochs = study.pretraining.training.epochs
    natural = 2.0 + 16 * (100 + 25) * (0.1 + epochs * 0.005)
    mri = 2.0 + (120 + 30) * 8 * (0.1 + epochs * 0.005)
    assert costs.seconds["pretrain"] == pytest.approx(2 * (natural + mri))
    assert costs.seconds["sanity_checks"] == pytest.approx(2.0 + 0.5 * 16 * (12 + 4))
    assert costs.seconds["report"] == 2.0


def test_costs_of_matched_models_are_those_of_a_literal_count(root, jobs):
    study = load_study("demo3")
    costs = Plan(study, jobs["demo3"], image_counts(study), MEASURED).costs()
    n_explained, n_untrained, n_trained = 3 * 4 * 4, 2 * 5, 3 * 4 * 5
    assert costs.seconds["match_accuracy"] == pytest.approx(2.0 + n_explained * 0.003 * (400 + 480))
    epochs, checked = study.finetuning.training.epochs, 0.0
    for run in (run for run in study.runs() if run.selection == "best"):
        checked += epochs * (0.001 * run.finetune_depth * (1600 + 400) + (4 - 1) * 400 * 0.003)
    before = n_trained * (2.0 + 0.1 * (1600 + 400) + 0.003 * (400 + 480))
    assert costs.loc["finetune"].tolist() == pytest.approx([n_trained, before + checked, 6.0])
    right, wrong, matched = min(60, RIGHT_FOR_ALL * 480), min(60, WRONG * 480), 50
    explained = n_explained * (4.0 + 0.5 * (right + wrong + matched + 12))  # of matched models none that is wrong
    explained += n_untrained * 2.0 + 5 * 0.5 * (right + matched + 12)
    assert costs.seconds["explanation_metrics"] == pytest.approx(explained, rel=0.01)


def test_what_runs_on_a_card_is_unknown_and_not_invented(root, jobs):
    study = load_study("demo")
    on_card = Plan(study, jobs["demo"], image_counts(study), MEASURED, on_card=True)
    costs = on_card.costs()
    assert set(costs.index[costs["seconds"].isna()]) == {"pretrain", "finetune", "explanation_metrics", "sanity_checks"}
    asked = on_card.requests()
    assert "runtime" not in asked["finetune"] and asked["finetune"]["mem_mb"] > 6 * 1.5 * 1000


def test_a_cluster_is_asked_for_what_the_last_plan_found(root, jobs):
    study = load_study("demo")
    assert requested(study, "finetune") == {}
    asked = Plan(study, jobs["demo"], image_counts(study), MEASURED).requests()
    write_text(study.paths.data / "plan.json", json.dumps(asked))
    assert requested(study, "finetune") == asked["finetune"] and asked["finetune"]["runtime"] > 10
    card = study.model_copy(update={"device": "cuda"})
    assert requested(card, "finetune")["gpu"] == 1 and "gpu" not in requested(card, "make_slices")


def test_the_disk_of_the_paper_is_that_of_its_weights_and_images(root, jobs):
    study = load_study("paper")
    disk = Plan(study, jobs["paper"], image_counts(study), MEASURED).disk()
    assert (disk["finetuned"], disk["pretrained"]) == (60, 2)
    assert disk["dataset"] * 2**30 == 2 * 4 * 224 * 224 * (2500 + 2500 + 6039)


def test_as_published_the_images_of_validation_are_test_images_too(root):
    study = load_study("paper")
    published = study.model_copy(update={"base_protocol": "published"})
    assert image_counts(published) == {"train": 2500, "validation": 2500, "test": 8539}
    assert image_counts(study)["test"] == 6039
    assert image_counts(load_study("demo+selection_on_test"))["test"] == (50 + 60) * 8
    with pytest.raises(StudyError, match="set expected_slices"):
        image_counts(study.model_copy(update={"expected_slices": {}}))


def test_it_prints_a_line_per_stage_and_what_is_missing(root, jobs, capsys, monkeypatch):
    monkeypatch.setattr(plan, "planned_jobs", lambda study: jobs["paper"])
    monkeypatch.setattr(plan, "measure", lambda study: MEASURED)
    assert plan.main(["paper"]) == 0
    printed = capsys.readouterr().out
    assert "60 networks to fine-tune" in printed and "disk: " in printed and "- slices" in printed
    assert plan.main(["papre"]) == 2
    assert "did you mean 'paper'" in capsys.readouterr().err
    assert (root / "data" / "paper" / "plan.json").is_file()


@pytest.mark.system
def test_every_part_can_be_measured(root):
    measured = plan.measure("tiny")
    assert measured.keys() == MEASURED.keys()
    for part, numbers in measured.items():
        assert numbers.keys() == MEASURED[part].keys()
        assert 0.05 < numbers["memory"] < 4
    assert list(measured["training"]["by_depth"]) == ["1", "5"]
    assert 0 < measured["attribution"]["image"] < 60 and measured["attribution"]["layers"] == 11


def test_a_part_that_fails_is_one_line(monkeypatch):
    failed = subprocess.CompletedProcess([], returncode=1, stdout="", stderr="Traceback ...\nMemoryError: too much\n")
    monkeypatch.setattr(plan.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(StudyError, match=r"measuring notebook failed: Traceback \.\.\. MemoryError: too much"):
        plan.measure("tiny")
