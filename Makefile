# Every command of this project; `make help` lists them. Whatever needs .venv makes it first, once.

# Byte code is written even where the environment forbids it: without it every process starts three times slower
# (import distributed: 0.86 s, with byte code 0.29 s), and a run starts many.
unexport PYTHONDONTWRITEBYTECODE

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest

# .venv counts as made if its Python starts and it was made in this very folder: a moved one has dead scripts.
ifneq ($(shell $(PYTHON) -c "print(open('.venv/ready').read())" 2>/dev/null),$(CURDIR))
.PHONY: .venv/ready
endif

.DEFAULT_GOAL := help
.PHONY: help demo test lint types contracts bench chaos slow docs lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: .venv/ready ## from raw files to a trained model and its report, on this machine
	@$(PYTHON) -m flows.cli demo

test: .venv/ready ## the fast tests
	@$(PYTEST)

lint: .venv/ready ## style of the code, and its format
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .

types: .venv/ready ## static types
	@$(PYTHON) -m mypy

contracts: .venv/ready ## which package may import which
	@.venv/bin/lint-imports --no-logo

bench: .venv/ready ## timings against peers; the machine should be quiet
	@$(PYTEST) -m bench --timeout=3600

chaos: .venv/ready ## killed workers, full disks, cut networks
	@$(PYTEST) -m chaos --timeout=900

slow: .venv/ready ## long runs on real data
	@$(PYTEST) -m slow --timeout=1800

docs: .venv/ready ## run the examples in README.md and docs/
	@$(PYTHON) -m doctest -o ELLIPSIS README.md $(wildcard docs/*.md) && echo "the examples hold"

lock: .venv/ready ## renew requirements.lock from pyproject.toml
	@if command -v uv >/dev/null; then uv=uv; else uv=.venv/bin/uv; fi; \
	$$uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	    --all-extras --group dev --custom-compile-command "make lock" --output-file requirements.lock pyproject.toml

clean: ## remove .venv and everything that tools have cached
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/ready: requirements.lock pyproject.toml deploy/environment.sh
	@sh deploy/environment.sh
