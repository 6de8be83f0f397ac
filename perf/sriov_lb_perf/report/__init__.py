# SPDX-License-Identifier: Apache-2.0
"""Pages people look at: one run, self-contained; and the site of all runs."""
