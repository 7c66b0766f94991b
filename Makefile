# `make help` lists what there is. Everything runs in .venv, which is made on first use.
PYTHON ?= python3
STUDY ?= demo
PROFILE ?= local
PUBLISHED ?= data/published
RUN := .venv/bin/python
READY := .venv/.installed

.PHONY: help demo study dry-run vgg16 plan verify switches protocols statistics published lab notebooks screenshots test test-system bench bench-statistics lint

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' Makefile | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	@echo "installing the pinned packages into .venv: some minutes and 7 GB, once"
	.venv/bin/pip install --quiet --requirement requirements.txt
	.venv/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## run the demo study and write figures/demo/report.html
	@$(RUN) -m pretrain_xai.batch demo

study: $(READY)  ## run the study STUDY=<a file in studies/>, on a cluster with PROFILE=slurm
	@$(RUN) -m pretrain_xai.batch $(STUDY) --profile $(PROFILE)

dry-run: $(READY)  ## say what STUDY=... would run, and why
	@$(RUN) -m pretrain_xai.batch $(STUDY) --profile $(PROFILE) --dry-run --quiet host

vgg16: $(READY)  ## VGG-16 at 224 px: two epochs on 64 images, eight methods on 2 images, with the time
	@$(RUN) -m pretrain_xai.batch vgg16 data/vgg16/scores/best-natural-depth1-seed0.parquet

plan: $(READY)  ## runs, hours, disk and memory of STUDY=..., and what is missing, before anything starts
	@$(RUN) -m pretrain_xai.plan $(STUDY)

verify: $(READY)  ## check the finished STUDY=... again from its files, and name those that fail or were changed
	@$(RUN) -m pretrain_xai.verify $(STUDY)

switches: $(READY)  ## what each flaw that needs no training does to each number of STUDY=... (demo)
	@$(RUN) -m pretrain_xai.batch $(STUDY) --profile $(PROFILE) --protocols rescored && $(RUN) -m pretrain_xai.report $(STUDY)

protocols: $(READY)  ## the same for all flaws: trains STUDY=... (demo) anew with eight flaws each alone, all together, and further seeds
	@$(RUN) -m pretrain_xai.batch $(STUDY) --profile $(PROFILE) --protocols all && $(RUN) -m pretrain_xai.report $(STUDY)

statistics: STUDY = demo3
statistics: $(READY)  ## intervals, effects, ranks, redundancy and power of STUDY=... (demo3: four pre-trainings)
	@$(RUN) -m pretrain_xai.batch $(STUDY) --profile $(PROFILE)

published: $(READY)  ## read the authors' release in PUBLISHED=<folder> and compare it with the paper
	@$(RUN) -m pretrain_xai.run_notebook notebooks/19_published.ipynb papermill_runs/published/19_published/run.ipynb -p folder "$(PUBLISHED)"

lab: $(READY)  ## open the notebooks in JupyterLab
	.venv/bin/jupyter lab --LabApp.default_url=/lab/tree/notebooks

notebooks: $(READY)  ## render every notebooks/*.py (the source) as its .ipynb twin
	cd notebooks && ../.venv/bin/jupytext --quiet --to ipynb --update *.py

screenshots: $(READY)  ## photograph the demo's explorer for the README (needs Chromium and the demo)
	$(RUN) tests/screenshots.py

test: $(READY)  ## unit tests, oracle tests and the tiny study
	$(RUN) -m pytest -m "not system" --numprocesses 2 --dist loadfile

test-system: $(READY)  ## tests that kill batches or need a browser: minutes
	$(RUN) -m pytest -m system --numprocesses 2 --dist loadfile

bench: $(READY)  ## measure exactness, speed and memory side by side with the plain way (needs the demo's networks)
	for part in $(sort $(wildcard benchmarks/bench_*.py)); do $(RUN) $$part || exit 1; done

bench-statistics: $(READY)  ## coverage of intervals and type I error over 1,000 simulated studies
	$(RUN) benchmarks/bench_statistics.py

lint: $(READY)  ## check style, format, types and which module imports which
	.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/mypy && .venv/bin/lint-imports
