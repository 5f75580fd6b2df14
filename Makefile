# make quickstart   train, export, serve and explain on the embedded digits
# make test         lint, types and the quick tests: about ten minutes on two idle cores
# make test-long    the tests of `make test`'s kind that take seconds each; CI runs both
# make test-all     every test: the whole of each battery, the pages, XLA, more replicas and networks, too
# make test-nightly both, with the newest nightly build of Keras
# make test-zoo     models of other packages, in an environment of their own: half an hour
# make test-web     the page of `tfgrad.export.web` in headless Chromium: needs chromium and npm
# make test-beam    maps of a data set through Apache Beam, in an environment with the extra `beam`
# make test-servers the examples of servers, with the packages of KServe and TensorFlow Serving
# make site         the documentation as a site in site/, to be read as files: some minutes, once
# make test-site    the same, which a broken link or any other warning fails
# make notebooks    execute the notebooks from scratch, and write their outputs: some minutes
# make lint         style, types and import contracts alone
# make structure    modules, import cycles, sizes of files and repeated lines
# make wheel        build the wheel into dist/
# make clean        remove the virtual environments and everything built

# The first interpreter that TensorFlow 2.21 and Keras 3.15 run on; or say make PYTHON=...
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
NIGHTLY := .venv-nightly
ZOO := .venv-zoo
WEB := .venv-web
BEAM := .venv-beam
SERVERS := .venv-servers
SITE := .venv-site

.PHONY: quickstart test test-long test-all test-nightly test-zoo test-web chromium test-beam test-servers site test-site lint notebooks structure wheel clean

quickstart: $(VENV)/installed
	$(BIN)/python -m apps.quickstart

test: lint
	$(BIN)/python -m pytest -m "not slow and not long" -n 2 --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/installed
	$(BIN)/python -m pytest -m "long and not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-all: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-nightly: $(NIGHTLY)/installed
	$(NIGHTLY)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --pre \
	--no-deps keras-nightly
	$(NIGHTLY)/bin/python -c 'import keras; print("Keras", keras.__version__)'
	$(NIGHTLY)/bin/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-zoo: $(ZOO)/installed
	$(ZOO)/bin/python -m pytest -m hub tests/loading/test_hub_presets.py
	$(ZOO)/bin/python -m tools.zoo

test-web: chromium $(VENV)/installed $(WEB)/installed
	PYTHONPATH=$(WEB)/packages $(BIN)/python -m pytest -m browser tests/export/web

chromium:
	@for b in chromium chromium-browser google-chrome google-chrome-stable; do \
	command -v $$b >/dev/null && exit; done; \
	echo "make test-web needs Chromium; install it: apt-get install chromium" >&2; exit 1
	@command -v npm >/dev/null || { \
	echo "make test-web needs npm; install it: apt-get install npm" >&2; exit 1; }

test-beam: $(BEAM)/installed
	$(BEAM)/bin/python -m pytest -m beam tests/apps/test_map_dataset_beam.py

test-servers: $(VENV)/installed $(SERVERS)/installed
	PYTHONPATH=$(SERVERS)/packages $(BIN)/python -m pytest -m servers tests/examples

site: $(VENV)/installed $(SITE)/installed
	PYTHONPATH=$(SITE)/packages $(BIN)/python -m properdocs build --quiet --clean --config-file mkdocs.yml
	@echo "site/index.html"

test-site: $(VENV)/installed $(SITE)/installed
	PYTHONPATH=$(SITE)/packages $(BIN)/python -m pytest -m site tests/test_site.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

notebooks: $(VENV)/installed
	$(BIN)/python -m tools.notebooks

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

# The same pins, but Keras: keras-nightly takes the place of the release, whose files would mix
# with its own.
$(NIGHTLY)/installed: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "tfgrad needs Python 3.11, 3.12 or 3.13 with venv; \
	install one, or point to it: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(NIGHTLY)
	@echo "installing TensorFlow and the rest into $(NIGHTLY): some minutes, once"
	grep -v '^keras==' requirements.txt > $(NIGHTLY)/requirements.txt
	$(NIGHTLY)/bin/python -m pip install --quiet --disable-pip-version-check \
	--requirement $(NIGHTLY)/requirements.txt
	$(NIGHTLY)/bin/python -m pip uninstall --quiet --yes keras
	$(NIGHTLY)/bin/python -m pip install --quiet --disable-pip-version-check --pre --no-deps \
	--force-reinstall keras-nightly
	$(NIGHTLY)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# The same pins, and the zoo's packages over them. What they declare is not installed: several ask
# for another TensorFlow or Keras.
$(ZOO)/installed: requirements.txt requirements-zoo.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "tfgrad needs Python 3.11, 3.12 or 3.13 with venv; \
	install one, or point to it: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(ZOO)
	@echo "installing TensorFlow, the rest and the zoo's packages into $(ZOO): some minutes, once"
	$(ZOO)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(ZOO)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	--requirement requirements-zoo.txt
	$(ZOO)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# What drives a browser, beside the environment of the tests, and what the page runs; axe-core checks
# its accessibility.
$(WEB)/installed: requirements-web.txt Makefile | $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade \
	--target $(WEB)/packages --requirement requirements-web.txt
	npm install --silent --no-save --no-package-lock --ignore-scripts --prefix $(WEB) \
	onnxruntime-web@1.30.0 axe-core@4.14.1
	touch $@

# KServe's server in an environment of its own, as it needs an older protobuf; the messages of
# TensorFlow Serving beside that of the tests, without the TensorFlow that they declare.
$(SERVERS)/installed: requirements-servers.txt Makefile | $(VENV)/installed
	$(PYTHON) -m venv $(SERVERS)
	$(SERVERS)/bin/python -m pip install --quiet --disable-pip-version-check \
	--requirement requirements-servers.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps \
	--target $(SERVERS)/packages tensorflow-serving-api==2.21.0
	touch $@

# What builds the site, beside the environment of the tests, whose docstrings it shows.
$(SITE)/installed: requirements-site.txt Makefile | $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade \
	--target $(SITE)/packages --requirement requirements-site.txt
	touch $@

# The same pins, and Apache Beam.
$(BEAM)/installed: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "tfgrad needs Python 3.11, 3.12 or 3.13 with venv; \
	install one, or point to it: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(BEAM)
	@echo "installing TensorFlow, the rest and Apache Beam into $(BEAM): some minutes, once"
	$(BEAM)/bin/python -m pip install --quiet --disable-pip-version-check \
	--requirement requirements.txt 'apache-beam>=2.77,<3'
	$(BEAM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) $(NIGHTLY) $(ZOO) $(WEB) $(BEAM) $(SERVERS) $(SITE) site build dist *.egg-info
