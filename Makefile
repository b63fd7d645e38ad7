# make demo          train a prefix on the embedded base model and look at what it does (offline, a few minutes)
# make test          run the tests
# make check         lint, format, types and tests
# make docs          the documentation as a site, into site/: offline, and strict about its links
# make notebooks     run every notebook of examples/, offline, and the table in examples/README.md (minutes)
# make conformance   every architecture of transformers, and the table in docs/architectures.md (minutes)
# make drills        what is done to runs, files and threads on purpose, and the table in docs/drills.md (half an hour)
# make benchmarks    what a prefix costs, beside the bare model and PEFT's methods, and docs/performance.md (half an hour)
# make release-check build the wheel, and try it in an empty environment (docs/releasing.md)
#
# Each target makes its own environment in .venv first and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt

.PHONY: demo test check docs notebooks conformance drills benchmarks lint types install release-check clean

demo: $(VENV)/.demo
	$(BIN)/python -m prefix_peft demo --output-dir runs/demo

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4

check: lint types test

notebooks: $(VENV)/.test
	$(BIN)/python tests/notebooks --page examples/README.md

conformance: $(VENV)/.test
	$(BIN)/python tests/conformance --output docs/architectures.md

drills: $(VENV)/.test
	$(BIN)/python drills all --page docs/drills.md

benchmarks: $(VENV)/.demo
	$(BIN)/python benchmarks all --page docs/performance.md

docs: $(VENV)/.docs
	$(BIN)/python documentation/commands.py docs/command-line.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.dev
	$(BIN)/pyright
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pyright --pythonpath $(BIN)/python --verifytypes prefix_peft --ignoreexternal

release-check: $(VENV)/.dev
	.ci/release-check $(abspath $(BIN))/python

install: $(VENV)/.test

# An extra holds all that the ones before it hold, so each is installed once.
$(VENV)/.%: setup.cfg $(CONSTRAINTS) | $(BIN)/python
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) --editable '.[$*]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) runs build dist site
