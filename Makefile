# What people type. Each command first brings the environment up to date, which takes no time when nothing changed.
#   STACK=onedl         use the maintained forks of the OpenMMLab packages (default: openmmlab, the official ones)
#   VENV=folder         keep the environment elsewhere (default: .venv, or .venv-onedl)
#   PYTHON=python3.12   make the environment with another Python
#   JOBS=1              run the tests in one process (default: 2)
#   ARGS='...'          more arguments for pytest, or for the demo
#   DATA=folder         run the demo on the real sets, whose archives are there (see demo/three_tasks.py)
STACK ?= openmmlab
VENV ?= $(if $(filter openmmlab,$(STACK)),.venv,.venv-$(STACK))
PYTHON ?= python3
JOBS ?= 2
PY := $(VENV)/bin/python

ifeq ($(filter openmmlab onedl,$(STACK)),)
$(error STACK is '$(STACK)': it can be openmmlab or onedl)
endif

# Set in many containers, where each start would then compile all packages again: 10 s instead of 4.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup test test-all pythons clients runtimes backends sisters lint format demo demo-all demo-classification docs figures lock clean
.DEFAULT_GOAL := help

help:  ## list the commands
	@sed -n 's/^#   /  /p' Makefile
	@sed -nE 's/^([a-z-]+):[^#]*## /  make \1: /p' Makefile

setup:  ## make the environment, or bring it up to date
	@$(PYTHON) requirements/install.py --stack $(STACK) --venv $(VENV) $(if $(filter file,$(origin PYTHON)),,--fixed-python)

PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest $(if $(filter-out 0 1,$(JOBS)),-n $(JOBS))

test: lint  ## run the tests, but for the slowest
	$(PYTEST) -m 'not slow and not long' $(ARGS)

test-all: lint  ## run every test
	$(PYTEST) $(ARGS)

pythons: setup  ## run the tests that depend on versions with each Python found, and with the newest torch
	$(PY) requirements/pythons.py $(ARGS)

# An environment on top of the other, whose .pth files count too: on_top NAME
on_top = (test -d $(VENV)-$(1) || $(PY) -m venv --without-pip $(VENV)-$(1)) && \
	$(PY) -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' > $$($(VENV)-$(1)/bin/python -c 'import site; print(site.getsitepackages()[0])')/below.pth
pip_on_top = $(PY) -m pip --python $(VENV)-$(1)/bin/python install -q
PYTEST_ON_TOP = OMP_NUM_THREADS=1 $(VENV)-$(1)/bin/python -m pytest

clients: setup  ## try other people's tools on our networks, in an environment on top of the other
	@$(call on_top,clients)
	@$(call pip_on_top,clients) -r requirements/clients.txt
	$(call PYTEST_ON_TOP,clients) tests/test_clients $(ARGS)

runtimes: setup  ## try the runtimes that networks are exported for, in such an environment
	@$(call on_top,runtimes)
	@$(call pip_on_top,runtimes) -r requirements/runtimes.txt
	@$(call pip_on_top,runtimes) --no-deps -r requirements/executorch.txt
	$(call PYTEST_ON_TOP,runtimes) tests/test_clients/test_runtimes.py tests/test_demo/test_exported_demo.py $(ARGS)

backends: setup  ## try the places that runs can be logged to, in such an environment
	@$(call on_top,backends)
	@$(call pip_on_top,backends) -r requirements/backends.txt
	$(call PYTEST_ON_TOP,backends) tests/test_clients/test_backends.py $(ARGS)

sisters: setup  ## try the sister toolboxes on our backbones, in such an environment
	@$(call on_top,sisters)
	@$(call pip_on_top,sisters) cython==3.3.1
	@$(call pip_on_top,sisters) --no-deps --no-build-isolation -r requirements/sisters.txt
	@folder=$$(echo $(VENV)-sisters/lib/python*/site-packages/mmaction/models/localizers)/drn; \
	mkdir -p "$$folder" && echo 'DRN = None  # the wheel lacks it' > "$$folder/drn.py"
	$(call PYTEST_ON_TOP,sisters) tests/test_clients/test_sister_toolboxes.py $(ARGS)

lint: setup  ## check style, types and the direction of imports
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports --no-logo --no-cache

format: setup  ## put the code into style
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

demo: setup  ## train, test and draw classification, detection and segmentation on real images
	$(PY) demo/three_tasks.py $(if $(DATA),--data $(DATA)) $(ARGS)

demo-all: setup  ## the same, with Mask R-CNN and UperNet
	$(PY) demo/three_tasks.py --all $(ARGS)

demo-classification: setup  ## the demo's first part
	$(PY) demo/three_tasks.py --only classification $(ARGS)

docs: setup  ## build the documentation's site, docs/_build/docs/index.html
	$(PY) -m sphinx -W --keep-going -q -c docs . docs/_build

figures: setup  ## make every picture of README and docs, training the demo where its runs are missing
	$(PY) benchmarks/make_figures.py $(ARGS)

lock:  ## write requirements/lock-*.txt anew after a change to the requirements
	$(PYTHON) requirements/install.py --lock

clean:  ## remove the environments and everything else that can be made again, but no data and no results
	rm -rf .venv .venv-* build dist docs/_build *.egg-info mmdmformer/.mim .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
