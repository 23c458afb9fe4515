# make setup | test | onnx | slow | benchmarks | lint | docs | demo | check-demo | ci | lock
# Each but lock begins with setup.
PYTHON ?= $(firstword $(foreach p,python3.12 python3.11 python3,$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
VENV ?= .venv
WORKDIR ?= runs/demo
BIN := $(VENV)/bin

.PHONY: setup test onnx slow benchmarks lint docs demo check-demo ci ci-quick ci-slow lock clean
.NOTPARALLEL:  # the tests start two processes themselves

setup: $(VENV)/.done

# The lock file names versions and hashes; `pip` checks both. The package itself is installed in place.
$(VENV)/.done: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "flaxnets needs Python 3.11 or newer; none was found (set PYTHON=/path/to/python3)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# A file's tests run in one process, so that the runs that they share are trained once.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The tests that skip without ONNX, whose converter asks for older libraries than ours and so is not in the lock file.
onnx: setup
	$(BIN)/python -m $$($(BIN)/python -c 'from flaxnets.inference.export import INSTALL_ONNX as command; print(command)') --quiet
	$(BIN)/python -m pytest -n 2 tests/inference/test_export.py -k onnx

# What takes longer: the wheel, installed and used; every block of the documentation; the examples; kills. The longest
# tests come first (conftest.py), and a worker that has no more takes over some of the other's.
slow: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

# The benchmarks, with settings so small that their numbers mean nothing: that they keep working. Those that are not run
# here are in NOT_RUN of benchmarks/test_benchmarks.py.
benchmarks: setup
	$(BIN)/python -m pytest -n 2 benchmarks

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The documentation, into site/. A broken link or reference is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

demo: setup
	$(BIN)/flaxnets train --config=demo --workdir=$(WORKDIR)
	$(BIN)/flaxnets eval --workdir=$(WORKDIR)
	$(BIN)/flaxnets report $(WORKDIR)

# Fails unless the demo's table shows what a channel is worth.
check-demo: demo
	$(BIN)/python tests/check_demo.py $(WORKDIR)

# What must pass on a clean checkout, in two parts that may run on two machines.
ci: ci-quick ci-slow

ci-quick: lint test benchmarks docs check-demo

# ONNX first: the slow tests run the blocks of the documentation, and skip those that need it where it is missing.
ci-slow: onnx slow

# Needs uv. Resolves the newest versions that pyproject.toml admits, for every platform and Python from 3.11.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --extra test --extra docs pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) build site *.egg-info
