# Everything starts here; a machine with Python 3.11+ is enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .venv-peers
PEERS_PYTHON ?= $(PYTHON)

.PHONY: help setup demo test lint docs calibrate experiments bench faults dist clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup: $(READY)  ## make the virtual environment, or reuse it if the lock is unchanged

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("mrscale needs Python 3.11 or newer; found " + sys.version.split()[0] + "; set PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[spark,simulate,s3,gcs,http]' --group test --group lint
	touch $@

demo: setup  ## simulate a biobank and run the whole study on it
	$(BIN)/mrscale demo --out demo-run

test: setup  ## run the tests, two files at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: setup  ## check style, types and layers, and look for known vulnerabilities of dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/audit.py

docs: setup  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

calibrate: setup  ## slow: measure bias and coverage of the statistics and of learned instruments
	$(BIN)/python tests/calibration/learned_bias.py --write docs/calibration.md
	$(BIN)/python tests/calibration/coverage.py --write docs/calibration.md
	$(BIN)/python tests/calibration/diagnostics_size.py --write docs/calibration.md
	for grid in table kernel choice rule blocks; do \
		for step in train estimate; do \
			$(BIN)/python tests/calibration/designs $$step --grid $$grid || exit 1; \
		done; \
	done
	$(BIN)/python tests/calibration/designs write --page docs/calibration.md
	$(BIN)/python tests/calibration/designs/fronts.py --page docs/calibration.md

experiments: setup  ## slow: run the experiments of the paper again
	$(BIN)/python tests/calibration/experiments.py --folder experiments-run --write docs/experiments.md

bench: setup  ## slow: measure speed, memory and size beside peers (PEERS_PYTHON) and limits
	test -x $(PEERS)/bin/python || $(PEERS_PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade -c constraints.txt pip
	$(PEERS)/bin/python -m pip install --quiet -c constraints.txt --group peers
	$(BIN)/python tests/benchmarks/statistics_engine.py --write docs/benchmarks.md
	$(BIN)/python tests/benchmarks/extraction.py --write docs/benchmarks.md
	$(BIN)/python tests/benchmarks/streaming.py --write docs/benchmarks.md
	$(BIN)/python tests/benchmarks/store_objects.py --write docs/benchmarks.md
	$(BIN)/python tests/benchmarks/scaling.py --write docs/benchmarks.md
	$(BIN)/python tests/benchmarks/rehearsal.py --write docs/benchmarks.md
	$(BIN)/python tests/benchmarks/report_page.py --write docs/benchmarks.md

faults: setup  ## kill processes in the middle and compare with undisturbed runs
	$(BIN)/python -m pytest tests/faults
	$(BIN)/python tests/faults/injections --folder faults-run --write docs/faults.md
	$(BIN)/python tests/faults/injections/soak.py --folder faults-run --write docs/faults.md

dist: setup  ## build wheel and sdist, and run the demo from the wheel in an environment of its own
	$(BIN)/python -m pip install --quiet -c constraints.txt --group release
	rm -rf dist && $(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv dist/.venv
	dist/.venv/bin/python -m pip install --quiet -c constraints.txt "$$(ls dist/*.whl)[spark,simulate]"
	cd dist && .venv/bin/mrscale demo --out demo-run

clean:  ## remove the environment and whatever the targets here have made
	rm -rf $(VENV) $(PEERS) demo-run site dist faults-run experiments-run run
