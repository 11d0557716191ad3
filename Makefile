# `make demo` shows it work, `make test` runs every test, `make lint` checks style and types.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
UV_LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --custom-compile-command "make lock"

.PHONY: demo test lint format lock wheel clean
.DELETE_ON_ERROR:

demo: .venv/local.stamp
	@$(BIN)/python scripts/demo.py

test: .venv/dev.stamp
	$(BIN)/python -m pytest -n auto $(ARGS)

lint: .venv/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/dev.stamp
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

wheel: .venv/dev.stamp
	$(BIN)/python -m hatchling build -t wheel -d dist

# Newest versions into lock/; the two SDK pairs are what tests/compat installs.
lock: .venv/dev.stamp
	$(UV_LOCK) --upgrade pyproject.toml --extra local --extra data --group test --group lint --group build -o lock/dev.txt
	$(UV_LOCK) --upgrade -c lock/dev.txt pyproject.toml --extra local --group build -o lock/local.txt
	$(UV_LOCK) --upgrade lock/sdk-newest.in -o lock/sdk-newest.txt
	$(UV_LOCK) --upgrade lock/sdk-oldest.in -o lock/sdk-oldest.txt

clean:
	rm -rf .venv .venvs dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.13"; exit 1; }
	@echo "making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/local.stamp: .venv/python.stamp lock/local.txt pyproject.toml
	@echo "installing kruise-agents[local]"
	@$(PIP) --require-hashes -r lock/local.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev.stamp: .venv/local.stamp lock/dev.txt
	@echo "installing what tests and lint need"
	@$(PIP) --require-hashes -r lock/dev.txt
	@touch $@
