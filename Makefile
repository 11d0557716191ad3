# `make demo` shows it work, `make check` is for the minute between two changes, `make test` runs every test.
PYTHON ?= python3
BIN := .venv/bin
# Tests wait for other processes more than they compute.
WORKERS ?= $(shell expr 2 '*' $$(getconf _NPROCESSORS_ONLN))
# Tests start thousands of interpreters, which would compile the same modules again and again.
export PYTHONDONTWRITEBYTECODE :=
QUIET := --quiet
PIP = $(BIN)/python -m pip --disable-pip-version-check install $(QUIET)
UV_LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --custom-compile-command "make lock"

BENCHMARK := PYTHONPATH=tests:tests/integration:scripts $(BIN)/python -m benchmarks.

OTHER_LOCKS := $(patsubst %.in,%.txt,$(wildcard lock/*.in))

.PHONY: demo check pure test coverage compat bench-patch bench-sandbox bench-fleet bench-proxy pictures soak fuzz kills drift lowest newest reference docs lint format lock wheel release-check hooks hooks-install clean FORCE
.DELETE_ON_ERROR:

demo: QUIET :=  # whoever runs it for the first time sees what is being installed
demo: .venv/local.stamp
	@$(BIN)/python scripts/demo.py

# Style, types, and the tests that start no process: under a minute on two cores.
check: .venv/dev.stamp
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint pure

pure: .venv/dev.stamp
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not live and not slow" $(ARGS)

test: .venv/dev.stamp
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# All tests, measured: htmlcov/index.html has the lines. Fails below $(FLOOR) percent. CONTRIBUTING.md says what is not
# measured.
FLOOR := 87
coverage: .venv/dev.stamp
	rm -rf .coverage .coverage.* htmlcov
	$(BIN)/coverage run -m pytest -q -n $(WORKERS) --dist worksteal $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report --fail-under $(FLOOR)

# Every supported release of the SDK against the embedded manager; writes docs/reference/compatibility.md. Goes on where it was
# stopped. ARGS="--only 2.63.0" runs one release, ARGS="--workers 8" more at once.
compat: .venv/dev.stamp
	PYTHONPATH=tests $(BIN)/python scripts/compat.py $(ARGS)

# Each bench-* writes its figures to docs/benchmarks/<name>.json, and from them all pages and pictures on figures.
# What the patch costs and gains; writes docs/benchmarks/patch.md.
bench-patch: .venv/dev.stamp
	$(BENCHMARK)patch

# What one sandbox costs to work in, beside a plain kernel, subprocess.run, nginx and a file server in Go; writes
# docs/benchmarks/sandbox.md. Without `apt-get install nginx-light curl golang-go`, these parts are left out.
bench-sandbox: .venv/dev.stamp
	$(BENCHMARK)sandbox

# What it costs to make and to keep many sandboxes, beside a plain Jupyter kernel; writes docs/benchmarks/fleet.md.
# ARGS="--live 20" makes it smaller.
bench-fleet: .venv/dev.stamp
	$(BENCHMARK)fleet $(ARGS)

# What kruise-agents proxy costs beside nginx; writes docs/benchmarks/proxy.md. Needs nginx-light and curl.
bench-proxy: .venv/dev.stamp
	$(BENCHMARK)proxy

# The pages and pictures from the figures that are there, without measuring: docs/benchmarks/*.md and
# docs/explanation/performance.md with its *.svg.
pictures: .venv/local.stamp
	$(BENCHMARK)written $(ARGS)

# Ten thousand sandboxes made, used and killed: nothing may be left. ARGS="--cycles 200" for a short one.
soak: .venv/dev.stamp
	$(BENCHMARK)soak $(ARGS)

# Twenty times as many inputs for each fuzz test as the suite tries: heads, forms, frames, answers of sandboxes,
# and state folders.
fuzz: .venv/dev.stamp
	$(BIN)/python -m pytest -q -n $(WORKERS) -m hypothesis --hypothesis-profile=fuzz --timeout=900 $(ARGS)

# A busy manager killed two hundred times: nothing that it had answered for may be lost. ARGS="--kills 20" for a short
# one.
kills: .venv/dev.stamp
	$(BENCHMARK)kills $(ARGS)

# Whether the newest SDK and uvicorn, pre-releases included, still have every place that is patched or built on.
drift: .venv/dev.stamp
	@$(BIN)/python scripts/drift.py

# The demo and the quick tests on the oldest, or the newest, versions that pyproject.toml permits, instead of those of
# lock/. ARGS=python3.13 for another Python.
lowest newest: .venv/dev.stamp
	@WORKERS=$(WORKERS) $(BIN)/python scripts/versions.py $@ $(ARGS)

# The generated pages of docs/reference, from the code.
reference: .venv/local.stamp
	PYTHONPATH=scripts $(BIN)/python -m reference $(ARGS)

# The pages of docs/ as a site, in site/. Needs nothing but the network, once, for what lock/docs.txt names.
docs: .venv/dev.stamp
	@PYTHONPATH=tests $(BIN)/python scripts/docs.py

lint: .venv/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/dev.stamp
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

wheel: .venv/dev.stamp
	$(BIN)/python -m hatchling build -t wheel -d dist

# Builds wheel and sdist into dist/ and looks at them, also installed; ARGS=--release before a release.
release-check: .venv/dev.stamp
	@PYTHONPATH=tests:scripts $(BIN)/python scripts/release_check.py $(ARGS)

# The hooks of .pre-commit-config.yaml, over all files.
hooks: .venv/dev.stamp
	@$(BIN)/python scripts/tool.py pre-commit run --all-files --show-diff-on-failure $(ARGS)

# Runs them before every commit in this clone.
hooks-install: .venv/dev.stamp
	@$(BIN)/python scripts/tool.py pre-commit install

# Newest versions into lock/; *.in are environments of their own, below .venvs/: the SDK pairs whose tests
# `make test` runs (tests/compat/test_pairs.py), the clients of tests/clients/, and tools that must not mix with them.
lock: .venv/dev.stamp $(OTHER_LOCKS)
	$(UV_LOCK) --upgrade pyproject.toml --extra local --extra cli --extra data --extra languages --group test --group lint --group build -o lock/dev.txt
	$(UV_LOCK) --upgrade -c lock/dev.txt pyproject.toml --extra local --group build -o lock/local.txt
	cd tests/clients/javascript && npm update --package-lock-only --omit-lockfile-registry-resolved

lock/%.txt: lock/%.in .venv/dev.stamp FORCE
	$(UV_LOCK) --upgrade $< -o $@

clean:
	rm -rf .venv .venvs dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis

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
