# `make demo` and `make test` are all a new user needs: Python 3.11, pip and make.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
PIP     = $(BIN)/python -m pip --disable-pip-version-check install --progress-bar on -c constraints.txt

.DEFAULT_GOAL = help
.PHONY: help demo serve test test-faults test-image milvus-server fuzz check dashboards sizing bench operations-tools format clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.serving  ## recognise products in clips, end to end; DATA=FOLDER for real photographs
	$(BIN)/lpr demo $(if $(DATA),--data $(DATA)) $(if $(DISTRACTORS),--distractors $(DISTRACTORS)) $(if $(CLIPS),--clips $(CLIPS))

serve: $(VENV)/.serving  ## run the service, on loopback
	$(BIN)/lpr serve

test: $(VENV)/.testing  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile

test-faults: $(VENV)/.testing milvus-server  ## break everything, and write docs/RELIABILITY.md (two hours and more on 2 cores)
	rm -f build/faults.jsonl
	export FAULTS=full; status=0; \
	$(BIN)/python -m pytest tests/faults -v -m alone || status=1; \
	$(BIN)/python -m pytest tests/faults -v -m "not alone" -n 4 --dist worksteal || status=1; \
	exit $$status

milvus-server: $(VENV)/milvus/bin/milvus-server  ## install a real Milvus server, for the tests that need one

test-image:  ## build the image from nothing and recognise a clip in it (root, Debian, no registry)
	deploy/test-image.sh

fuzz: $(VENV)/.testing  ## send every parser RUNS bad inputs and the API CASES requests
	FUZZ_RUNS=$(or $(RUNS),20000) FUZZ_CASES=$(or $(CASES),1000) $(BIN)/python -m pytest tests/fuzz
	FUZZ_RUNS=1 $(BIN)/python -m pytest -m hypothesis tests/service  # with other examples each time

check: $(VENV)/.testing  ## lint, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

dashboards: $(VENV)/.testing  ## write Grafana's dashboards anew, and the picture of them
	$(BIN)/python deploy/grafana/dashboards.py deploy/grafana/dashboards
	DASHBOARDS_PICTURE=docs/dashboards.png $(BIN)/python -m pytest tests/operations/test_live.py

sizing: $(VENV)/.serving  ## measure what a recognition costs, and write docs/SIZING.md
	$(BIN)/python deploy/sizing.py docs/SIZING.md

bench: $(VENV)/.testing  ## measure everything beside its baseline, and write docs/PERFORMANCE.md (15 minutes; QUICK=1)
	$(BIN)/python deploy/bench/performance.py $(or $(OUT),docs) $(if $(QUICK),--quick) $(if $(DATA),--data $(DATA)) $(if $(ONLY),--only $(ONLY)) $(if $(EXPORT),--export='$(EXPORT)')

operations-tools:  ## install Debian's Prometheus, for the tests of what is watched
	apt-get update
	apt-get install --yes --no-install-recommends prometheus

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

# In an environment of its own: it pins old packages. Tests that miss it are skipped.
$(VENV)/milvus/bin/milvus-server:
	$(PYTHON) -m venv $(VENV)/milvus
	$(VENV)/milvus/bin/python -m pip install 'milvus==2.3.5' 'setuptools<81' 'marshmallow<4'
