# SPDX-License-Identifier: Apache-2.0
"""What is kept of a run: one JSON document and the raw samples beside it."""
