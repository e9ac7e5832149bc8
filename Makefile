# make demo           set up .venv, serve the demo page, say where; Ctrl-C stops it
# make demo-terminal  set up .venv and watch sentences come back from their embeddings in the terminal
# make test           set up .venv and run every test
# make test-fast      the tests that take no training, no search, no process of their own: a minute
# make lint           what CI checks besides the tests: ruff and mypy
# make format         let ruff rewrite what it can
# make clean          remove .venv and all caches
#
# Set up once, from pyproject.toml and constraints.txt; later calls start at once until one of the two changes.
# PYTHON=... chooses the interpreter (3.11 or later) that .venv is made with. The server's options come from the
# environment: UNEMBED_PORT=8081 make demo.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CLIENTS := $(VENV)/.clients
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python)

.DEFAULT_GOAL := help
.PHONY: browser help demo demo-terminal test test-fast lint format clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(STAMP)
	@echo "Loading the packaged inverter and its encoder; the address follows within seconds ..."
	@exec $(BIN)/unembed serve

SENTENCES := "Her blood pressure was high, so the doctor changed the dose." \
	"Please send the signed contract to our office before Friday." \
	"The library opens at nine and closes when the last reader goes home."

demo-terminal: $(STAMP)
	$(BIN)/unembed invert $(SENTENCES)
	$(BIN)/unembed invert --seconds 60 $(SENTENCES)

# Two processes, each with whole files, so that what a file's tests share is made once. The page's tests look at how
# things move and have the machine to themselves.
test: $(STAMP) $(CLIENTS) browser
	$(BIN)/pytest -n 2 --dist loadfile --ignore tests/browser
	$(BIN)/pytest tests/browser

test-fast: $(STAMP) $(CLIENTS)
	$(BIN)/pytest -n 2 --dist loadfile -m 'not slow' tests

# The page's tests drive the system's Chromium. Where it is missing it is installed, if this user may; else they skip.
browser:
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null 2>&1 || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "Installing Debian's chromium for the page's tests ..." && \
		apt-get update -qq >/dev/null 2>&1 && apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1; } || \
		echo "No Chromium here: the page's tests will be skipped (on Debian: apt-get install chromium)."

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests -name __pycache__ -type d -exec rm -rf {} +

# The build tools go in first, so that what is built here is built with pinned ones: hatchling this package, setuptools
# rouge-score, which has no wheel (and the setuptools that a venv of Python 3.11 brings cannot build one alone).
$(STAMP): pyproject.toml constraints.txt
	@found=; for python in $(CANDIDATES); do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "unembed needs Python 3.11 or later; tried: $(CANDIDATES). Name one: make PYTHON=/path/to/python3.11" >&2; \
		exit 2; \
	fi; \
	echo "Setting up $(VENV) with $$($$found --version); the first time takes some minutes ..."; \
	$$found -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt hatchling setuptools
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $(STAMP)

# The stores' own clients, which only tests need: a third of all that is installed.
$(CLIENTS): $(STAMP)
	@echo "Setting up the vector stores' own clients for the tests ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev,stores-test]'
	@touch $(CLIENTS)
