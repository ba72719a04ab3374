# The two commands of a newcomer: `make demo` and `make test`. `make help` lists the rest.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RECIPE := pyproject.toml constraints.txt
# One thread a library: oversubscribed thread pools ruin both speed and reproducibility.
THREADS := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST := $(THREADS) $(BIN)/python -m pytest -q

.PHONY: help demo demo-all test test-torch test-zk test-robot test-full lint format train-arm train-net \
	train-doom bench-strict bench-verified prove-net parity-strict peer-tests clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

demo: $(VENV)/.core ## install the core and run the demonstration
	@$(BIN)/interlock demo --output demo-output

demo-all: $(VENV)/.extras ## the demonstration with every step, extras installed
	@$(BIN)/interlock demo --output demo-output --prove

test: $(VENV)/.test ## install what the tests need, without torch, and run them
	$(PYTEST) -n 2 -m "not torch and not robot and not zk"

test-torch: $(VENV)/.torch ## the tests that need torch
	$(PYTEST) -m torch

test-zk: $(VENV)/.test ## circuits, proofs and the verifier, with real proofs
	$(PYTEST) -n 2 -m zk

test-robot: $(VENV)/.robot ## judge the arm's joint rates with pinocchio and MuJoCo (450 MB)
	$(PYTEST) -m robot -rP

test-full: $(VENV)/.torch ## every suite at its full count, then parity with the peer
	INTERLOCK_FULL=1 $(PYTEST) -n 2 -m "not robot"
	$(THREADS) $(BIN)/python bench/strict_parity.py

lint: $(VENV)/.lint ## ruff and mypy strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.lint ## let ruff rewrite the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train-arm: $(VENV)/.torch ## train the arm's model again and replace the shipped bundle
	$(THREADS) $(BIN)/python scripts/train_arm.py

train-net: $(VENV)/.train ## train the digits' LeNet again and replace models/net
	$(THREADS) $(BIN)/python scripts/train_net.py

train-doom: $(VENV)/.train ## train the game's network again and replace models/doom
	$(THREADS) $(BIN)/python scripts/train_doom.py

bench-strict: $(VENV)/.torch ## ratios of the strict path against its peer and bare baselines
	$(THREADS) $(BIN)/python bench/strict.py

prove-net: $(VENV)/.extras ## prove all slices of models/net, verify the bundle (takes minutes)
	@rm -rf results/prove-net
	@mkdir -p results
	$(THREADS) $(BIN)/interlock verified prove models/net --output results/prove-net \
		--key-bytes 300000000 --memory-bytes 1500000000
	$(THREADS) $(BIN)/interlock verified verify results/prove-net

bench-verified: $(VENV)/.test ## ratios of the slices and circuits against whole models
	$(THREADS) $(BIN)/python bench/verified.py

parity-strict: $(VENV)/.torch ## masks and bits against the peer, a million pairs a dtype
	$(THREADS) $(BIN)/python bench/strict_parity.py

peer-tests: $(VENV)/.torch ## the peer's own tests of strict inference, from its sdist
	$(THREADS) $(BIN)/python tests/peers/run.py

clean: ## remove the environment and everything that the commands above made
	rm -rf $(VENV) demo-output results build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# A stamp, since an interrupted venv has a python already, but no pip.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "MISSING: Python 3.11 or newer on the PATH" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "MISSING: Python 3.11 or newer; $(PYTHON) is older, or does not run" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "MISSING: the venv module of" \
		"$(PYTHON) (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.made $(RECIPE)
	@echo "installing the core"
	@$(PIP) -e .
	@touch $@

$(VENV)/.extras: $(VENV)/.core
	@echo "installing the extras: sign, numba, zk"
	@$(PIP) -e '.[sign,numba,zk]'
	@touch $@

$(VENV)/.test: $(VENV)/.extras
	@echo "installing what the tests need"
	@$(PIP) -e '.[test,sign,numba,zk]'
	@touch $@

$(VENV)/.torch: $(VENV)/.test
	@echo "installing torch"
	@$(PIP) -e '.[test,sign,numba,zk,torch]'
	@touch $@

$(VENV)/.train: $(VENV)/.core
	@echo "installing torch and scikit-learn"
	@$(PIP) -e '.[train]'
	@touch $@

$(VENV)/.robot: $(VENV)/.test
	@echo "installing pinocchio and MuJoCo"
	@$(PIP) -e '.[test,sign,numba,zk,robot]'
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	@$(PIP) -e '.[test,lint]'
	@touch $@
