PYTHON ?= python3
BIN := .venv/bin
ENV := .venv/.installed
# The book's address, e.g. where it is cloned from; gives its pages Colab and Binder buttons.
REPOSITORY ?=
export SSNAS_REPOSITORY := $(REPOSITORY)
# Where notebooks keep what they computed; `make clean` forgets it.
export SSNAS_CACHE ?= $(CURDIR)/build/cache

# Two small jobs beside each other finish sooner than one after the other on two threads.
export OMP_NUM_THREADS ?= 1
# Threads that wait for each other in a product give the core to others after so many turns.
export GOMP_SPINCOUNT ?= 20000
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile \
	--no-loadscope-reorder --ignore tests/browser
# The first notebook prepares what most read; beside it run those that do without. Files of tests,
# which are smaller, come last, so that no core waits long for the other.
FIRST := $(addprefix book/, $(addsuffix .ipynb, intro house avmnist scale comparison))
NOTEBOOKS := $(FIRST) $(filter-out $(FIRST), $(wildcard book/*.ipynb))
# Where `make wheel` installs: by default an environment that it makes and deletes.
WHEEL_ENV ?= build/wheel/env
SHELL := /bin/bash
export TIMEFORMAT = make $@: %0R s, %0U s of CPU

.DEFAULT_GOAL := help
.PHONY: help env book students refresh test test-all browser wheel bench check demo clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

env: $(ENV) ## the environment, in .venv (PYTHON=python3.12 to choose another)

$(ENV): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	time $(BIN)/python -m pip install --quiet -e '.[book,dev]'
	touch $@

book: $(ENV) ## execute every notebook and build the book into book/_build/html
	$(BIN)/python book/_tools/vendor.py
	time ($(BIN)/python book/_tools/notebooks.py execute \
	&& $(BIN)/jupyter-book build book --all -W --keep-going)

students: $(ENV) ## the notebooks without solutions and outputs, into build/students
	$(BIN)/python book/_tools/notebooks.py students build/students

refresh: $(ENV) ## execute every notebook in place; seconds, memory and size of each
	time $(BIN)/python book/_tools/notebooks.py refresh --table

test: $(ENV) ## the tests; the notebooks run, and their checked outputs are compared
	time $(PYTEST) -m "not thorough" --nbval-lax $(NOTEBOOKS) tests

test-all: test ## and kills, launchers, Dask, fuzz and published encoders
	time $(PYTEST) -m thorough tests

browser: $(ENV) ## open every page of the built book in Chromium, and move its widgets
	time $(BIN)/python -m pytest -rs tests/browser

wheel: ## the wheel in an environment of its own, outside of the checkout: demo, predict, save
	rm -rf build/wheel
	$(PYTHON) -m venv $(WHEEL_ENV)
	$(WHEEL_ENV)/bin/python -m pip wheel --quiet --no-deps -w build/wheel .
	$(WHEEL_ENV)/bin/python -m pip install --quiet build/wheel/*.whl
	cd build/wheel && time $(abspath $(WHEEL_ENV))/bin/python -I $(CURDIR)/tests/outside.py .
	rm -rf build/wheel/env # several GB

bench: $(ENV) ## seconds of a search step, beside a loop oracle and the matrix-product rate
	time OMP_NUM_THREADS=2 $(BIN)/python tests/benchmarks/bench.py

check: $(ENV) ## lint, formatting and types
	time ($(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright)

demo: $(ENV) ## search, pretrain, fine-tune and score on the bundled sample, into runs/demo
	time env -u OMP_NUM_THREADS $(BIN)/ssnas demo --out runs/demo

clean: ## remove what the other targets built, except the environment and runs
	rm -rf book/_build build .pytest_cache .ruff_cache .hypothesis
