# Two commands do everything: `make course` and `make test`. Each sets up what it needs first.
.DEFAULT_GOAL := help
.PHONY: help setup course test test-all lint lab bench notebooks lock clean

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

help:
	@echo "make course     set up, then run the course from the first day to the last"
	@echo "make test       set up, then run the tests, and compare every notebook's outputs"
	@echo "make test-all   and the slow ones too: rarer accidents, more kills"
	@echo "make setup      prepare everything, leave nothing running"
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make lint       check style and types"
	@echo "make bench      measure, and write docs/performance.md; two hours"
	@echo "make notebooks  execute the notebooks and store their outputs"
	@echo "make lock       renew constraints.txt"
	@echo "make clean      remove what was installed and built; data stay"

setup: $(VENV)/.installed
	@$(BIN)/shopmetrics setup --quiet

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer was found"; \
		echo "  -> install one, or name it: make PYTHON=/path/to/python3 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into $(VENV) with $(PYTHON), a minute or two"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "error: $(PYTHON) cannot make virtual environments"; \
		echo "  -> on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

course: setup
	@$(BIN)/shopmetrics course

# Two files at a time, each with an engine of its own: alone, one leaves a third of two cores idle.
WORKERS ?= 2
# One file: make test TESTS=tests/unit/test_docs.py. One that is slow: make test-all TESTS=...
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
test: setup
	$(PYTEST) -m "not slow" $(TESTS)

test-all: setup
	$(PYTEST) $(TESTS)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# A notebook that came with git is not trusted, and JupyterLab would hide its diagrams and interactive figures.
lab: setup
	@$(BIN)/jupyter trust notebooks/*.ipynb >/dev/null
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/01_workspace.ipynb \
		$(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)

bench: setup
	$(BIN)/python -m benchmarks.report

notebooks: setup
	$(BIN)/python -m shared.course.refresh

# One lock for every Python and platform, without the address of an index.
lock: setup
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
		--extra dev pyproject.toml --output-file constraints.txt

clean:
	@test ! -x $(BIN)/shopmetrics || $(BIN)/shopmetrics down
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
