# SPDX-License-Identifier: Apache-2.0
"""What Tempest discovers. Modules are thin here: arrange, observe, compare."""
