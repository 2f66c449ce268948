# SPDX-License-Identifier: Apache-2.0
# make demo   from a fresh machine to exported models, a verification table, a picture and a table of speeds
# make test   what CI runs: ruff, mypy, pytest, and the comparison with other projects in an environment of its own
# make docs   the documentation site in site/, strict: a warning is an error
# Variables: PYTHON, VENV, PIP_FLAGS (e.g. an index that has CPU builds of torch), PYTEST_FLAGS

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
PYTEST_FLAGS ?= -n 2 --dist loadfile --max-worker-restart 0 --timeout 900

BIN := $(VENV)/bin
PEERS := $(VENV)-peers
PIP := $(BIN)/python -m pip --disable-pip-version-check
BUILD_FILES := pyproject.toml setup.py CMakeLists.txt constraints.txt $(shell find csrc -type f)

DEMO_CONFIG := deeplabv3plus_mobilenetv2_streets
DEMO_IMAGE := deeplab_infer/assets/street.png

.PHONY: demo test lint format pytest parity docs clean

demo: $(VENV)/.installed
	mkdir -p demo
	$(BIN)/deeplab-export --config $(DEMO_CONFIG) --format onnx --runtime onnxruntime --runtime openvino --force -o demo
	$(BIN)/deeplab-export --config $(DEMO_CONFIG) --fp16 --height 512 --width 1024 --force -o demo
	$(BIN)/deeplab-export --config $(DEMO_CONFIG) --int8 --format openvino --max-drop 1 --force -o demo
	$(BIN)/deeplab-predict demo/$(DEMO_CONFIG).onnx $(DEMO_IMAGE) -o demo --overlay
	$(BIN)/deeplab-bench run demo/$(DEMO_CONFIG).onnx demo/$(DEMO_CONFIG)_int8.xml --seconds 2
	@echo "The picture: demo/street_overlay.png"

test: lint pytest parity

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

pytest: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --ignore=tests/parity $(PYTEST_FLAGS)

# The peers' torchvision is a CUDA build that breaks imports beside a CPU torch: it must not share our environment.
parity: $(VENV)/.installed-dev $(PEERS)/.installed
	DEEPLAB_PYTHON=$(abspath $(BIN))/python $(PEERS)/bin/python -m pytest tests/parity

$(PEERS)/.installed: scripts/install_peers.sh constraints.txt | $(BIN)/python
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip --disable-pip-version-check install $(PIP_FLAGS) -c constraints.txt \
	    torch numpy opencv-python-headless pillow pyyaml rich safetensors pytest
	scripts/install_peers.sh $(PEERS)/bin/python
	touch $@

docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx -q -W --keep-going -b html -c docs -d build/doctrees . site
	@echo "The first page: site/index.html"

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: install Python 3.10 or newer"; exit 1; }
	@command -v c++ >/dev/null || { echo "no C++ compiler was found: install g++"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: on Debian, install python3-venv"; exit 1; }
	$(PIP) install $(PIP_FLAGS) --upgrade pip

$(VENV)/.installed: $(BUILD_FILES) | $(BIN)/python
	$(PIP) install $(PIP_FLAGS) -c constraints.txt -e '.[all]'
	touch $@

$(VENV)/.installed-dev: $(BUILD_FILES) | $(BIN)/python
	CMAKE_ARGS="-DDEEPLAB_STRICT=ON $(CMAKE_ARGS)" $(PIP) install $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	touch $(VENV)/.installed $@

clean:
	rm -f $(VENV)/.installed $(VENV)/.installed-dev
	rm -rf $(PEERS) build dist demo site *.egg-info deeplab_infer/_C*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
