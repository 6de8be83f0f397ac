# SPDX-License-Identifier: Apache-2.0
"""What a member serves while it is under load: nginx with a small and a large object, iperf3.

A server in Python would be the bottleneck of every comparison. Nothing is installed: the member's
image has to have nginx; iperf3 is started where there is one. Files are in /run and /var/lib, so
both end with the guest.
"""

from __future__ import annotations

import shlex

from sriov_lb_tests.wire.host import Host

#: Ports of the member: web server, iperf3.
WEB_PORT, IPERF_PORT = 8000, 5201

#: Path of the large object (50 MiB, sparse), for goodput.
LARGE = "/large"

NGINX = """\
user root;
worker_processes auto;
pid /run/sriov-lb-perf.pid;
error_log /var/log/sriov-lb-perf.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; sendfile on; tcp_nopush on; default_type text/plain;
  keepalive_requests 1000000000;
  server {{ listen {port} backlog=8192 reuseport; listen [::]:{port} backlog=8192 reuseport;
    root /var/lib/sriov-lb-perf; }}
}}
"""

START = """\
set -e
command -v nginx >/dev/null || {{ echo "nginx is not installed"; exit 127; }}
mkdir -p /var/lib/sriov-lb-perf
printf '%s %s' {name} {filling} >/var/lib/sriov-lb-perf/index.html
truncate -s 50M /var/lib/sriov-lb-perf/large
cat >/run/sriov-lb-perf.conf
nginx -c /run/sriov-lb-perf.conf
if command -v iperf3 >/dev/null; then iperf3 --server --daemon --json --port {iperf}; fi
"""


def start(host: Host, name: str) -> None:
    """Start both servers on a member.

    :param name: what the small object begins with: which member answered.
    :raises CommandFailed: nginx is missing or does not start.
    """
    script = START.format(name=shlex.quote(name[-20:]), filling="x" * 43, iperf=IPERF_PORT)
    host.run(
        ["sh", "-c", script],
        input=NGINX.format(port=WEB_PORT).encode(),
        root=True,
        timeout=60,
    )
