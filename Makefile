# SPDX-License-Identifier: Apache-2.0
# The one front door. Every path is relative to this folder, so the folder's own name may hold a space.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PY := .venv/bin/python
C_WARNINGS := -std=gnu11 -O2 -D_GNU_SOURCE -Wall -Wextra -Wconversion -Wshadow -Werror

.PHONY: demo test corpus test-again live record-live conformance readmes check bench lint sanitize fuzz fuzz-short proto setup setup-test setup-bench help clean

demo: setup ## Set up, start a daemon, copy, mirror, pivot and verify a real disk chain
	@$(PY) server/packaging/demo.py

test: lint sanitize fuzz-short ## Everything that CI runs: lint, the C core under sanitizers and short fuzzing, every test
	@$(PY) -m pytest -n 2 --cache-clear -m "not oracle" || $(MAKE) --no-print-directory test-again

# One test of thousands that lost a race must be told apart from one that is wrong; it is named, never passed over in silence.
test-again:
	@echo "make: these failed beside others; each once more, alone. One that passes now depends on timing: mend the test or the code."
	@! grep '"tests/engine/' .pytest_cache/v/cache/lastfailed || { echo "make: a test of the engine that fails once has failed"; exit 1; }
	@$(PY) -m pytest --last-failed --last-failed-no-failures none -rA -m "not oracle"

live: setup-test ## Our server beside libvirt itself at length: recorded answers asked anew, guests that write, daemons killed
	@$(PY) -m pytest -n 2 -m oracle tests/live

corpus: setup-test ## Images of every kind copied in every way: every three values of all options
	@$(PY) -m pytest -n 2 -m oracle tests/engine

record-live: setup-test ## Ask the installed libvirt every case of the comparison anew, or CASES='pull-*'; commit what it writes
	@PYTHONPATH=tests $(PY) -m live.record $(CASES)

check: setup-test ## The fast tests and the C core's own; under five minutes
	@tests/engine/core/run.sh plain
	@$(PY) -m pytest -n 2 -m "not slow and not live"

conformance: setup-test ## Play the conformance cases in every client, or in ONLY='Go Rust' or ONLY=missing, and write the table into clients/
	@PYTHONPATH=tests $(PY) -m conformance.table $(ONLY)

readmes: setup-test ## Paste every client's README line by line into a shell in a fresh clone
	@$(PY) -m pytest -m "oracle or not oracle" tests/conformance/test_readmes.py

bench: setup-bench ## Copying speed beside other programs'; ROWS=raw,chain for some rows, FAST=1 for small disks
	@$(PY) tests/bench/run.py --rows "$(ROWS)" $(if $(FAST),--fast)
	@$(if $(ROWS),,$(PY) tests/bench/live_cost.py)

lint: setup-test ## Style, types, import contracts, the proto rules and stubs, C warnings as errors
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports --no-logo
	@proto/lint.sh
	@gcc $(C_WARNINGS) -fsyntax-only engine/virtblock/engine/core/*.c

sanitize: setup-test ## The C core's tests: plain, under AddressSanitizer and UBSan, and under ThreadSanitizer
	@tests/engine/core/run.sh

fuzz: setup-test ## Fuzz the C core; SECONDS_EACH for each target, default 600
	@tests/fuzz/run.sh "$(or $(SECONDS_EACH),600)"

fuzz-short: setup-test ## Fuzz each target for about 5 seconds, everywhere with the same inputs
	@tests/fuzz/run.sh 50

proto: setup-test ## Generate the checked-in stubs anew from proto/virtblock/v1
	@proto/generate.sh

setup: ## Make .venv with what the demo needs (done by the other targets)
	@server/packaging/bootstrap.sh demo

setup-test: ## Make .venv with what the tests need; installs Debian packages when run as root
	@server/packaging/bootstrap.sh test

setup-bench:
	@server/packaging/bootstrap.sh bench

help: ## This list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | column -t -s $$'\t'

clean: ## Remove everything that the build and the checks made, .venv included
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache virtblock.egg-info clients/rust/target
	@find engine -name '*.so' -delete
