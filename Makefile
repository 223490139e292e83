# make demo and make test need Python 3.10 or newer and the package registry, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Benchmarks measure the package as users install it.
BENCH_VENV := .venv-bench
BENCH_BIN := $(BENCH_VENV)/bin
SOURCES := $(shell find filter_engine plugin -name __pycache__ -prune -o -print)

.PHONY: help demo test lint bench bench-forward bench-fluent-bit agents-table soak chaos hostile fuzz mutants oracle format clean

help:
	@echo "make demo    run a generated audit log through the filter and show what it does"
	@echo "make test    lint, type check and run every test"
	@echo "make bench   compare speeds (needs a few minutes); with BASELINE=/path/to/bin/kube-audit-filter, two versions"
	@echo "make bench-forward      the same for the forward proxy"
	@echo "make bench-fluent-bit   the same in a Fluent Bit (on the PATH, or named by FLUENT_BIT)"
	@echo "make agents-table       which configurations work in which agents (FLUENT_BITS=\"PATH ...\" FLUENTDS=\"PATH ...\")"
	@echo "make soak    ten minutes of mixed load with reloads: memory, and where every record went"
	@echo "make chaos   a minute of load on the forward proxy while everything is restarted at random"
	@echo "make hostile what hostile input costs: memory, CPU, and the longest wait of others (a few minutes)"
	@echo "make fuzz    feed the filter with what a fuzzer comes up with (SECONDS=600)"
	@echo "make mutants put small faults into the code, and show those that no test notices (MUTANTS=40, SEED, ROOM)"
	@echo "make oracle  ask an SMT solver what the exact analyses answer, about PAIRS=10000 pairs of policies (a quarter of an hour)"
	@echo "make format  format the code"
	@echo "make clean   remove the virtual environment and caches"

# Tests that run at a time. Most of them wait: twice as many as two cores have is the quickest.
WORKERS ?= 4

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/.ready
	@$(BIN)/python -m benchmarks.demo

test: lint
	$(BIN)/pytest -n $(WORKERS)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# setuptools puts what is in build/lib into the wheel, also what is no longer in the sources.
$(BENCH_VENV)/.ready: pyproject.toml $(SOURCES)
	$(PYTHON) -m venv $(BENCH_VENV)
	rm -rf build/lib build/bdist.* $(BENCH_VENV)/wheel
	$(BENCH_BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(BENCH_VENV)/wheel .
	wheel=$$(echo $(BENCH_VENV)/wheel/*.whl) \
	&& $(BENCH_BIN)/pip install --quiet --disable-pip-version-check "$$wheel[bench,uvloop]" \
	&& $(BENCH_BIN)/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$$wheel"
	@touch $@

# What is set for make is set for the benchmark: EVENTS, ROUNDS, ROWS, BASELINE, OUTPUT, SAVE.
bench: $(VENV)/.ready $(BENCH_VENV)/.ready
	@$(BIN)/python -m benchmarks.bench

bench-forward: $(VENV)/.ready $(BENCH_VENV)/.ready
	@$(BIN)/python -m benchmarks.forward

bench-fluent-bit: $(VENV)/.ready $(BENCH_VENV)/.ready
	@$(BIN)/python -m benchmarks.fluent_bit

hostile: $(VENV)/.ready
	@$(BIN)/python -m tests.hostile

agents-table: $(VENV)/.ready
	@FLUENT_BITS="$(FLUENT_BITS)" FLUENTDS="$(FLUENTDS)" $(BIN)/python -m tests.agents.table

soak: $(VENV)/.ready
	@$(BIN)/python -m benchmarks.soak

# Everything random in it follows from CHAOS_SEED, but for the moments at which things happen.
CHAOS_SECONDS ?= 60
chaos: $(VENV)/.ready
	@CHAOS_SECONDS=$(CHAOS_SECONDS) $(BIN)/pytest -q -s tests/plugin/forward/test_chaos.py -k restarted_at_random

# atheris has no wheels for every Python; it is not needed for anything else.
SECONDS ?= 600
fuzz: $(VENV)/.ready
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@$(BIN)/python -m tests.fuzz.fuzz_stream -max_total_time=$(SECONDS)

# What is set for make is set for the run: MUTANTS, SEED, ROOM=plugin/scan, MUTANT_SECONDS, JOBS.
mutants: $(VENV)/.ready
	@$(BIN)/python -m tests.mutation.run

# A pair that the two do not agree on is shown with its seed.
PAIRS ?= 10000
oracle: $(VENV)/.ready
	@PAIRS=$(PAIRS) $(BIN)/pytest -q -n $(WORKERS) tests/filter_engine/analysis/test_oracle.py

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(BENCH_VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
