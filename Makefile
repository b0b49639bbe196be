# Two commands need nothing before them: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test lint format bench results results-table clean

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Morphogen needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.ready
	$(VENV)/bin/morphogen train gan-image --data builtin:digits --minutes 1 --out runs/demo \
		--set data.label=label --set evaluate.final_samples=2000
	$(VENV)/bin/morphogen sample runs/demo -n 100 --label all --out runs/demo/samples
	$(VENV)/bin/morphogen interpolate runs/demo --label 8 --out runs/demo/interpolation.gif
	@echo "Look at runs/demo/previews, runs/demo/samples and runs/demo/interpolation.gif; scores: runs/demo/evaluation.json"

test: $(VENV)/.ready
	$(RUN) -m pytest

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

format: $(VENV)/.ready
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.ready
	$(RUN) bench/speed.py
	$(RUN) bench/grid.py
	$(RUN) bench/sizes.py
	$(RUN) bench/faults.py
	$(RUN) bench/audit.py
	$(RUN) bench/health.py

results: $(VENV)/.ready
	$(RUN) bench/ciphers.py make runs/ciphers
	$(RUN) bench/zoo.py
	$(RUN) bench/stacked_mnist.py
	$(RUN) bench/likelihood.py
	$(RUN) bench/anomaly.py

results-table: $(VENV)/.ready
	$(RUN) bench/results_table.py

clean:
	rm -rf runs .pytest_cache .ruff_cache
