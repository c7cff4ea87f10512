# make repro   set up and run the whole pipeline (dvc repro)
# make test    set up and run the tests
# make check   set up, lint and type check
# make ablation [JOBS=2]   set up, run experiments/ablation.yaml through DVC's queue, write docs/ablation.md
# make docs    set up, renew docs/params.md and docs/stages/ from where they are defined
# make figures set up, draw docs/figures from the finished run in artifacts/
# make lock    renew requirements.lock from pyproject.toml (needs uv)

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup repro test check ablation docs figures lock
.DEFAULT_GOAL := setup

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = "%d.%d" % sys.version_info[:2]; sys.exit(None if sys.version_info >= (3, 11) else "dgkd needs Python 3.11 or newer, found " + v + " (choose one with make PYTHON=...)")'
	@echo "Installing the pinned packages into .venv (about 5 GB, a few minutes) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

repro: setup
	dvc repro

test: setup
	python -m pytest

check: setup
	ruff check .
	ruff format --check .
	mypy

ablation: setup
	python tools/ablation.py run experiments/ablation.yaml --jobs $(or $(JOBS),1)

docs: setup
	python tools/docs.py

figures: setup
	python tools/figures.py

lock:
	uv pip compile --universal --generate-hashes --python-version 3.11 --all-extras --no-header --no-emit-index-url --quiet pyproject.toml -o requirements.lock
