# `make luna` grows the first generation; `make test` checks everything. Both install what is missing and then hurry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: luna test install install-dev lint types clean

luna: install
	dvc repro
	@PYTHONPATH=src luna card

test: install-dev lint types
	OMP_NUM_THREADS=1 pytest -n 2

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# One call for all, so that pip looks for versions that go together once.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0 --editable

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: Luna needs Python 3.11 or newer; run make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	$(PIP) .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/pip
	$(PIP) '.[dev]'
	@touch $(VENV)/.installed $@

lint: install-dev
	ruff check .
	ruff format --check .

types: install-dev
	mypy

clean:
	rm -rf $(VENV) .luna
