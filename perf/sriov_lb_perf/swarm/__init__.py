# SPDX-License-Identifier: Apache-2.0
"""locust as the control plane of load: child processes, nothing else of the project.

What runs where::

    tester           control.Swarm          starts and talks to everything below
      child          master                 locust's MasterRunner; merges histograms
      child          worker (one a client)  locust's WorkerRunner with one VipLoadUser
    client           sriov_lb_perf.agent    the engine that this worker's User runs

A worker stays on the tester and its User drives an engine *in* the client, over the byte channel
the tester already has to it (ssh or a namespace). So a guest needs nothing but Python: no
wheels of gevent and pyzmq for its ABI, no route back to the master, and none of its CPU is spent
on greenlets. What locust does (distribution, spawning, heartbeats, reporting events, web UI) it
does as always; only the requests are not made by its process.

``vip_load`` is an ordinary locustfile and can be used alone; see its docstring.

``import locust`` monkey-patches the importing process. Only ``master``, ``worker`` and
``vip_load`` may do so, and they only ever run as the main module of a child or under ``locust``.
"""
