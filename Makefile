# `make luna` grows the first generation; `make test` checks everything. Both install what is missing and then hurry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: luna test tests install install-dev lint types clean

luna: install
	dvc repro
	@PYTHONPATH=src luna card

# Types are checked beside the tests, which wait now and then.
test: install-dev lint
	@$(MAKE) --no-print-directory -j 2 types tests

tests: install-dev
	OMP_NUM_THREADS=1 pytest -n 2

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# One call for all, so that pip looks for versions that go together once.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile torch==2.13.0 --editable

# What pip would do on one core. Some packages hold templates that do not compile, which pip does not mind either.
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: Luna needs Python 3.11 or newer; run make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	$(PIP) .
	@$(COMPILE)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/pip
	$(PIP) '.[dev]'
	@$(COMPILE)
	@touch $(VENV)/.installed $@

lint: install-dev
	ruff check .
	ruff format --check .

types: install-dev
	mypy

clean:
	rm -rf $(VENV) .luna
