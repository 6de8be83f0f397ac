# SPDX-License-Identifier: Apache-2.0
"""``sriov-lb audit``: does a load balancer that others made keep the API's promises, now?

* ``places``: from the command's options to API objects, amphorae and the vantage.
* ``checks``: what is held against what; each ends CLEAN, DISAGREEMENT or UNCLEAR.
* ``report``: table, JSON (``audit.schema.json``), JUnit.

Nothing is changed: rules are read, probes are sent. Only ``--count`` adds a table of ours to the
amphora, which is taken away again.
"""
