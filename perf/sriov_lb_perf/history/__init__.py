# SPDX-License-Identifier: Apache-2.0
"""What the nights came to, and whether anything moved."""
