# `make demo` and `make test` are all a new user needs: Python 3.11, pip and make.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
PIP     = $(BIN)/python -m pip --disable-pip-version-check install --progress-bar on -c constraints.txt

.DEFAULT_GOAL = help
.PHONY: help demo serve test check format clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.serving  ## recognise products in clips, end to end; DATA=FOLDER for real photographs
	$(BIN)/lpr demo $(if $(DATA),--data $(DATA)) $(if $(DISTRACTORS),--distractors $(DISTRACTORS)) $(if $(CLIPS),--clips $(CLIPS))

serve: $(VENV)/.serving  ## run the service, on loopback
	$(BIN)/lpr serve

test: $(VENV)/.testing  ## run the tests
	$(BIN)/python -m pytest

check: $(VENV)/.testing  ## lint, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.testing  ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what was installed and made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/.serving: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.testing: $(VENV)/.serving
	$(PIP) -e '.[training,dev]'
	touch $@
