# make run    set everything up and serve the example site (ADDRPORT=, WORKERS=, ARGS=)
# make test   set everything up and run the whole suite: lint, types, import direction, tests (ARGS=, JOBS=)
# make bench  the benchmarks
# make docs   the documentation, as HTML
# make pictures   the pictures of the dashboard in the documentation
# make test-libraries   Sentry, OpenTelemetry, ddtrace and others in workers that are forked from a mold (ARGS=)
# make soak   a thousand replacements by every cause (REPLACEMENTS=), and a storm of faults under load (MINUTES=)
# make lint   ruff, mypy and import-linter alone
# make clean  remove whatever the others made

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
EXAMPLE := $(BIN)/python example_project/manage.py
ADDRPORT ?= 127.0.0.1:8000
# the process tests wait more than they compute
JOBS ?= 7

# install DIRECTORY,PACKAGES: by uv, which needs a quarter of pip's time; by pip where uv fails: it does not read pip's settings
install = $(1)/bin/python -m pip install --quiet --disable-pip-version-check uv \
	&& $(1)/bin/uv pip install --quiet --compile-bytecode --python $(1)/bin/python $(2) \
	|| $(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2)

.PHONY: run test test-libraries bench docs pictures soak lint clean
.DEFAULT_GOAL := test

run: $(VENV)/.run
	$(EXAMPLE) migrate --verbosity 0
	exec $(EXAMPLE) serve_guarded $(ADDRPORT) $(if $(WORKERS),--workers $(WORKERS)) $(ARGS)

test: $(VENV)/.test
	$(MAKE) --no-print-directory --jobs 3 --output-sync=line components lint compiled
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal $(ARGS)

.PHONY: components compiled
components: $(VENV)/.test
	$(BIN)/python tests/components.py install

# what each server and each process of pytest-xdist would compile again: the projects of the suite, and pytest's own form of
# the tests. A test that cannot be collected is shown by the run itself.
compiled: $(VENV)/.test
	$(BIN)/python -m compileall -q django_workerguard example_project tests/process/guinea tests/process/pool
	$(if $(ARGS),,PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --collect-only --quiet >/dev/null 2>&1 || true)

bench: components
	$(BIN)/python -m pytest tests/benchmarks -p no:randomly --timeout 0 --capture no $(ARGS)

docs: $(VENV)/.test
	$(BIN)/python -m sphinx -W --keep-going -b html docs build/docs
	@echo "Open build/docs/index.html"

pictures: components
	$(BIN)/python -m docs.screenshots

soak: $(VENV)/.test
	$(BIN)/python -m tests.process.soak $(REPLACEMENTS)
	$(BIN)/python -m tests.process.storm $(MINUTES)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .venv-libraries .nox build dist test-screenshots .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -rf example_project/db.sqlite3* example_project/faults example_project/broker
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A fresh Debian has python3 without ensurepip; apt can add it where there is root.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found: set PYTHON=…" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "installing python3-venv"; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; } \
		|| { echo "$(PYTHON) cannot make virtual environments: install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml example_project/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[health,gevent,uvicorn,rich,prometheus,celery]' --requirement example_project/requirements.txt
	touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml
	$(call install,$(VENV),--editable '.[test]')
	touch $@

# real libraries in forked workers, in an environment of their own: they are pinned, and nothing else needs them
LIBRARIES := .venv-libraries

test-libraries: $(LIBRARIES)/.made
	$(LIBRARIES)/bin/python -m pytest -c tests/libraries/pytest.ini --rootdir . tests/libraries $(ARGS)

$(LIBRARIES)/.made: tests/libraries/requirements.txt pyproject.toml
	test -d $(LIBRARIES) || $(PYTHON) -m venv $(LIBRARIES)
	$(call install,$(LIBRARIES),--editable . --requirement tests/libraries/requirements.txt)
	touch $@
