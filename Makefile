# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
THREADS = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo test test-all notebooks fuzz truth mutate lint docs design tables bench tightness matrix dist setup clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml checker/pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' --editable ./checker
	touch $@

demo: setup
	$(BIN)/recurjac demo

test: setup
	$(THREADS) $(BIN)/python -m pytest -n 2 -m 'not slow' -q

test-all: setup
	$(THREADS) $(BIN)/python -m pytest -n 2 -q

# the examples, executed, as notebooks beside them
notebooks: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[notebooks]'
	$(THREADS) $(BIN)/python -m scripts.notebooks

# bounds of 2000 random networks of all kinds of layers against sampled truth, in one to three hours; then hostile files
# of every kind for $(FUZZ_SECONDS) seconds: make fuzz FUZZ_SECONDS=36000 FUZZ_FIRST=1000000
FUZZ_SECONDS ?= 600
FUZZ_FIRST ?= 1
fuzz: setup
	$(THREADS) $(BIN)/python -m tests.fuzz
	$(THREADS) $(BIN)/python -m tests.fuzz.readers --files 1000000 --first $(FUZZ_FIRST) --seconds $(FUZZ_SECONDS)

# small mistakes in the arithmetic and the quadratic dual, and which of them no test notices
mutate: setup
	$(THREADS) $(BIN)/python -m scripts.mutate recurjac/arithmetic/definite.py recurjac/arithmetic/interval.py \
		recurjac/arithmetic/base.py recurjac/arithmetic/rounding.py recurjac/quadratic/dual_proof.py --sample 60 \
		--tests tests/test_definite.py tests/test_intervals.py tests/test_rounding.py tests/test_arithmetic.py tests/test_dual.py

# bounds of 10 000 random networks against exact truth, without a tolerance
truth: setup
	$(THREADS) $(BIN)/python -m tests.truth

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(THREADS) $(BIN)/python -m sphinx -E -n -W --keep-going -q -b html -d docs/_build/doctrees docs docs/_build/html
	@echo "docs/_build/html/index.html"

# the picture and the table of imports of docs/design.md, from the code
design: setup
	$(BIN)/python -m scripts.draw_imports

# the constants of the elementary functions, from Arb
tables: setup
	$(BIN)/python -m scripts.tabulate

bench: setup
	$(THREADS) $(BIN)/python -m benchmarks.run --json results/bench.json --plot results/bench.png

# how far certified constants are from attained ones, by the default in 10 s and 120 s
tightness: setup
	$(THREADS) $(BIN)/python -m benchmarks.tightness --json results/tightness.json

# the fast tests with the floor and the newest PyTorch on every supported interpreter that is installed
matrix:
	$(PYTHON) -m scripts.matrix

# sdist and wheel, built twice and compared, checked by twine
dist: setup
	$(BIN)/python -m scripts.distribution

clean:
	rm -rf $(VENV) .matrix dist build docs/_build .mypy_cache .ruff_cache .pytest_cache
