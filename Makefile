PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: help setup demo test fast check bench reference tour nightly clean

help:
	@echo 'make demo       train DETR on toy images: about 8 minutes of training on two cores'
	@echo 'make test       the whole suite'
	@echo 'make fast       the tests that take under three minutes'
	@echo 'make check      ruff, mypy and the lints of the project'
	@echo 'make bench      speed tables'
	@echo 'make reference  write docs/reference anew from the docstrings'
	@echo 'make tour       run every block of docs/tour and draw its pictures anew: about three minutes'
	@echo 'make nightly    ten times the examples, random seeds, planted defects'
	@echo 'make clean      remove the virtual environment and all caches'

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("detrkit needs Python 3.11 or newer; this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'installing what detrkit needs into $(VENV) (a few minutes the first time)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

demo: setup
	$(BIN)/detrkit train detr_tiny

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not nightly'

fast: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'fast and not nightly'

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/lints.py
	$(BIN)/python tools/shared_lines.py
	$(BIN)/python tools/reference.py --check

bench: setup
	$(BIN)/detrkit bench

reference: setup
	$(BIN)/python tools/reference.py

tour: setup
	OMP_NUM_THREADS=1 $(BIN)/python tools/tour.py

nightly: setup
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest -n 2 -p no:cacheprovider --timeout 900
	$(BIN)/python tools/mutants.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
