# `make demo` and `make test` set up .venv with the pinned versions by themselves.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder  # a file in one process

.PHONY: demo test check lock encoder clean

demo: .venv/ready  ## the whole pipeline on the offline demo; ends with the scores and the page
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro
	@echo "dvc.lock and reports/ are yours to commit: another processor gives other last bits, so git has none of ours"

test: .venv/ready  ## all tests, fast and slow, on two processes
	$(PYTEST)

check: .venv/ready  ## what a change must pass
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy pipeline stages && $(PYTEST) -m "not slow"

encoder: .venv/ready  ## train the demo's encoder anew (minutes)
	$(BIN)/python -m avset.sources.demo.train_encoder

lock: .venv/ready  ## pin the versions that are installed now, each with the hashes of all its files, and tell their licences
	$(BIN)/uv pip freeze -q -p $(BIN)/python --exclude-editable | $(BIN)/uv pip compile -q -p $(BIN)/python \
		--all-extras --generate-hashes --no-annotate --no-header --constraints - -o requirements.lock pyproject.toml
	$(BIN)/python tests/notice.py

# The pip that comes with Python installs two packages by their hashes, and goes. uv installs all else by hashes; what has
# to be built is built with the pinned setuptools.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	sed -nE '/^(setuptools|uv)==/,/[^\\]$$/p' requirements.lock > .venv/first.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/first.txt
	$(BIN)/uv pip uninstall --quiet -p $(BIN)/python pip
	$(BIN)/uv pip sync --quiet -p $(BIN)/python --require-hashes --no-build-isolation requirements.lock
	$(BIN)/uv pip install --quiet -p $(BIN)/python --no-deps --no-build-isolation --offline -e .
	touch $@

clean:  ## remove what can be made again
	rm -rf data/*/ .pytest_cache .ruff_cache .mypy_cache
