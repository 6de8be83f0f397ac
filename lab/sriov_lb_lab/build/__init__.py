# SPDX-License-Identifier: Apache-2.0
"""Makes the immutable trees that every lab runs from.

``trees.ensure()`` is the door; everything else here serves it. Nothing of this package is needed by
a running lab.
"""
