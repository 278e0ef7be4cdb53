# The project's commands. `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run test check bench reference lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# Each stamp is newer than the lock file it was installed from, so a changed lock installs again.
.venv/.runtime: requirements/runtime.txt requirements/assets.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/assets.txt
	$(BIN)/python scripts/link.py
	@touch $@

.venv/.dev: .venv/.runtime requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

setup: .venv/.runtime ## make .venv with the locked dependencies
setup-dev: .venv/.dev ## the same, with what the tests need

run: setup ## start every service in one process
	$(BIN)/sealwire up

test: export PYTHONDONTWRITEBYTECODE =
test: setup-dev ## run every check and every test
	$(BIN)/python scripts/check.py --collect
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: setup-dev ## lint, types, import rules, generated reference
	$(BIN)/python scripts/check.py

bench: setup-dev ## run the benchmarks, each beside its reference
	$(BIN)/python -m benchmarks

reference: setup-dev ## write docs/reference from the code
	$(BIN)/python scripts/reference.py

lock: setup-dev ## resolve requirements/*.in into hashed locks
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 requirements/runtime.in -o requirements/runtime.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 requirements/dev.in -o requirements/dev.txt
	$(BIN)/uv pip compile -q --universal --no-deps --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 requirements/assets.in -o requirements/assets.txt

clean: ## remove what the build made (never the data folder)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
