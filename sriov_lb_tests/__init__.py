# SPDX-License-Identifier: Apache-2.0
"""Tempest plugin for the SR-IOV feature of the Octavia amphora provider."""
