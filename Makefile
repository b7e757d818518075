# One command each; everything is installed into .venv. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := admin_console audit_log authz_server countersign credential_providers database \
            idp_connectors listeners mcp_gateway outbound policies registry token_exchange
SOURCES := $(PACKAGES) tests bench compose examples
PURE_TESTS := tests/token_exchange tests/policies tests/properties
UNIT := -q -n 2 -m "not processes and not slow"

# Some images set this; every process of every test would then compile its sources once more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run run-keycloak services test check lint unit soak format docs bench mutation lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

# pip says what it loads, and how far it is, where somebody looks; into a file it says nothing.
PIP = quiet=; [ -t 1 ] || quiet=--quiet; $(BIN)/pip install $$quiet --disable-pip-version-check
packages = $$(grep -c == $(1)) packages of $(1)

$(VENV)/run.stamp: requirements/run.lock pyproject.toml
	@echo "installing what Countersign needs, once:"
	@echo "  1/3 a Python environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "  2/3 $(call packages,requirements/run.lock) (about a minute)"
	@$(PIP) --require-hashes -r requirements/run.lock
	@echo "  3/3 Countersign itself, from this directory"
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.lock $(VENV)/run.stamp
	@echo "installing what the tests need, once:"
	@echo "  $(call packages,requirements/dev.lock) (about a minute)"
	@$(PIP) --require-hashes -r requirements/dev.lock
	@touch $@

run: $(VENV)/run.stamp ## start everything, play the story; ONCE=1 ends after it; PORTS=a,b,c,d
	@$(BIN)/python -m compose.demo.story $(if $(ONCE),--once) $(if $(PORTS),--ports $(PORTS))

run-keycloak: $(VENV)/run.stamp ## the same with people at a real Keycloak, installed if need be
	@$(BIN)/python -m compose.demo.story --keycloak $(if $(ONCE),--once)

check: lint unit ## format, lint, types, import contracts, unit tests (about four minutes)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

unit: $(VENV)/dev.stamp
	$(BIN)/pytest $(UNIT) $(PURE_TESTS) \
	    --cov=token_exchange --cov=policies --cov-branch --cov-fail-under=100
	$(BIN)/pytest $(UNIT) $(addprefix --ignore=,$(PURE_TESTS))

services: $(VENV)/dev.stamp ## install the foreign servers the tests talk to (minutes, once, into ~/.cache)
	@$(BIN)/python -m tests.services

test: unit services ## every test, with the real processes and foreign servers
	$(BIN)/pytest -q -n 3 --dist loadfile --no-loadscope-reorder \
	    -m "(processes or slow) and not soak" || { \
	    echo "once more, alone, what failed beside the others:"; \
	    $(BIN)/pytest -q --last-failed -m "(processes or slow) and not soak"; }

soak: $(VENV)/dev.stamp ## sabotage, and killing under load: nothing unnoticed, lost or doubled
	$(BIN)/pytest -q -m soak

format: $(VENV)/dev.stamp ## rewrite the sources in the house format
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: $(VENV)/dev.stamp ## our processes and the peers, interleaved, as ratios
	$(BIN)/python -m bench.run

mutation: $(VENV)/dev.stamp ## mutate the two pure packages; at least 90 % must be caught
	$(BIN)/python tests/mutation.py

docs: $(VENV)/dev.stamp ## write the generated pages of docs/ again
	$(BIN)/python -m tests.generate_docs

lock: ## pin every dependency again
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --no-header --no-emit-index-url \
	    --no-emit-find-links --extra demo -o requirements/run.lock pyproject.toml
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --no-header --no-emit-index-url \
	    --no-emit-find-links -c requirements/run.lock -o requirements/image.lock pyproject.toml
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --no-header --no-emit-index-url \
	    --no-emit-find-links --allow-unsafe --extra demo --extra dev -c requirements/run.lock \
	    -o requirements/dev.lock pyproject.toml

clean: ## remove what the commands made
	rm -rf $(VENV) .run .run-* .mypy_cache .ruff_cache .pytest_cache .hypothesis mutants
