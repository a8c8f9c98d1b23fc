# Two commands do everything: `make course` and `make test`. Each sets up what it needs first.
.DEFAULT_GOAL := help
.PHONY: help setup course dashboard snapshot screenshots test test-all coverage mutants lint workflows gitleaks secrets-scan fresh wheel deploy smoke lab bench notebooks \
	lock newest hooks classes clean

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

help:
	@echo "make course     set up, then run the course from the first day to the last"
	@echo "make dashboard  set up, then open the dashboard on your own gold, or on the committed snapshot"
	@echo "make test       set up, then run the tests, and compare every notebook's outputs"
	@echo "make test-all   and the slow ones too: rarer accidents, more kills"
	@echo "make coverage   run the unit tests, and print which share of each module's lines they execute"
	@echo "make mutants    put plausible mistakes into a copy of the sources, and see a test fail for each"
	@echo "make setup      install what is needed, and fetch the jars"
	@echo "make secrets-scan  look for secrets in the tree and in every commit; needs Go once"
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make lint       check style, types and workflows"
	@echo "make fresh      make the generated files again, and see that they are as committed"
	@echo "make wheel      build the package that a job installs, into dist/"
	@echo "make deploy     deploy the bundle to a workspace: make deploy TARGET=dev"
	@echo "make smoke      run the nightly job there, once: make smoke TARGET=dev"
	@echo "make bench      measure, and write docs/performance.md; two hours"
	@echo "make notebooks  execute the notebooks and store their outputs"
	@echo "make lock       renew constraints.txt and resources/requirements.txt"
	@echo "make newest     the same, from the newest versions, and install them"
	@echo "make hooks      let git ask the quick gates before each commit"
	@echo "make snapshot   renew data/gold_snapshot/ from seed 42; runs the pipeline and the stream in a home of its own"
	@echo "make screenshots  renew the pictures of the dashboard in docs/img/"
	@echo "make classes    renew the list that the engine's start-up cache is made from"
	@echo "make clean      remove what was installed and built; data stay"

setup: $(VENV)/.installed
	@$(BIN)/shopmetrics setup --quiet

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer was found"; \
		echo "  -> install one, or name it: make PYTHON=/path/to/python3 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing the packages into $(VENV) with $(PYTHON)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "error: $(PYTHON) cannot make virtual environments"; \
		echo "  -> on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python shared/runtime/install.py
	@touch $@

course: setup
	@$(BIN)/shopmetrics course

# It answers on the loopback interface only. Another port: make dashboard DASHBOARD_ARGS=--server.port=9000
dashboard: setup
	$(BIN)/streamlit run dashboard/streamlit_app.py --server.address=127.0.0.1 $(DASHBOARD_ARGS)

snapshot: setup
	@home=$$(mktemp -d) && export SHOPMETRICS_HOME=$$home && trap '$(BIN)/shopmetrics down; rm -rf $$home' EXIT && \
	$(BIN)/shopmetrics generate --scale 1 --seed 42 --days 3 && $(BIN)/shopmetrics pipeline run && \
	for day in 1 2; do $(BIN)/shopmetrics produce --day $$day --seed 42 --speedup 0 || exit 1; done && \
	$(BIN)/shopmetrics stream run && $(BIN)/python -m dashboard.utils.snapshot

screenshots: setup
	$(BIN)/python -m tests.dashboard.screenshots

# Two files at a time, each with an engine of its own: alone, one leaves a third of two cores idle. In which order is in
# tests/conftest.py.
WORKERS ?= 2
# One file: make test TESTS=tests/unit/test_docs.py. One that is slow: make test-all TESTS=...
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
test: setup
	$(PYTEST) -m "not slow" $(TESTS)

test-all: setup
	$(PYTEST) $(TESTS)

# Of the unit tests alone. What the engine's own Python runs, as the steps of a stream do, is not seen.
coverage: setup
	$(BIN)/coverage run -m pytest tests/unit -m "not slow" --durations=0 -qq
	$(BIN)/coverage report

