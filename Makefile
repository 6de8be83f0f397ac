# SPDX-License-Identifier: Apache-2.0
# A wrapper: everything is in tools/project.py, which needs python3 (3.10 or newer) and no more.
# `make demo OCTAVIA=18.0.1` runs the demo on another Octavia release.

PYTHON ?= python3
export OCTAVIA

COMMANDS := setup demo demo-down check bench lint docs clean purge
.PHONY: help $(COMMANDS)

help:
	@$(PYTHON) tools/project.py --help

$(COMMANDS):
	@$(PYTHON) tools/project.py $@
