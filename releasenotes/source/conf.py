# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration of the release notes."""

project = "sriov-lb-tests release notes"
copyright = "the sriov-lb-tests developers"
extensions = ["reno.sphinxext"]
html_theme = "alabaster"
