# Every target sets up what it needs and is quick the second time.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON := .venv/bin/python
ARCH := $(shell uname -m)
IMAGES := build/images/.made
GUEST := build/guest/$(ARCH)/contract.json

.PHONY: help run test guest bench lint clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/ready $(IMAGES) ## set up, say hello from a container, open the window
	@$(PYTHON) packaging/hello.py

test: .venv/ready .venv/ready-test $(IMAGES) guest ## set up and run the whole test suite
	$(PYTHON) -m guest build --arch aarch64
	$(PYTHON) -m pytest -n 2 --durations=25 --durations-min=2

guest: .venv/ready .venv/ready-vm ## build the guest image of the virtual machine
	$(PYTHON) -m guest build --output build/guest/$(ARCH)

bench: .venv/ready .venv/ready-test $(IMAGES) guest ## compare with Docker Engine and runc, where installed
	$(PYTHON) -m tests.bench lives cli exec hundred logs ports thousand machine

lint: .venv/ready ## ruff, mypy for three platforms, import rules
	$(PYTHON) -m pytest -q tests/unit/test_lint.py

clean: ## remove what was built; engines and machines are left alone
	rm -rf build .venv

.venv/ready: pyproject.toml packaging/setup.sh
	packaging/setup.sh run
.venv/ready-vm: .venv/ready packaging/setup.sh
	packaging/setup.sh vm
.venv/ready-test: .venv/ready packaging/setup.sh
	packaging/setup.sh vm test

$(IMAGES): .venv/ready $(wildcard guest/builder/*.py)
	packaging/setup.sh image
	$(PYTHON) -m guest image --output build/images
	@touch $@
