# Everything runs in .venv, made from requirements.lock; no command needs anything else but
# Python 3.11, 3.12 or 3.13.
PYTHON ?= python3
PROFILE ?= quick
STUDY ?= main
SEEDS ?= 1 2
SCRATCH ?=
CORES ?=
# set, figures are also written as PDF and tables as LaTeX
PAPER ?= $(ICMLIB_PAPER)
export ICMLIB_PAPER := $(PAPER)
BIN := .venv/bin
# file names, whatever the locale
export PYTHONUTF8 := 1
DETECTRON2 = https://github.com/facebookresearch/detectron2@02b5c4e295e990042a714712c21dc79b731e8833
NAME := $(PROFILE)$(if $(SCRATCH),-scratch)
REPRODUCE = $(BIN)/icm reproduce "$(NAME)" $(if $(CORES),--cores $(CORES))

.PHONY: help reproduce seeds bench smoke test test-all lab lint publish detectron2 lock clean

help:  ## what there is (this list)
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/make \1:\2/p' Makefile | while IFS=: read -r name text; do \
		printf '%-16s %s\n' "$$name" "$$text"; done

reproduce: .venv/ready  ## Table 1, pictures and report; PROFILE=, STUDY=all or a study, SCRATCH=1 trains all, PAPER=1: PDF and LaTeX, too; CORES=
	@$(REPRODUCE) --study $(STUDY)
	@echo "report: $(CURDIR)/results/$(NAME)/report.html"

seeds: STUDY = finetuning
seeds:  ## study 1 (or STUDY=) with other seeds (SEEDS="1 2"), then itself: counts in how many findings hold
	for seed in $(SEEDS); do $(MAKE) reproduce PROFILE=$(PROFILE)-seed$$seed STUDY=$(STUDY) || exit 1; done
	$(MAKE) reproduce STUDY=$(STUDY)

bench: .venv/ready  ## how fast it is beside what one would otherwise run
	@$(REPRODUCE) --target results/$(NAME)/speed/side_by_side/notebook.ipynb

smoke: .venv/ready  ## every notebook at its smallest; its numbers mean nothing
	@$(MAKE) --no-print-directory reproduce bench PROFILE=smoke STUDY=all
	@$(BIN)/icm reproduce smoke $(if $(CORES),--cores $(CORES)) --target results/smoke/explorer/knob/notebook.ipynb

test: .venv/ready  ## the tests, without the slow ones
	$(BIN)/python -m pytest -m "not slow"

test-all: .venv/ready  ## all tests
	$(BIN)/python -m pytest

lab: .venv/ready  ## the notebooks in JupyterLab; LAB=--allow-root in a container
	$(BIN)/jupyter lab $(LAB)

lint: .venv/ready  ## style of code and notebooks, direction of imports
	$(BIN)/ruff check icmlib tests && $(BIN)/ruff format --check icmlib tests
	$(BIN)/lint-imports
	$(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb

publish: .venv/ready  ## PROFILE's tables and pictures as the committed reference, and results/README.md
	$(BIN)/icm publish "$(NAME)"

detectron2: .venv/ready  ## the optional detectors, compiled in minutes into .venv, and their tests
	@git ls-remote --quiet $(word 1,$(subst @, ,$(DETECTRON2))) HEAD > /dev/null || { \
		echo "detectron2 is on github.com alone, which git cannot reach from here: run this where it can"; exit 1; }
	$(BIN)/python -m pip install --no-build-isolation "git+$(DETECTRON2)"
	$(BIN)/python -m pytest tests/test_detectron2.py

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "Python 3.11, 3.12 or 3.13 is needed, this is %d.%d; name one: make PYTHON=python3.12" % sys.version_info[:2])'
	@$(PYTHON) -c 'import sys, shutil; sys.exit(sys.version_info[:2] == (3, 13) and not (shutil.which("c++") or shutil.which("g++")) and "on Python 3.13 CompressAI is compiled: install a C++ compiler, or name another Python: make PYTHON=python3.12")'
	@echo "installing $$(grep -c == requirements.lock) packages into .venv, once: some minutes, 6 GB (PyTorch brings CUDA along)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --editable .
	@touch $@

lock:  ## renew requirements.lock from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --extra study --extra dev \
		--no-header --no-annotate --upgrade pyproject.toml -o requirements.lock

clean:  ## delete all runs of PROFILE
	rm -rf "results/$(NAME)"
