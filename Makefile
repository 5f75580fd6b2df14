# make quickstart   train, export, serve and explain on the embedded digits
# make test         lint, types and the tests that fit into fifteen minutes on two cores
# make test-all     every test
# make lint         style, types and import contracts alone
# make structure    modules, import cycles, sizes of files and repeated lines
# make wheel        build the wheel into dist/
# make clean        remove the virtual environment and everything built

# The first interpreter that TensorFlow 2.21 and Keras 3.15 run on; or say make PYTHON=...
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-all lint structure wheel clean

quickstart: $(VENV)/installed
	$(BIN)/python -m apps.quickstart

test: lint
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-all: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

structure: $(VENV)/installed
	$(BIN)/python tools/structure.py

wheel: $(VENV)/installed
	$(BIN)/python -m build --wheel --outdir dist .

# One environment, pinned by requirements.txt; made again when the pins change.
$(VENV)/installed: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "tfgrad needs Python 3.11, 3.12 or 3.13 with venv; \
	install one, or point to it: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing TensorFlow and the rest into $(VENV): some minutes, once"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
