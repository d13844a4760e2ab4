# make demo: everything once, on a landscape made for it; again, it goes on where it stood, and
# make demo DEMO_FLAGS=--again starts over.
# make test: the quick suite, under 15 minutes on 2 cores.  make test-all: slow, S3 and chaos tests too.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint clean

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; have = sys.version_info[:2]; sys.exit(None if (3, 11) <= have < (3, 14) else \
	  "Python 3.11 to 3.13 is needed, got %d.%d; name one: make ... PYTHON=python3.12" % have)'
	@echo "Installing into .venv: minutes, and 7 GB, most of it PyTorch."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/python jobs/demo.py $(DEMO_FLAGS)

test: .venv/installed
	$(BIN)/python -m pytest -m "not slow and not s3 and not chaos"

test-all: .venv/installed
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

clean:
	rm -rf .venv build *.egg-info
