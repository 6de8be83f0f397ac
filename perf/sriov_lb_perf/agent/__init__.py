# SPDX-License-Identifier: Apache-2.0
"""The load generator and latency probe: standard library only, Python 3.8 or newer.

It is not installed where it runs. The tester streams these modules to ``python3 -c BOOTSTRAP``
in a client (a guest over ssh, or a network namespace; see ``sriov_lb_perf.carry``) and then
speaks one JSON object per line: jobs go in on stdin, reports come out on stdout. When stdin
closes the process ends, so a tester that dies never leaves a load generator behind.

Jobs (all times in seconds, all rates per second):

``facts``     what this machine is (kernel, CPU, interface towards the target, stamps it offers)
``fetch``     one GET, to find out whether the target answers at all and with what
``command``   one command of this machine, and how the machine was meanwhile
``closed``    request rate: every connection sends its next request when the last one is answered
``open``      requests at intended times, whether or not earlier ones were answered; with
              ``stamps`` the kernel's own transmit and receive times are taken as well
``connect``   connection rate: connect, (TLS handshake,) one GET, read to FIN, close
``download``  goodput of large objects
``hold``      connections opened, kept, and asked once at the end
``udp``       like ``open``, with datagrams that carry a number back

A job that asks for objects may have ``length``, the bytes that each is to have: an answer of
another length has failed.

Every job ends with a ``done`` or an ``error`` report. Latencies travel as sparse histograms:
``{"shift": s, "bins": [[index, count], ...]}`` where a bin covers ``[index << s, index + 1 << s)``
nanoseconds, or raw. All durations are CLOCK_MONOTONIC except kernel stamps (CLOCK_REALTIME).

``closed`` and ``connect`` run on io_uring where the machine has it (through ctypes; see
``uring``) and on epoll everywhere else; ``engine`` in their report says which it was.

Why not asyncio: a request through it costs three times as much as through a bare epoll loop, and
this process may be sharing its core with what it measures. Nothing here imports anything of the
project outside this folder, and nothing outside the standard library.
"""

PROTOCOL = 1  # raised whenever a job or report changes its meaning
