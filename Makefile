# Everything from a fresh clone on a machine with python3 (3.10 to 3.12), a C++ compiler and make.
# What is installed where: .venv here, and three system libraries for headless rendering (see `make system`).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

DISTRO ?= kilted#         ROS 2 distribution of the wheels: kilted or jazzy
TRANSFORMERS ?= 4#        major version of transformers: 4 or 5
PYTHON ?= python3#        interpreter that the environment is made with
TORCH ?= torch==2.13.0#   PyTorch, installed before all else, so that nothing pulls another build of it
TORCH_INDEX ?=#           index to take it from, where not pip's own (say, one with CPU builds)
RUNS ?= 500#              runs of make chaos
SEED ?= 0#                seed of its first one
ARGS ?=#                  arguments for pytest (make test) or for the demo (make demo)

export DISTRO

$(if $(filter kilted jazzy,$(DISTRO)),,$(error DISTRO=$(DISTRO): expected kilted or jazzy, whose wheels PyPI has))
$(if $(filter 4 5,$(TRANSFORMERS)),,$(error TRANSFORMERS=$(TRANSFORMERS): expected 4 or 5))

# Another distribution or another transformers is another environment: one venv holds one of each.
SUFFIX := $(if $(filter-out kilted,$(DISTRO)),-$(DISTRO))$(if $(filter-out 4,$(TRANSFORMERS)),-transformers$(TRANSFORMERS))
VENV := .venv$(SUFFIX)
BIN := $(CURDIR)/$(VENV)/bin

# The environment stands for itself: nothing of a sourced ROS 2, and not the mark of another environment's wheels.
unexport PYTHONPATH PYTHONHOME AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH
unexport ROS_DISTRO _ROS_WHEELS_BOOTSTRAP_COMPLETE
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export OMP_NUM_THREADS ?= 1

say = @printf '\n==> %s\n' "$(1)"
# pip says what it fetches and installs; what is there already and where it looks are left out.
pip = $(BIN)/python -m pip install --disable-pip-version-check $(1) 2>&1 \
	| sed -u -E '/^Requirement already satisfied|^Looking in |^WARNING: Location |^ *$$/d'

.PHONY: help env system build lint test chaos kill e2e demo clean distclean

help:  ## this list
	@echo 'make TARGET [DISTRO=kilted|jazzy] [TRANSFORMERS=4|5] [ARGS=...]'
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):[^#]*## /  \1\t/' | expand -t 14

env: system $(VENV)/.package  ## .venv with all that is needed; once made, this returns at once and needs no network
	@echo "environment ready: $(VENV) (ROS 2 $(DISTRO), transformers $(TRANSFORMERS))"

system:  ## libraries for headless rendering, installed where that is allowed, else named
	@bash scripts/system_libraries.sh

$(VENV)/bin/python:
	$(call say,$(VENV): new Python environment)
	@$(PYTHON) scripts/check_machine.py
	@$(PYTHON) -m venv $(VENV)
	@$(call pip,--upgrade 'pip>=24')

$(VENV)/.torch: | $(VENV)/bin/python
	$(call say,$(VENV): PyTorch ($(TORCH)))
	@$(call pip,$(TORCH) 'setuptools<81' $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)))
	@touch $@

# Written anew when setup.cfg is newer, changed only when the list is another one.
$(VENV)/requirements.txt: setup.cfg scripts/requirements.py | $(VENV)/bin/python
	@$(BIN)/python scripts/requirements.py --distro $(DISTRO) --transformers $(TRANSFORMERS) \
		all test build colcon > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(VENV)/.requirements: $(VENV)/requirements.txt $(VENV)/.torch
	$(call say,$(VENV): ROS 2 $(DISTRO) wheels and libraries)
	@$(call pip,-r $(VENV)/requirements.txt)
	@touch $@

# Messages and services are built and installed into the environment; groot_ros/*.py is used from here: no build needed.
$(VENV)/.package: $(VENV)/.requirements $(wildcard msg/*.msg srv/*.srv) CMakeLists.txt package.xml pyproject.toml setup.cfg setup.py
	$(call say,$(VENV): messages, services and commands of groot_ros (about half a minute))
	@$(call pip,--no-build-isolation --no-deps --editable .)
	@touch $@

build: env  ## colcon build into build/ install/ log/, on the wheels of the environment
	$(call say,colcon build on ROS 2 $(DISTRO))
	@source $(BIN)/activate && export AMENT_PREFIX_PATH=$$VIRTUAL_ENV CMAKE_PREFIX_PATH=$$VIRTUAL_ENV && \
		colcon --log-base log$(SUFFIX) build --base-paths . --packages-select groot_ros \
		--build-base build$(SUFFIX) --install-base install$(SUFFIX) --event-handlers console_direct+ \
		--cmake-args -DPython3_EXECUTABLE=$(BIN)/python

lint = $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy groot_ros

lint: env  ## ruff check, ruff format --check, mypy
	$(call say,lint)
	@$(lint)

# Tests that start ROS 2 nodes or judge by the clock run one at a time, the others beside each other.
ALONE := test/chaos test/nodes test/closed_loop/test_demo.py test/closed_loop/test_recorder_benchmark.py
pytest = $(BIN)/python -m pytest $(1) || failed=2
all_tests = $(call pytest,-n 2 --dist worksteal $(ALONE:%=--ignore=%)); $(call pytest,$(ALONE))

# The tests run after a failed lint too, so that one run tells all there is; the exit status is of all.
test: env  ## lint and all tests, offline and headless; ARGS go to one pytest: make test ARGS='-k golden'
	$(call say,lint)
	@failed=0; { $(lint); } || failed=1; \
	printf '\n==> pytest\n'; \
	$(if $(strip $(ARGS)),$(call pytest,$(ARGS)),$(all_tests)); \
	if ((failed == 1)); then echo 'the tests passed, lint did not: see above the tests' >&2; fi; exit $$failed

chaos: env  ## seeded faults against the policy node, over DDS: make chaos RUNS=500 SEED=0 (about 1.3 s a run)
	$(call say,chaos)
	@$(BIN)/python test/chaos/chaos_run.py --runs $(RUNS) --seed $(SEED) $(ARGS)

kill: env  ## kill -9 of a writer of datasets at seeded moments: make kill RUNS=200 SEED=0
	$(call say,kill)
	@$(BIN)/python test/dataset/kill_writer.py --runs $(RUNS) --seed $(SEED) $(ARGS)

e2e: env  ## record 150 demonstrations, finetune, evaluate on unseen scenes: half an hour, into e2e/
	$(call say,e2e)
	@$(BIN)/python test/e2e/e2e_run.py $(ARGS)

demo: env  ## a small GR00T that learnt to reach, on 10 unseen scenes: successes, videos, a page (demo/report.html)
	$(call say,demo)
	@$(BIN)/groot-ros demo $(ARGS)

clean:  ## builds and caches, not the environments
	rm -rf build build-* install install-* log log-* *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find groot_ros test scripts launch -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## the environments too
	rm -rf .venv .venv-*
