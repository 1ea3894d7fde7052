# Everything is run in .venv, which any of the targets makes. PYTHON=python3.12 make ... takes another interpreter.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo zoo mutate test test-slow test-cpp test-cpp-sanitized fuzz-cpp test-gpu lint types format bench bench-costs clean

help:  ## What there is to make.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1	/' | expand -t 20

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14) and "Python 3.11 to 3.13 is needed: PYTHON=python3.12 make ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: .venv/installed  ## Train a small ResNet on scanned digits, export it, run it, compare.
	$(BIN)/python examples/digits.py

TIER := not slow and not zoo and not cpp
test: .venv/installed lint types  ## Lint, types and every test that takes seconds.
	$(BIN)/python -m pytest -m "$(TIER)"

test-slow: .venv/installed  ## The tests that take minutes.
	$(BIN)/python -m pytest -m slow

CPP := build/cpp
test-cpp: .venv/installed  ## Build the C++ runtime, warnings being errors, and run its tests.
	cmake -S runtime/cpp -B $(CPP) -DCMAKE_BUILD_TYPE=Release -DRESNET_RUNTIME_STRICT=ON -DRESNET_RUNTIME_TESTS=ON \
	  -DRESNET_RUNTIME_EXAMPLES=ON -DRESNET_RUNTIME_SANITIZE=$(SANITIZE) \
	  -DOpenVINO_DIR="$$($(BIN)/python -c 'import importlib.util as u; print(u.find_spec("openvino").submodule_search_locations[0])')/cmake"
	cmake --build $(CPP) --parallel 2
	RESNET_CPP_BUILD=$(CPP) $(BIN)/python -m pytest tests/cpp

test-cpp-sanitized: .venv/installed  ## The same under sanitizers.
	$(MAKE) test-cpp CPP=build/cpp-sanitized SANITIZE=address,undefined

fuzz-cpp:  ## Fuzz the manifest's reader for a minute, and that of check.npz; needs Clang.
	cmake -S runtime/cpp -B build/cpp-fuzz -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_C_COMPILER=clang -DWITH_OPENVINO=OFF \
	  -DRESNET_RUNTIME_FUZZER=ON
	cmake --build build/cpp-fuzz --target manifest_fuzzer npz_fuzzer
	@mkdir -p build/corpus build/corpus-npz
	@for bundle in tests/runtime/golden/*; do \
	  cp $$bundle/manifest.json build/corpus/$$(basename $$bundle); cp $$bundle/check.npz build/corpus-npz/$$(basename $$bundle); done
	@printf "\001\223NUMPY\001\000\070\000{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}\n1234" > build/corpus-npz/array
	build/cpp-fuzz/manifest_fuzzer -max_total_time=60 -max_len=65536 build/corpus
	build/cpp-fuzz/npz_fuzzer -max_total_time=20 -max_len=65536 -rss_limit_mb=4096 build/corpus-npz

test-gpu: .venv/installed  ## The tests that need an NVIDIA GPU; without one they fail.
	$(BIN)/python -m pytest -m gpu --require-gpu

zoo: .venv/installed  ## Every ResNet of timm, torchvision and others through the exporter: docs/models.md, in an hour or more.
	$(BIN)/python -m tests.zoo
	$(BIN)/python -m pytest -m zoo

mutate: .venv/installed  ## Delete one call after the other from the TensorRT backend: does a test notice?
	$(BIN)/python -m tests.runtime.mutate_tensorrt

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

format: .venv/installed  ## Mend what ruff can mend.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed  ## How fast a ResNet-50 answers here, beside all else one would pick: build/bench.{json,html,png}.
	@mkdir -p build
	$(BIN)/resnet-bench run --against all --rounds 12 --cold-starts 3 --json build/bench.json --html build/bench.html --png build/bench.png

bench-costs: .venv/installed  ## What an export, a call and an import cost on this machine.
	$(BIN)/resnet-bench import
	$(BIN)/resnet-bench overhead
	$(BIN)/resnet-bench embed $(if $(wildcard build/cpp/cost),--cpp build/cpp)
	$(BIN)/resnet-bench export

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
