# Two commands for a fresh machine: `make demo` and `make test`. As root they install
# what is missing; as anybody else they say what it is. `make check` is for each change.

PYTHON ?= python3
VENV := .venv
PIP_INSTALL := $(VENV)/bin/python -m pip install -qq

# Interpreters that pyenv has, for tox to find beside those on the PATH.
PYENV_BINS := $(wildcard $(shell pyenv root 2>/dev/null)/versions/3.*/bin)
empty :=
space := $(empty) $(empty)
TOX_PATH := $(PATH):$(subst $(space),:,$(PYENV_BINS))
TOX_PROCESSES ?= auto
PLUGIN_PATHS := $(subst $(space),:,$(addprefix plugins/, \
    example nova_backend nova_backend/tests pool))

.DEFAULT_GOAL := help
.PHONY: help
help:
	@echo 'make demo   provision one base image under three flavors; show how they differ'
	@echo 'make check  format, lint, types, imports and fast tests, in a few minutes'
	@echo 'make test   run the test matrix (tox): what CI runs'
	@echo 'make bench  measure us against qemu-img, in some ten minutes; as root'
	@echo 'make docs   run what the pages show, and build their site in build/docs'
	@echo 'make venv   install the project, editable, into $(VENV)'
	@echo 'make clean  remove what the others made'

.PHONY: demo
demo: $(VENV)/bin/allocpolicy
	@tools/system-packages $(VENV)/bin/bindep demo
	@$(VENV)/bin/python demo/demo.py

# The cheapest first. The second mypy is apart: plugins have a top level named tests.
.PHONY: check
check: $(VENV)/bin/ruff
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	PYTHONPATH=.:plugins $(VENV)/bin/lint-imports --no-cache >$(VENV)/imports.txt || \
	    { cat $(VENV)/imports.txt; exit 1; }
	$(VENV)/bin/mypy
	MYPYPATH=$(PLUGIN_PATHS) $(VENV)/bin/mypy benchmarks demo tools \
	    plugins/example plugins/nova_backend plugins/pool
	XDG_CACHE_HOME=$(CURDIR)/$(VENV)/cache $(VENV)/bin/pytest -q --numprocesses 2 \
	    -m 'not system' --ignore tests/packaging tests plugins/example/tests \
	    plugins/pool/tests

.PHONY: test
test: $(VENV)/bin/tox
	@tools/system-packages $(VENV)/bin/bindep test
	@PATH='$(TOX_PATH)' tools/run-tox $(VENV)/bin/tox $(TOX_PROCESSES)

# The short form. To measure an earlier release as well:
# make bench BENCH='--before PYTHON', an interpreter of an environment that has it.
BENCH :=
.PHONY: bench
bench: $(VENV)/bin/tox
	@$(VENV)/bin/tox -q -e bench -- --short --output $(CURDIR)/build/bench $(BENCH)
	@echo 'see build/bench/results.md'

# What commands print is put into the pages, and into the README's picture, only where it
# is not what they show.
.PHONY: docs
docs: $(VENV)/bin/ruff $(VENV)/bin/tox
	XDG_CACHE_HOME=$(CURDIR)/$(VENV)/cache DOCS_REWRITE=1 $(VENV)/bin/pytest -q \
	    tests/docs/test_documented_commands.py -k 'pasted or typed'
	$(VENV)/bin/python tools/terminal_picture.py
	$(VENV)/bin/tox -q -e docs -- $(CURDIR)/build/docs
	@echo 'see build/docs/index.html'

.PHONY: venv
venv: $(VENV)/bin/allocpolicy

# setup.cfg decides what is installed: the entry points and the dependencies.
$(VENV)/bin/allocpolicy: setup.cfg pyproject.toml $(VENV)/bin/bindep
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/bin/ruff: tools/check-requirements.txt $(VENV)/bin/allocpolicy
	$(PIP_INSTALL) --requirement tools/check-requirements.txt
	$(PIP_INSTALL) --no-deps --editable plugins/example --editable plugins/pool
	@touch $@

$(VENV)/bin/tox: $(VENV)/bin/bindep
	$(PIP_INSTALL) tox
	@touch $@

$(VENV)/bin/bindep:
	@tools/python-venv $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) bindep
	@touch $@

.PHONY: clean
clean:
	rm -rf $(VENV) .tox build dist *.egg-info plugins/*/build plugins/*/*.egg-info
