# SPDX-License-Identifier: Apache-2.0
"""Is the SR-IOV VIP faster than its normal twin, by how much, how sure, and since when.

Reading order: ``model`` (Trial, Sample, Metric), ``engines.base`` (the protocol of what
measures), ``trials`` (in which order it measures), ``statistics`` (what may be concluded),
``results`` and ``history`` (what is kept), ``report`` (what people look at), ``compare`` (the
whole of one run), ``cli``.

``agent`` runs in the clients, ``swarm`` runs in child processes under locust; no other module
may import locust, which monkey-patches the process it is imported in.
"""
