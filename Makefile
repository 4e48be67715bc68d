# Works with GNU make 3.81 (macOS) and newer. PYTHON: any Python >= 3.11 that is found.
PYTHON  ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV    := .venv
PY      := $(VENV)/bin/python
PRESET  ?= demo
ENGINE  ?=
RESULTS ?= results$(if $(ENGINE),/$(ENGINE))
JOBS    ?=
SEEDS   ?= 23 29 66
COHORT  ?=
TUNED   ?=

# Another engine's cohort has a folder, and its runs a store, of their own.
DEMO = $(PY) -m bench.demo --preset $(PRESET) --engine $(ENGINE)
ifneq ($(ENGINE),)
COHORT = $$($(DEMO))
READY = cohort
endif
PLACE = --preset $(PRESET) --results $(RESULTS) --seeds $(SEEDS) $(if $(COHORT),--cohort $(COHORT))
CHOSEN = $(if $(TUNED),--tuned $(filter-out 1,$(TUNED)))
SWEEP = $(PY) -m bench.sweep $(PLACE) $(CHOSEN) $(if $(JOBS),--jobs $(JOBS))
EFFICIENCY = $(PY) -m bench.efficiency --results $(RESULTS) --threads 2

TABLES = table1 table2 table3 table10 table11 table12 table13 table14 table15 table18 table19

.PHONY: help setup cohort $(TABLES) table9 tables figures report bench test lint clean
.DEFAULT_GOAL := help

help: ## list the targets
	@echo "Targets (variables: COHORT=DIR ENGINE=image-longitudinal|pie PRESET=demo|medium|paper JOBS=N SEEDS='23 29 66' RESULTS=DIR TUNED=1|paper|extended|small):"
	@grep -E '^[a-z0-9]+:.*##' Makefile | sed -E 's/^([a-z0-9]+):.*## (.*)/  make \1|\2/' | \
		awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'
	@echo "Tables: $(TABLES) table9"

setup: $(VENV)/.ready ## make the virtual environment .venv and install everything into it

$(VENV)/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 found; install one or set PYTHON="; exit 2; }
	@echo "setup: virtual environment in $(VENV) with $$($(PYTHON) --version)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@df -Pk . | awk 'NR == 2 && $$4 < 12e6 { printf "setup: only %.1f GB of disk are free; 12 GB are needed while installing\n", $$4 / 1e6 }'
	@echo "setup: installing torch and the other packages (7 GB, a few minutes)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
	@echo "setup: done"

cohort: setup
	@$(DEMO) > /dev/null

table2: setup $(READY) ## train what is missing, then print and write Table 2 (ICU tasks) and Figure 2b
	@$(SWEEP) --table table2; status=$$?; test $$status -le 1 || exit $$status; \
	$(PY) -m tables.render table2 $(PLACE) $(CHOSEN) && \
	$(PY) -m tables.figures figure2b $(PLACE) $(CHOSEN) && exit $$status

$(filter-out table2,$(TABLES)): setup $(READY)
	@$(SWEEP) --table $@; status=$$?; test $$status -le 1 || exit $$status; \
	$(PY) -m tables.render $@ $(PLACE) $(CHOSEN) && exit $$status

table9: setup ## measure what predictions cost (paper sizes, this machine) and print Table 9
	@$(EFFICIENCY) && $(PY) -m tables.table9 --results $(RESULTS)

tables: setup $(READY) ## the same for all tables at once, then every figure and Table 9
	@$(SWEEP) --table $(TABLES); status=$$?; test $$status -le 1 || exit $$status; \
	$(PY) -m tables.render $(TABLES) $(PLACE) $(CHOSEN) && \
	$(PY) -m tables.figures figure2a figure2b case $(PLACE) $(CHOSEN) && \
	$(EFFICIENCY) --missing && $(PY) -m tables.table9 --results $(RESULTS) && exit $$status

figures: setup $(READY) ## draw the figures again from stored runs (make tables makes the runs)
	@$(PY) -m tables.figures figure2a figure2b case $(PLACE) $(CHOSEN)

report: setup $(READY) ## write everything about the runs as one HTML file, RESULTS/report.html
	@$(PY) -m tables.report $(PLACE) $(CHOSEN)

bench: setup ## measure speed: training step, loading, sweep, kills (an hour on two cores)
	@for study in training_speed loading_speed sweep_overhead kills; do \
		$(PY) -m bench.studies.$$study || exit $$?; \
	done

test: setup ## run the tests that take minutes (slow ones: .venv/bin/pytest -m slow)
	@$(PY) -m pytest -n 2

lint: setup ## check style and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

clean: ## remove caches and build files (runs, cohorts and the environment stay)
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache
