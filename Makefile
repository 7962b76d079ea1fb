# The names that people and scripts rely on (docs/operations.md). Everything that needs root uses sudo if you
# are not root.
.PHONY: setup demo test lint pytest lab bench
.NOTPARALLEL:

BIN := .venv/bin
ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)
SITES ?= 3
TESTS ?=

setup:
	@sh scripts/setup.sh

demo: setup
	@$(ROOT) $(BIN)/python -m diminet.lab.demo

test: setup lint pytest

lint:
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

pytest:
	$(ROOT) $(BIN)/pytest $(TESTS)

lab: setup
	$(ROOT) $(BIN)/diminet lab up --sites $(SITES)

bench: setup
	$(ROOT) $(BIN)/diminet bench create
