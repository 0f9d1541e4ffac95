# make run    a daemon with the shipped agents, on its own PostgreSQL and its own language model
# make chat   talk to one of them (in a second terminal)
# make test   the test suite
# make check  everything CI would complain about, then the tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests share one server and one model; two cores are the smallest machine they are meant for.
JOBS ?= 2

.PHONY: run chat test check lint types docs constraints clean

run: $(VENV)/.runs
	@$(BIN)/cirkelline up

chat: $(VENV)/.runs
	@$(BIN)/cirkelline chat

test: $(VENV)/.develops
	$(BIN)/pytest -n $(JOBS) --dist loadgroup

check: lint types test

lint: $(VENV)/.develops
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/deptry .

types: $(VENV)/.develops
	$(BIN)/mypy
	$(BIN)/pyright

docs: $(VENV)/.develops
	$(BIN)/python -m cirkelline.runtime.cli.reference
	$(BIN)/python -m cirkelline.configs.reference

constraints:
	rm -rf build/newest && $(PYTHON) -m venv build/newest
	build/newest/bin/pip install --quiet --disable-pip-version-check '.[dev]'
	@{ echo '# What make installs, exactly. Made by `make constraints` from the newest releases that pyproject.toml admits.'; \
	   build/newest/bin/pip freeze --exclude cirkelline | grep -v '^cirkelline'; } > constraints.txt

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit("cirkelline needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12 run") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Python cannot make virtual environments here: install its venv module (Debian: apt install python3-venv)"; exit 1; }
	@touch $@

$(VENV)/.runs: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing cirkelline into $(VENV) (once; about a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.develops: $(VENV)/.runs
	@echo "Installing what the tests need into $(VENV) (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
