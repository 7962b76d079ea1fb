# The names that people and scripts rely on (docs/operations.md). Everything that needs root uses sudo if you
# are not root.
.PHONY: help setup core demo test faults test-openstack tempest lint pytest lab bench bench-neutron simulate soak
.NOTPARALLEL:
.DEFAULT_GOAL := help

BIN := .venv/bin
ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)
SITES ?= 3
SOUTH ?= linux
TESTS ?=
WORKERS ?= 2
SEEDS ?= 1000
RUNS ?= 100
MINUTES ?= 10
STEPS ?= 1000

help:
	@echo 'make demo    set up, join three sites, show what happened'
	@echo 'make test    set up, run all checks and tests (TESTS=path: only those; WORKERS=2 at once)'
	@echo 'make faults  every fault of a Neutron at every call of every operation (an hour; DIMINET_SEED=…)'
	@echo 'make test-openstack   the tests with real Neutrons, with those that are too long for make test'
	@echo 'make tempest    the bgpvpn tests of neutron-tempest-plugin against a region with live services'
	@echo 'make lab     set up, run a lab in the foreground (SITES=3)'
	@echo 'make bench   set up, measure creates, deletes, what a cut does, and scale (docs/bench-*.md)'
	@echo 'make bench-neutron   the same on real Neutrons beside their floor and the paper (RUNS=100; docs/bench-create-neutron.md)'
	@echo 'make soak    set up, random operations and faults on a real lab (MINUTES=10 SEED=… SITES=3 SOUTH=linux|neutron)'
	@echo 'make simulate  set up, play SEEDS=1000 of the simulator; SEED=7: that one with its trace; MUTANTS=1: does it bite'
	@echo 'make setup   only set up: Debian packages, .venv and the OpenStack of the tests (.venv-openstack)'

setup:
	@sh scripts/setup.sh --openstack

core:
	@sh scripts/setup.sh

demo: core
	@$(ROOT) $(BIN)/python -m diminet.lab.demo

test: setup lint pytest

faults: setup
	DIMINET_FAULTS=all $(BIN)/pytest -n 0 -s tests/south_neutron/test_neutron_faults.py

test-openstack: setup
	DIMINET_TESTS=long $(BIN)/pytest -n 0 tests/south_neutron tests/south_contract \
		tests/lab/test_openstack_mariadb.py tests/surroundings/test_keystone_each.py
	$(ROOT) env DIMINET_TESTS=long $(BIN)/pytest -n 0 tests/surroundings/test_openstack_guide.py tests/upgrade

tempest: setup
	@sh scripts/setup_tempest.sh
	$(ROOT) env DIMINET_TESTS=tempest $(BIN)/pytest -n 0 -s tests/lab/test_openstack_tempest.py

lint:
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

pytest:
	$(ROOT) $(BIN)/pytest -n $(WORKERS) --dist loadfile $(TESTS)

lab: core
	$(ROOT) $(BIN)/diminet lab up --sites $(SITES)

bench: core
	$(ROOT) $(BIN)/diminet bench create
	$(ROOT) $(BIN)/diminet bench resiliency
	$(ROOT) $(BIN)/diminet bench scale

bench-neutron: setup
	$(ROOT) $(BIN)/diminet bench create --south neutron --runs $(RUNS)

soak: $(if $(filter neutron,$(SOUTH)),setup,core)
	@$(ROOT) env PYTHONPATH=tests/lab $(BIN)/python tests/soak/soak.py --minutes $(MINUTES) --sites $(SITES) --south $(SOUTH) \
		$(if $(SEED),--seed $(SEED))

simulate: core
	@PYTHONPATH=tests $(BIN)/python -m simulator --steps $(STEPS) $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) \
		$(if $(SITES_OF_A_SEED),--sites $(SITES_OF_A_SEED)) $(if $(MUTANTS),--mutants)
