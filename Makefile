# Everything lives in .venv, made from pyproject.toml the first time it is needed.
PYTHON ?= python3
BIN := .venv/bin
# Tests start the package in hundreds of processes, each of which would compile it.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check lint long oldest docs format clean

demo: .venv/.demo ## train on digits with 40 % label noise, show the table, write report.html
	$(BIN)/noisylabels demo

test: .venv/.dev ## lint, types, documentation, every test but the long ones
	$(MAKE) --jobs 2 lint docs
	$(BIN)/pytest -n 3 --dist worksteal

check: lint ## lint, types, fast tests
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

lint: .venv/.dev ## format, lint, layers, types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

long: .venv/.dev ## the tests that `make test` leaves out
	$(BIN)/pytest -m long

oldest: ## the tests of the core with the oldest torch that is supported
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet torch==2.6.0 torchvision==0.21.0 hypothesis pytest --editable '.[train,report]'
	.venv-oldest/bin/pytest -p no:cacheprovider -m "not slow and not long" tests/test_losses.py \
		tests/test_schedules.py tests/test_noise.py tests/test_estimation.py tests/test_theory.py \
		tests/test_fused.py tests/test_labels.py tests/test_clipping.py tests/test_linear.py tests/methods \
		tests/features/test_folding.py

docs: .venv/.dev ## build the documentation into docs/_build/html, every warning an error
	$(BIN)/sphinx-build -q -W --keep-going -E -j 24 docs docs/_build/html

format: .venv/.dev ## format, and mend what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove the environment and caches, not the runs
	rm -rf .venv .venv-oldest docs/_build .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/.demo: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[train,report,features,hf]'
	touch $@

.venv/.dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ .venv/.demo
