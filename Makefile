# Two commands set everything up on a bare machine: `make demo` and `make test`.
# Each makes the environment in .venv if it is missing (uv when it is there, else pip).
PYTHON ?= python3
VENV   ?= .venv
STAMP  := $(VENV)/.installed
export OMP_NUM_THREADS ?= 2

.PHONY: demo test lint services clean

$(STAMP): pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
	  UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
	  UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" uv pip install --python $(VENV)/bin/python --compile-bytecode -e ".[dev]"; \
	else \
	  $(PYTHON) -m venv $(VENV) && $(VENV)/bin/python -m pip install -e ".[dev]"; \
	fi
	@touch $@

demo: $(STAMP)
	$(VENV)/bin/medidiff demo

test: $(STAMP) lint
	$(VENV)/bin/python -m pytest -m "not slow and not gpu and not services and not slurm" tests
	$(VENV)/bin/python -m pytest -m "slow and not gpu and not services and not slurm" tests

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pyright

services: $(STAMP)
	PATH="$(abspath $(VENV))/bin:$$PATH" $(VENV)/bin/python -m pytest -m services tests

clean:
	rm -rf $(VENV) build dist *.egg-info
