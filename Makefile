# Every target but gpu installs what it needs. PYTHON must be 3.11 or newer.
PYTHON ?= python3
PORT ?= 8000
ARGS ?=
GPU_OUT ?= bench/results/h200
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install serve test test-long lint bench gpu clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (two to five minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

serve: install  ## the bundled model on 127.0.0.1:$(PORT); ARGS='--model DIR_OR_HUB_ID' for another
	@$(BIN)/raydix serve --port $(PORT) $(ARGS)

test: install
	$(BIN)/pytest $(ARGS)

test-long: install  ## the nightly sizes
	$(BIN)/pytest -m long $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install  ## the figures of docs/
	$(BIN)/python -m bench.quality
	$(BIN)/python -m bench.int4_linear
	$(BIN)/python -m bench.engine
	$(BIN)/python -m bench.strict
	$(BIN)/python -m bench.evict
	$(BIN)/python -m bench.index
	$(BIN)/python -m bench.exactness
	$(BIN)/python -m bench.first_token
	$(BIN)/python -m bench.route
	$(BIN)/python -m bench.load_policies

gpu:  ## tests and figures of the kernels on a GPU, in four minutes, into $(GPU_OUT); installs nothing (docs/performance.md)
	$(PYTHON) -m bench.gpu_run --out $(GPU_OUT)

clean:
	rm -rf $(VENV) *.egg-info build
