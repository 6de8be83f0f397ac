# SPDX-License-Identifier: Apache-2.0
"""In which order trials are made, and what becomes of them."""
