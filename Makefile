# Every target sets up what it needs: a machine with Python 3.11, a C++ compiler and a package index is enough.
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV ?= .venv
BIN := $(VENV)/bin
OUTPUT ?= outputs/demo
SEED ?= 0
# Python compiles the modules that are imported; pip would compile all of them, for half a minute.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: setup demo demo-detection test test-asan lint docs bench gpu-check clean

setup: $(VENV)/installed

# PyTorch first, so that the C++ kernel is compiled while the rest is installed.
$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint requirements.txt torch torchvision
	$(BIN)/python -m mamba.mamba_ssm.ops.selective_scan.build_extension & kernel=$$!; \
		$(PIP) -r requirements.txt && $(BIN)/python -m datasets.pixels; status=$$?; wait $$kernel && exit $$status
	touch $@

# What tests and benchmarks want on top, which training does not.
$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt requirements-extras.txt
	$(PIP) -r requirements-dev.txt
	touch $@

# Sets up, too; SEED=1 repeats the training with other random numbers on the same data.
demo:
	$(PYTHON) -m tools.demo --output $(OUTPUT) --seed $(SEED) --venv $(VENV)

demo-detection: setup
	PATH="$(abspath $(BIN)):$$PATH" bash scripts/demo_detection.sh outputs/demo_detection

# Two processes of one thread each, for two cores.
test: $(VENV)/installed-dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The kernel's own tests with AddressSanitizer compiled in; takes minutes. It is loaded first, for tests skip without it.
ASAN = VIDEOMAMBAPRO_SANITIZE=address ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0 \
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)"
test-asan: $(VENV)/installed-dev
	$(ASAN) $(BIN)/python -c "from mamba.mamba_ssm.ops.selective_scan import build_extension as b; b.load()"
	$(ASAN) $(BIN)/python -m pytest tests/test_cpu_kernel.py tests/test_cpu_kernel_conv.py tests/test_add_norm.py

# Style and types; basedpyright is pyright with its own Node.js, so that pip alone installs it.
lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/clang-format --dry-run --Werror mamba/csrc/*

# The documentation as a site; REPOSITORY=https://github.com/NAME/VideoMambaPro/blob/main links to the files there.
docs: $(VENV)/installed-dev
	$(BIN)/python -m tools.site --repository "$(REPOSITORY)"

bench: $(VENV)/installed-dev
	$(BIN)/python -m benchmarks.scan
	$(BIN)/python -m benchmarks.model

# On a machine with an NVIDIA GPU: correctness, speed, memory errors, in under nine minutes after the installation.
gpu-check: $(VENV)/installed-dev
	$(BIN)/python -m benchmarks.gpu_check

clean:
	rm -rf $(VENV) .cache build outputs
