# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration of the release notes."""

project = "sriov-lb-tests release notes"
copyright = "the sriov-lb-tests developers"
extensions = ["reno.sphinxext", "openstackdocstheme"]
html_theme = "openstackdocs"
openstackdocs_auto_name = False
openstackdocs_auto_version = False
openstackdocs_use_storyboard = False
