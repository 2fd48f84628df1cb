# `make cluster` clusters the digits; `make test` runs the tests; `make docs` builds the
# pages. Each makes its own virtual environment first, from constraints.txt.
PYTHON ?= python3
# Processes that share the tests, file by file.
JOBS ?= 2
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: cluster test docs install clean

cluster: $(VENV)/.ready
	$(RUN) -m jdiffclust.main --config=configs/digits.py --workdir=runs/digits
	@echo "Open $(CURDIR)/runs/digits/report.html"

test: $(VENV)/.ready-test
	@echo "Running the tests in the environment $(CURDIR)/$(VENV); their outcome stands last."
	$(RUN) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

docs: $(VENV)/.ready-docs
	$(RUN) -m sphinx -W --keep-going -n -q -b html -d build/doctrees docs build/docs
	@echo "Open $(CURDIR)/build/docs/index.html"

install: $(VENV)/.ready

.venv: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python >= 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(RUN) -m pip install -q --disable-pip-version-check -c constraints.txt \
	  -e '.[test,docs]'
	@touch $@

$(VENV)/.ready-docs: $(VENV)/.ready
	$(RUN) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

# Removes the environment and caches; your results in runs/ stay.
clean:
	rm -rf $(VENV) build docs/notebooks *.egg-info .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
