# make repro   set up and run the whole pipeline (dvc repro)
# make test    set up and run the quick tests: some minutes, everything touched once
# make test-full   set up and run the others: every kind of kill, DVC's queue, browsers, several processes
#              (on more than two cores: python -m pytest -n 8 --dist loadgroup --no-loadscope-reorder)
# make check   set up, lint, type check, compare dvc.yaml with the imports
# make sweeps [JOBS=2] [PLANS="experiments/lambda.yaml ..."]   set up, run through DVC's queue what these plans
#              hold and has not run (about 4.5 minutes a run), write docs/RESULTS.md, its tables and figures
# make ablation   the same for experiments/ablation.yaml alone
# make docs    set up, renew docs/params.md and docs/stages/ from where they are defined
# make figures set up, draw docs/figures from the finished run in artifacts/
# make lock    renew requirements.lock from pyproject.toml (after `make`, which brings uv)

PYTHON ?= python3
BIN := .venv/bin
PIP = $(BIN)/python -m pip install -qq --disable-pip-version-check
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup repro test test-full check sweeps ablation docs figures lock
.DEFAULT_GOAL := setup

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = "%d.%d" % sys.version_info[:2]; sys.exit(None if (3, 11) <= sys.version_info < (3, 15) else "dgkd needs Python 3.11 to 3.14, found " + v + " (choose one with make PYTHON=...)")'
	@echo "Installing the pinned packages into .venv (6 GB, about a minute) ..."
	$(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/# via/p' requirements.lock | $(PIP) --no-deps --require-hashes -r /dev/stdin \
	  && $(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock \
	  || { echo "uv cannot install them here; pip does, in some minutes ..."; \
	       $(PIP) --require-hashes -r requirements.lock; }
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

repro: setup
	dvc repro

test: setup
	python -m pytest -m "not full"

test-full: setup
	python -m pytest -m full -n 2

check: setup
	ruff check .
	ruff format --check .
	python tools/stage_deps.py
	mypy

# ablation-voc6.yaml is not among them: it needs photographs and a preset, see there
PLANS ?= $(addprefix experiments/,ablation.yaml lambda.yaml darkness.yaml)
JOBS ?= 1

# check comes before repro, which takes minutes, and repro before run: where dvc.lock names outputs that are not in
# the cache, as in a fresh clone, DVC does not look into its run cache, and every experiment would train a teacher
sweeps: setup
	python -m tools.sweeps check $(PLANS)
	dvc repro
	python -m tools.sweeps run $(PLANS) --jobs $(JOBS)

ablation: PLANS = experiments/ablation.yaml
ablation: sweeps

docs: setup
	python tools/docs.py

figures: setup
	python tools/figures.py

lock:
	uv pip compile --universal --generate-hashes --python-version 3.11 --all-extras --no-header --no-emit-index-url --quiet pyproject.toml -o requirements.lock
