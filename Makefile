# make demo   see it work: two sites, real files, Prefect's UI
# make test   every check and every test
#
# Both need a Python >= 3.11 with pip and nothing else: no root, no compiler. What they install goes
# to .venv and to a cache (scripts/bootstrap says where); a second time they find it there.

# Options for the command behind a target: make demo ARGS=--keep
ARGS =
IN_VENV = PATH="$(CURDIR)/.venv/bin:$$PATH"

.PHONY: help demo test up down check test-nightly bench clean bootstrap servers
.NOTPARALLEL:

help:
	@echo 'make demo          see it work: two sites, real files, runs in the UI of Prefect'
	@echo 'make test          every check and every test'
	@echo 'make up            a stack that stays; make down stops it and keeps its data'
	@echo 'make check         format, lint, types, architecture, docs: no server needed'
	@echo 'make test-nightly  the tests that take long'
	@echo 'make bench         side by side with mc and rclone'
	@echo 'make clean         remove .venv and caches; data of stacks stays'

demo: bootstrap
	@$(IN_VENV) entrepot demo $(ARGS)

up: bootstrap
	@$(IN_VENV) entrepot up $(ARGS)

down: bootstrap
	@$(IN_VENV) entrepot down $(ARGS)

test: servers
	@scripts/install-chromium
	@scripts/check
	@$(IN_VENV) pytest --numprocesses=2 --dist=loadfile $(ARGS)

test-nightly: servers
	@scripts/install-chromium
	@$(IN_VENV) pytest -m nightly $(ARGS)

check: bootstrap
	@scripts/check

bench: servers
	@$(IN_VENV) python -m bench.sweep $(ARGS)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

bootstrap:
	@scripts/bootstrap

# The servers that have to be built (some minutes, once), before a test would wait for them.
servers: bootstrap
	@scripts/install-servers