# One of them, with what it changes: make mutants MUTANTS=the-textbook-merge. A topic: make mutants MUTANTS=scd2
mutants: setup
	$(BIN)/python tests/mutants/run.py $(MUTANTS)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@$(MAKE) --no-print-directory workflows

# Without a question to GitHub, so that it says the same everywhere. actionlint is a Go program without a wheel: it is
# built where Go is, from the sources whose sum Go verifies.
ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
workflows: setup
	$(BIN)/zizmor --offline --no-progress --quiet --persona=pedantic .github
	@test -x $(BIN)/actionlint || { command -v go >/dev/null && GOBIN=$(abspath $(BIN)) go install $(ACTIONLINT); } || \
		test -z "$$GITHUB_ACTIONS" || { echo "error: actionlint could not be built"; exit 1; }
	@if test -x $(BIN)/actionlint; then $(BIN)/actionlint -shellcheck=$(BIN)/shellcheck; \
		else echo "actionlint: skipped, because it is not installed, and Go is missing or could not build it"; fi

fresh: setup
	$(BIN)/python docs/img/build.py
	$(BIN)/shopmetrics bundle generate
	git diff --exit-code

# With what is in the virtual environment, so that the build asks nobody.
wheel: setup
	@rm -rf dist build/lib build/bdist.*
	@$(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python --out-dir dist

TARGET ?= dev
deploy: setup
	$(BIN)/shopmetrics bundle validate --target $(TARGET)
	databricks bundle deploy --target $(TARGET)

smoke:
	databricks bundle run nightly --target $(TARGET)

# The tree is what is committed, what is staged, and what is neither yet. REPO=... looks at another repository.
GITLEAKS_VERSION := 8.30.1
GITLEAKS := $(VENV)/gitleaks-$(GITLEAKS_VERSION)/gitleaks
REPO ?= .
secrets-scan: $(GITLEAKS)
	$(GITLEAKS) git --no-banner --redact --verbose --config .gitleaks.toml $(REPO)
	$(GITLEAKS) git --no-banner --redact --verbose --config .gitleaks.toml --staged $(REPO)
	$(GITLEAKS) git --no-banner --redact --verbose --config .gitleaks.toml --pre-commit $(REPO)

gitleaks: $(GITLEAKS)

$(GITLEAKS):
	@command -v go >/dev/null || { echo "error: gitleaks is a Go program, and go was not found"; \
		echo "  -> install Go, 1.24 or newer"; exit 1; }
	@echo "Building gitleaks $(GITLEAKS_VERSION)"
	@GOBIN=$(abspath $(dir $@)) go install github.com/zricethezav/gitleaks/v8@v$(GITLEAKS_VERSION)

# A notebook that came with git is not trusted, and JupyterLab would hide its diagrams and interactive figures.
lab: setup
	@$(BIN)/jupyter trust notebooks/*.ipynb >/dev/null
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/01_workspace.ipynb \
		$(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)

bench: setup
	$(BIN)/python -m benchmarks.report

notebooks: setup
	$(BIN)/python -m shared.course.refresh

# One lock for every Python and platform, without the address of an index; and of that what a serverless job installs.
lock: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt uv
	$(BIN)/uv pip compile $(LOCK) --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
		--extra dev --extra client --extra installer pyproject.toml --output-file constraints.txt
	$(BIN)/uv pip compile $(LOCK) --quiet --python-version 3.12 --python-platform linux --no-header --no-annotate --no-emit-index-url \
		--constraints constraints.txt pyproject.toml --output-file resources/requirements.txt

# The nightly tests take these, and say early what a renewed lock would break.
newest:
	@$(MAKE) --no-print-directory lock LOCK=--upgrade
	@$(MAKE) --no-print-directory setup

# The quick gates before each commit.
hooks: setup
	$(BIN)/pre-commit install

# Which classes the engine loads, for the start-up cache; after a change of versions.
classes: setup
	$(BIN)/python -m shared.runtime.rehearsal

clean:
	@test ! -x $(BIN)/shopmetrics || $(BIN)/shopmetrics down
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
