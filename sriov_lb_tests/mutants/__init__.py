# SPDX-License-Identifier: Apache-2.0
"""Faults seeded into live amphorae, to see whether the tests catch them.

* ``listing``: an editable copy of ``nft -j list ruleset`` (pure).
* ``fault``, ``faults``: what a fault is, and all of them as data (pure).
* ``seeding``: puts one into an amphora and takes it out, whatever happens.
* ``testing``: the tests that have to catch them.
* ``matrix``, ``run``: fault by test.

A change that no packet can tell from what was there is recognised by proof
(``policy.proof.difference``) and is no miss.
"""
