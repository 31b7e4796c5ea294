# Everything runs in .venv, made from requirements.lock; no command needs anything else but
# Python 3.11 or 3.12.
PYTHON ?= python3
PROFILE ?= quick
CORES ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count())')
BIN := .venv/bin
STUDY ?= all
SEEDS ?= 1 2
SNAKEMAKE = $(BIN)/snakemake --cores $(CORES) --nolock --rerun-incomplete --quiet rules host

.PHONY: reproduce seeds bench smoke test lab lint lock clean

reproduce: .venv/ready  ## PROFILE's studies (STUDY=finetuning, rate_task or zoo: one): tables, figures, report
	$(SNAKEMAKE) --config profile=$(PROFILE) study=$(STUDY)
	@echo "report: $(CURDIR)/results/$(PROFILE)/report.html"

bench: .venv/ready  ## how fast it is beside what one would otherwise run: results/PROFILE/speed.csv
	$(SNAKEMAKE) --config profile=$(PROFILE) -- results/$(PROFILE)/speed.csv

seeds:  ## the same with other seeds (SEEDS="1 2"), then again: findings count in how many they hold
	for seed in $(SEEDS); do $(MAKE) reproduce PROFILE=$(PROFILE)-seed$$seed || exit 1; done
	$(MAKE) reproduce

smoke:  ## every notebook at its smallest
	$(MAKE) reproduce PROFILE=smoke
	$(MAKE) bench PROFILE=smoke
	$(SNAKEMAKE) --config profile=smoke -- results/smoke/explorer/knob/summary.json

test: .venv/ready  ## unit tests
	$(BIN)/python -m pytest

lab: .venv/ready  ## the notebooks in JupyterLab
	$(BIN)/jupyter lab

lint: .venv/ready
	$(BIN)/ruff check icmlib tests && $(BIN)/ruff format --check icmlib tests
	$(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)) and "Python 3.11 or 3.12 is needed; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

lock:  ## renew requirements.lock from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --extra study --extra dev \
		--no-header --no-annotate --upgrade pyproject.toml -o requirements.lock

clean:  ## forget all runs of PROFILE (tables and figures in git come back with git checkout)
	rm -rf results/$(PROFILE)
