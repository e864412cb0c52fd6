# Two commands are enough: `make run` and `make test`. Python 3.11+ with venv is all they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Which seeds `make soak-sim` runs: so many, or A-B.
SEEDS ?= 10000

# How often `make test-vm` runs all scenarios.
REPEAT ?= 1

# Most tests of real processes and machines wait: two at a time for each processor.
PROCESSORS := $(shell getconf _NPROCESSORS_ONLN)
WORKERS ?= $(shell expr 2 \* $(PROCESSORS))

# Containers often set it. Every process that a test starts would compile all of hbtrio again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run lab help deb rpm test test-simulated test-replay test-fast test-properties test-vm test-libvirt test-deb test-container test-channels test-hostile fuzz bench bench-scale soak soak-drain soak-sim chaos breaks docs site format clean

run: ## the tour: an agent, two hosts and three guests on this machine
run: $(VENV)/.installed
	$(BIN)/hbtrio lab

lab: ## the tour, and then a fleet to look at in a browser, until Ctrl-C
lab: $(VENV)/.installed
	$(BIN)/hbtrio lab --keep

help: ## this list
	@sed -n 's/^\([a-z-]*\): ## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

test: ## all checks and all tests
test: $(VENV)/.installed-test
	$(BIN)/ruff check src tests examples docs
	$(BIN)/ruff format --check src tests examples docs
	$(BIN)/mypy
	$(BIN)/mypy examples/*.py
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal --max-worker-restart=1
	$(MAKE) --no-print-directory test-simulated

# What was seen is printed with its counts.
TEST_SEEDS ?= 60
test-simulated: ## simulated fleets with the first TEST_SEEDS seeds; a violation fails
test-simulated: $(VENV)/.installed-test
	$(BIN)/hbtrio simulate --seeds $(TEST_SEEDS) --no-shrink

# With 20 hash seeds, on each Python of PYTHONS that is there; their environments are in build/.
PYTHONS ?= python3.11 python3.12 python3.13
REPLAYS ?= 20
REPLAYED ?= 3
test-replay: ## the first REPLAYED=3 seeds REPLAYS=20 times each on each of PYTHONS: the same traces
	for python in $(PYTHONS); do \
		version=$$($$python -c 'import platform; print(platform.python_version())' 2>/dev/null) || continue; \
		echo "Python $$version"; bin=build/python-$$version/bin; \
		$$python -m venv build/python-$$version && \
		$$bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt --editable '.[simulate]' && \
		$$bin/hbtrio simulate --seeds $(REPLAYED) --check-replay $(REPLAYS) || exit 1; \
	done

# What needs no processes, no machines and no real time; properties with fewer examples.
test-fast: ## tests without processes, machines and real time
test-fast: $(VENV)/.installed-test
	$(BIN)/python -m pytest --quiet --numprocesses=$(PROCESSORS) --dist=worksteal \
		-m 'not (processes or vm or real_time or slow)' --hypothesis-profile=fast

# Properties with new random examples, RUNS times; `make test` takes the same ones each time.
RUNS ?= 20
test-properties: ## properties with random examples, RUNS=20 times
test-properties: $(VENV)/.installed-test
	for run in $$(seq $(RUNS)); do $(BIN)/python -m pytest --quiet --numprocesses=$(PROCESSORS) \
		--dist=worksteal --hypothesis-profile=random \
		-m 'hypothesis and not (processes or vm or real_time)' || exit 1; done

# On real machines; `make test` runs them once too, if the tools are there.
test-vm: ## real machines in QEMU; REPEAT=10 for ten times
test-vm: $(VENV)/.installed-test
	for run in $$(seq $(REPEAT)); do HBTRIO_REQUIRE_VM=1 $(BIN)/python -m pytest tests/vm || exit 1; done

# What a host does to real guests while the host daemon or libvirtd is restarted, killed or stopped.
test-libvirt: ## real guests below a libvirtd that is stopped and killed
test-libvirt: $(VENV)/.installed-test
	HBTRIO_REQUIRE_LIBVIRT=1 HBTRIO_LIBVIRT_TROUBLE=1 $(BIN)/python -m pytest -rP -o faulthandler_timeout=900 \
		tests/libvirt

deb: ## Debian packages of guest and of host with agent, in dist/
deb: $(VENV)/.installed
	for role in guest host; do PIP_PYTHON=$(BIN)/python sh deploy/deb/build.sh $$role dist || exit 1; done

rpm: ## RPM packages of the same, in dist/; on Fedora and its kin
rpm: $(VENV)/.installed
	for role in guest host; do PIP_PYTHON=$(CURDIR)/$(BIN)/python sh deploy/rpm/build.sh $$role dist || exit 1; done

test-deb: ## installs, starts, upgrades and purges them in a Debian made by debootstrap; as root
test-deb: $(VENV)/.installed-test
	HBTRIO_DEBOOTSTRAP=1 HBTRIO_REQUIRE_INDEX=1 $(BIN)/python -m pytest \
		-o faulthandler_timeout=1800 tests/deploy/test_deb.py

test-container: ## builds and runs the agent's container with buildah and debootstrap; as root
test-container: $(VENV)/.installed-test
	HBTRIO_CONTAINER=1 $(BIN)/python -m pytest -o faulthandler_timeout=1800 tests/deploy/test_container.py

# Makes and ends 100,000 channels in one host.
test-channels: ## 100,000 channels made and ended in one host
test-channels: $(VENV)/.installed-test
	HBTRIO_LIVES=100000 $(BIN)/python -m pytest -rP -o faulthandler_timeout=900 tests/nursery/host/test_heap_freezer.py

# Random inputs for every parser, or for those that FUZZ names, each for FUZZ_S seconds; what reaches
# new code is added to tests/fuzz/corpus.
FUZZ_S ?= 60
FUZZ ?=
fuzz: ## random inputs for every parser; FUZZ=NAME for one, FUZZ_S seconds each
fuzz: $(VENV)/.installed-fuzz
	PYTHONPATH=tests $(BIN)/python -m fuzz --keep --seconds $(FUZZ_S) $(FUZZ)

# Hostile guests, hosts and clients for longer, and more guests; 7 minutes.
test-hostile: ## hostile guests, hosts and clients for longer, and more guests
test-hostile: $(VENV)/.installed-test
	HBTRIO_HOSTILE_GUESTS=4000 HBTRIO_HOSTILE_S=180 $(BIN)/python -m pytest \
		-o faulthandler_timeout=900 tests/hostile

# A table of measures and goals at the end; every sample and diagrams are in build/bench.
bench: ## what the daemons cost, under 10 minutes
bench: $(VENV)/.installed-test
	PYTHONPATH=tests $(BIN)/python -m bench --json build/bench/bench.json --svg build/bench/bench.svg

# 15,000 channels, for CROWD_S seconds.
CROWD_S ?= 300
bench-scale: ## the same with 15,000 channels, CROWD_S=300 seconds of them
bench-scale: $(VENV)/.installed-test
	PYTHONPATH=tests $(BIN)/python -m bench --scale --crowd-seconds $(CROWD_S) \
		--json build/bench/scale.json --svg build/bench/scale.svg

# Votes, audits, kills and stalls with real processes for 30 minutes; SOAK_S=… for fewer seconds.
soak: ## half an hour of votes, kills and stalls; SOAK_S=SECONDS
soak: $(VENV)/.installed-test
	PYTHONPATH=tests $(BIN)/python -m soak

# Drains of 50 guests in which ctl, host and agent are killed; SOAK_DRAINS=… for fewer, SOAK_SEED=… to
# have the same kills again.
soak-drain: ## drains in which ctl, host and agent are killed; SOAK_DRAINS=NUMBER
soak-drain: $(VENV)/.installed-test
	PYTHONPATH=tests $(BIN)/python -m soak.drain

# Real daemons in which things go wrong, judged by the simulator's invariants; CHAOS_MINUTES=… for
# fewer, CHAOS_SEED=… or CHAOS_FAULTS=FILE for a schedule that was drawn before.
chaos: ## twenty minutes of faults on real daemons, judged as simulated ones; CHAOS_MINUTES=MINUTES
chaos: $(VENV)/.installed-test
	PYTHONPATH=tests $(BIN)/python -m chaos

# It goes on where it was; the report is in build/simulation. 4 to 5 CPU seconds a seed on a busy machine.
soak-sim: ## simulated fleets in which everything goes wrong, resumable; SEEDS=N or A-B
soak-sim: $(VENV)/.installed-test
	$(BIN)/hbtrio simulate --seeds $(SEEDS) --report build/simulation

# Each of the patches in tests/simulate/breaks with the seed that it names, and with others if that
# one no longer finds what it breaks. What was measured is written into the patches and into
# docs/reliability.md. BREAKS=NAME for one; BREAKS=--anew looks for the first seed of each.
BREAKS ?=
breaks: ## corrected faults put back one at a time: which simulated seed finds each; BREAKS=NAME
breaks: $(VENV)/.installed-test
	PYTHONPATH=tests $(BIN)/python -m support.breaks $(BREAKS)

docs: ## diagrams, manual pages, completions and lists again from the code
docs: $(VENV)/.installed-test
	$(BIN)/python -m hbtrio.fsm.diagrams docs/state-machines.md
	$(BIN)/python -m hbtrio.cli.manual deploy/man docs/exit-statuses.md
	$(BIN)/python -m hbtrio.cli.reference docs
	for shell in bash zsh fish; do \
		$(BIN)/shtab --shell=$$shell hbtrio.cli.completion.whole_parser > deploy/completion/hbtrio.$$shell || exit 1; \
	done

site: ## the documentation as a web site, in build/site
site: docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: ## ruff's format and fixes
format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix src tests examples docs
	$(BIN)/ruff format src tests examples docs

clean: ## removes the environment and all caches
clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("hbtrio needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-fuzz: pyproject.toml constraints.txt | $(VENV)/.installed-test
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test,fuzz]'
	touch $@
