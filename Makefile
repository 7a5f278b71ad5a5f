# Every target sets up what it needs: a machine with Python 3.11, a C++ compiler and a package index is enough.
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV ?= .venv
BIN := $(VENV)/bin
OUTPUT ?= outputs/demo
SEED ?= 0
# Python compiles the modules that are imported; pip would compile all of them, for half a minute.
INSTALL ?= $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: setup demo demo-data demo-detection learning test test-quick test-pythons test-oldest test-asan lint docs bench gpu-check clean

setup: $(VENV)/installed

# PyTorch last: while pip unpacks it on one core, the C++ kernels and Numba's loops are compiled on the other.
$(VENV)/installed: $(VENV)/installed-first
	nice $(BIN)/python mamba/mamba_ssm/ops/selective_scan/kernel_library.py & kernels=$$!; \
		nice $(BIN)/python -m datasets.pixels & pixels=$$!; \
		$(INSTALL) -r requirements.txt; status=$$?; \
		wait $$kernels || status=$$?; wait $$pixels || status=$$?; exit $$status
	$(BIN)/python -m mamba.mamba_ssm.ops.selective_scan.build_extension
	touch $@

# What does not need PyTorch, and is enough to create the demo's data.
$(VENV)/installed-first: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) $$(sed -E 's/ *#.*//; /^(torch|torchvision|timm)[^a-z]/d' requirements.txt)
	touch $@

# What tests and benchmarks want on top, which training does not.
$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt requirements-extras.txt
	$(INSTALL) -r requirements-dev.txt
	touch $@

# Sets up, too; SEED=1 repeats the training with other random numbers on the same data.
demo:
	$(PYTHON) -m tools.demo --output "$(OUTPUT)" --seed $(SEED) --venv $(VENV)

demo-data: $(VENV)/installed-first
	PATH="$(abspath $(BIN)):$$PATH" nice bash scripts/demo_data.sh "$(OUTPUT)/data"

demo-detection: setup
	PATH="$(abspath $(BIN)):$$PATH" bash scripts/demo_detection.sh outputs/demo_detection

# What pretraining, probes and a teacher are worth with few labels, over three seeds; sized for an hour.
learning: demo
	$(BIN)/python -m benchmarks.masked_effect
	$(BIN)/python -m benchmarks.students --demo "$(OUTPUT)"

# Two processes of one thread each, for two cores.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
test: $(VENV)/installed-dev lint
	$(PYTEST)

# For the one who edits: most tests in a little over a minute; no slow ones and none that start processes.
test-quick: $(VENV)/installed-dev
	$(PYTEST) -m "not slow and not processes"

# The quick tests with each Python that is supported and here, each in an environment of its own.
test-pythons:
	@for version in 3.11 3.12 3.13; do \
	    if python$$version -c "" 2>/dev/null; then \
	        $(MAKE) test-quick PYTHON=python$$version VENV=.venv-$$version || exit 1; tried="$$tried $$version"; \
	    else absent="$$absent $$version"; fi; \
	done; echo "Pythons that passed:$${tried:- none}; not on this machine:$${absent:- none}"

# The quick tests with the oldest versions that the requirements admit; uv is pip with that choice.
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(MAKE) test-quick VENV=.venv-oldest \
	    INSTALL=".venv-oldest/bin/uv pip install --quiet --python .venv-oldest --resolution lowest-direct"

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
	rm -rf $(VENV) .venv-* .cache build outputs
