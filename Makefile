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

lock: .venv/ready  ## pin the versions that are installed now
	$(BIN)/uv pip freeze -q -p $(BIN)/python --exclude-editable | sort -f > requirements.lock

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet -p $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet -p $(BIN)/python --no-deps -e .
	touch $@

clean:  ## remove what can be made again
	rm -rf data/*/ .pytest_cache .ruff_cache .mypy_cache
