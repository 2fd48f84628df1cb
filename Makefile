# `make cluster` clusters the digits; `make test` runs the tests, `make test-whole` the slow
# ones (tests/slow.txt), too; `make lint` looks at style and types, `make docs` builds the
# pages, `make dist` makes what is published. All make their own virtual environment first,
# from constraints.txt.
PYTHON ?= python3
# What to install at once beside the package: [test,docs], say.
EXTRAS =
# Processes that share the tests, file by file: three keep two cores busy, as each waits for
# a seventh of its time, for the disk or for processes of its own.
JOBS ?= 3
VENV := .venv
comma := ,
RUN := $(VENV)/bin/python
SHARED = $(RUN) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Of `make test-all` and `make try-dist`: an interpreter of each supported version.
PYTHONS ?= python3.11 python3.12 python3.13

.PHONY: cluster test test-whole test-jax test-all lint docs dist try-dist install clean

cluster: $(VENV)/.ready
	$(RUN) -m jdiffclust.main --config=configs/digits.py --workdir=runs/digits
	@echo "Open $(CURDIR)/runs/digits/report.html"

test: $(VENV)/.ready-test
	@echo "Running the tests in the environment $(CURDIR)/$(VENV), but for the slow ones,"
	@echo 'which `make test-whole` runs, too. Their outcome stands last.'
	$(SHARED) -m 'not slow'

test-whole: $(VENV)/.ready-test
	$(SHARED)

# The tests that hang most on the version of JAX, and all of them, on other interpreters,
# each in an environment of its own: make test-jax PYTHON=python3.12 VENV=.venv-python3.12
test-jax: $(VENV)/.ready-test
	$(RUN) -m pytest tests/test_backend.py tests/test_programs.py tests/test_streams.py \
	  tests/networks tests/clustering/test_lowering.py

test-all:
	set -e; for python in $(PYTHONS); do \
	  $(MAKE) test-whole PYTHON=$$python VENV=.venv-$$python; done

lint: $(VENV)/.ready-lint
	$(RUN) -m ruff check .
	$(RUN) -m mypy

# dist/ has a wheel and a source distribution.
dist: $(VENV)/.ready-dist
	rm -rf dist build
	$(RUN) -m build

try-dist: dist
	.ci/try_dist $(PYTHONS)

docs: $(VENV)/.ready-docs
	$(RUN) -m sphinx -W --keep-going -n -q -b html -d build/doctrees docs build/docs
	@echo "Open $(CURDIR)/build/docs/index.html"

install: $(VENV)/.ready
	@echo "Installed. To cluster images of yours: $(VENV)/bin/jdiffclust path/to/images"

.venv: $(VENV)/.ready

# Most of what is installed is never imported: byte code is made of the rest, once it is, if
# Python may keep it.
define installed
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python >= 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@[ -x $(RUN) ] || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile) \
	  --disable-pip-version-check -c constraints.txt -e '.$(1)'
	@touch $(VENV)/.ready $@
endef

$(VENV)/.ready: pyproject.toml constraints.txt
	$(call installed,$(EXTRAS))

# The pages are built by a test, too.
$(VENV)/.ready-test: pyproject.toml constraints.txt
	$(call installed,[test$(comma)docs])

$(VENV)/.ready-%: pyproject.toml constraints.txt
	$(call installed,[$*])

# Removes the environment and caches; your results in runs/ stay.
clean:
	rm -rf $(VENV) .venv-python3* build dist docs/notebooks *.egg-info
	rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
