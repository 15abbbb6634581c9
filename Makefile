# Everything here installs what it needs into .venv by itself. Another interpreter: make PYTHON=python3.12 test
# Arguments for pytest: make test ARGS='-k tree'

PYTHON ?= python3
ARGS ?=
IN_VENV = "$(PYTHON)" .ci/venv.py .venv && .venv/bin/python
# What builds documents and archives needs a newer Python than the library does.
IN_RELEASE = "$(PYTHON)" .ci/venv.py .venv-release release && .venv-release/bin/python

.PHONY: help demo test crash mutants clusters lint format test-all bench bench-peers figures docs share dist clean

help:      # what can be made
	@grep -E '^[a-z-]+: +#' Makefile | sed 's/ *#/	/' | expand -t 15

demo:      # sort a large file in parallel, kill -9 the master half-way, start it again, check the result
	@$(IN_VENV) examples/demo.py

test:      # every test
	@$(IN_VENV) -m pytest -m "" $(ARGS)

.PHONY: faults soak
faults:    # kill the real program at, and have the disk refuse, every system call of a short run: some hours (strace)
	@$(IN_VENV) tests/crash/faults.py --all $(ARGS)

soak:      # kill master, launcher and workers of real runs a thousand times, with any seed: a quarter of an hour
	@$(IN_VENV) tests/crash/killing.py $(ARGS)

clusters:  # install the batch systems that some tests start (Debian 12, as root); nothing of them is started now
	@$(IN_VENV) -m tests.servers.install

crash:     # stop the world at every durable effect of a run, and after each start again: half an hour on a quiet machine
	@$(IN_VENV) tests/crash/every_point.py --all $(ARGS)

mutants:   # break the library in some sixty ways, one after the other: every one must be caught by a test
	@$(IN_VENV) tests/crash/mutants.py $(ARGS)

lint:      # style, format, types, and which module may import which
	@$(IN_VENV) -m ruff check --output-format concise .
	@$(IN_VENV) -m ruff format --check .
	@$(IN_VENV) -m mypy
	@$(IN_VENV) .venv/bin/lint-imports

format:    # lay the code out as `make lint` wants it
	@$(IN_VENV) -m ruff check --fix-only --quiet .
	@$(IN_VENV) -m ruff format .

test-all:  # every test on every Python from 3.9 to 3.13 that this machine has
	@.ci/all-versions $(ARGS)

bench:     # measure what targets cost, each line with the figure asked for: some minutes on a quiet machine
	@$(IN_VENV) benchmarks/bench.py $(ARGS)

bench-peers: # the same work by Toil, Parsl, Dask, Ray, executorlib, Snakemake, in .venv-peers (half a gigabyte, once)
	@$(IN_VENV) benchmarks/peers/environment.py "$(PYTHON)" .venv-peers
	@.venv-peers/bin/python benchmarks/peers/compare.py $(ARGS)

.PHONY: migrate-check
migrate-check: # what docs/migrate shows of Toil and Snakemake, done by these, in .venv-peers
	@$(IN_VENV) benchmarks/peers/environment.py "$(PYTHON)" .venv-peers
	@.venv-peers/bin/python -m tests.system.migration

figures:   # measure all of that on a quiet machine, and put it into README and docs: some 15 minutes
	@$(IN_VENV) benchmarks/peers/environment.py "$(PYTHON)" .venv-peers
	@.venv/bin/python benchmarks/figures.py --measure $(ARGS)

docs:      # build the documents into build/docs/index.html, without a warning (Python 3.11 or later)
	@$(IN_RELEASE) -m sphinx --builder html --fail-on-warning --keep-going --quiet docs build/docs
	@echo "The documents are in build/docs/index.html"

share:     # write man pages, and what completes options in bash, zsh and fish, into share/
	@$(IN_VENV) docs/generate/share.py

dist:      # build the archives of a release into dist/, and check them (Python 3.11 or later)
	@$(IN_RELEASE) docs/generate/share.py
	@rm -rf dist
	@.venv-release/bin/python -m build
	@.venv-release/bin/python -m twine check --strict dist/*
	@.venv-release/bin/check-manifest
	@.venv-release/bin/cffconvert --validate
	@.venv-release/bin/python .ci/check-recipe
	@.ci/check-install

.PHONY: pages
pages:     # run the examples on real data, and put what they print and draw into their pages (docs/examples)
	@$(IN_VENV) docs/examples/make.py $(ARGS)
	@$(IN_VENV) docs/generate/statistics.py

.PHONY: pictures
pictures:  # take the pictures of jobTreeMonitor's page (docs/images) again; wants Debian's chromium (make clusters)
	@$(IN_VENV) docs/generate/monitor_pictures.py $(ARGS)

clean:     # remove what the targets above have made
	rm -rf .venv .venv-* .venv.lock .venvs .*_cache .hypothesis .cache build dist share *.egg-info demo-run
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
