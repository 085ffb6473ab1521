# One verb per line; `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
PEERS := peers peers-arq
LOCK := requirements/dev.lock
SBOM := dist/sbom.json

.DEFAULT_GOAL := help
.PHONY: help install run test faults bench against check audit sbom fix generate lock clean

help: ## list the verbs
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

install: .venv/installed ## make .venv with the project and its pinned dependencies

.venv/installed: $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@grep -A 40 '^uv==' $(LOCK) | awk 'NR > 1 && /^[^ ]/ {exit} {print}' > .venv/uv.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes $(LOCK)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'import sys; sys.version_info < (3, 14) or print("No embedded database for Python 3.14 or newer: have mongod on the PATH, set OPENMCP_MONGODB_URI, or make clean and use PYTHON=python3.13")'
	@touch $@

run: install ## start everything and run a sample task; ARGS="--once" passes arguments on
	@$(BIN)/openmcp dev $(ARGS)

# Dozens of processes start, and most of a start would be compiling. So bytecode is kept, out of the way of the sources,
# even where the environment says that Python should keep none.
run test faults: export PYTHONDONTWRITEBYTECODE :=
run test faults: export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/bytecode

test: install ## run the tests, but for those marked slow; ARGS="-k name" passes arguments on
	@$(BIN)/python -m pytest --numprocesses 4 -m "not slow" $(ARGS)

faults: install ## run the slow tests: kill -9 amid 200 tasks with ten seeds, a fleet under fire for a minute, floods; ARGS="-k server" passes arguments on
	@$(BIN)/python -m pytest -m slow --seeds 10 $(ARGS)

bench: install $(PEERS:%=.venv/%/installed) ## measure against peers and lower bounds; writes bench/results. ARGS="submit --rounds 3" passes arguments on
	@$(BIN)/python -m bench $(ARGS)

against: install ## fail if an operation has become dearer by more than 15 % of CPU time; ARGS="REVISION" beside which, HEAD by default
	@$(BIN)/python -m bench.against $(ARGS)

# The peers have environments of their own: nothing of theirs is the product's.
.venv/%/installed: requirements/%.lock | .venv/installed
	@test -x .venv/$*/bin/python || $(BIN)/python -m venv --without-pip .venv/$*
	@$(BIN)/uv pip sync --quiet --python .venv/$*/bin/python --require-hashes $<
	@touch $@

check: install ## lint, types, contract (lint, breaking, generated code), import directions
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/check.py

audit: install ## is anything pinned that is known to be vulnerable? Offline; ARGS="--online" asks pip-audit's service too
	@$(BIN)/python tools/audit.py $(ARGS)

sbom: install ## list what the image holds, as CycloneDX JSON: dist/sbom.json
	@mkdir -p $(dir $(SBOM))
	@$(BIN)/python -W ignore::UserWarning -m cyclonedx_py requirements --pyproject pyproject.toml --output-reproducible --of JSON --sv 1.6 --validate \
		-o $(SBOM) requirements/runtime.lock
	@echo $(SBOM)

fix: install ## mend what ruff and buf can mend
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet . ; $(BIN)/buf format --write proto

generate: install ## write generated code and docs anew, after a change of the contract or the error table
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/buf generate
	@$(BIN)/python tools/docs.py

lock: install ## choose the newest allowed dependencies and pin them with hashes
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra pipeline --extra stack --extra dev pyproject.toml -o $(LOCK)
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra pipeline -c $(LOCK) pyproject.toml -o requirements/runtime.lock
	@echo hatchling | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		-c $(LOCK) - -o requirements/build.lock
	@for peers in $(PEERS); do \
		$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		requirements/$$peers.in -o requirements/$$peers.lock || exit; done

clean: ## remove the environment and the development data
	@rm -rf .venv .openmcp
