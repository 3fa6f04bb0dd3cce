PYTHON ?= python3
BIN := .venv/bin
ENV := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help env book test check demo clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-6s %s\n", $$1, $$2}'

env: $(ENV) ## the environment, in .venv (PYTHON=python3.12 to choose another)

$(ENV): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[book,dev]'
	touch $@

book: $(ENV) ## execute every notebook and build the book into book/_build/html
	$(BIN)/jupyter-book build book --all -W --keep-going

test: $(ENV) ## all tests; the notebooks run, and their checked outputs are compared
	$(BIN)/python -m pytest --nbval-lax tests book/*.ipynb

check: $(ENV) ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

demo: $(ENV) ## search, pretrain, fine-tune and score on the bundled sample, into runs/demo
	$(BIN)/ssnas demo --out runs/demo

clean: ## remove what the other targets built, except the environment and runs
	rm -rf book/_build .pytest_cache .ruff_cache .hypothesis
