# SPDX-License-Identifier: Apache-2.0
"""A request through a listener that has to reach a member and come back."""

from __future__ import annotations

import time

from sriov_lb_tests.tests.matrix import member
from sriov_lb_tests.tests.scene import Client

#: Seconds for one try, and for a listener that was just made to answer at all.
ONE, ALL = 2.0, 6.0

#: What haproxy's metrics hold, whatever its version.
METRICS = b"octavia_"


def through(
    client: Client, protocol: str, vip: str, port: int, source: str, name: str, *,
    patience: float = ALL,
) -> str:  # fmt: skip
    """What is wrong with a request, "" if nothing is.

    :param name: of the member that has to answer.
    :param patience: seconds in which a silent listener is asked again.
    :raises AgentFailed: nothing was asked: the client's agent is gone.
    """
    deadline = time.monotonic() + patience
    while True:
        problem = _once(client, protocol, vip, port, source, name)
        if not problem or time.monotonic() >= deadline:
            return problem


def _once(client: Client, protocol: str, vip: str, port: int, source: str, name: str) -> str:
    what = f"{protocol} from {source} to {vip} port {port}"
    if protocol in ("UDP", "SCTP"):
        argv = ["python3", "-c", member.ASK, protocol, source, vip, str(port)]
        done = client.host.run(argv, check=False, timeout=15)
        if done.status:
            words = done.stderr.strip().splitlines()
            return f"{what} got no answer: {words[-1] if words else done.status}."
        return "" if done.stdout.startswith(name) else f"{what} was answered {done.stdout!r}."
    answer, why = client.vantage.http_or_why(
        vip,
        port,
        path="/metrics" if protocol == "PROMETHEUS" else "/",
        source=source,
        timeout=ONE,
        tls=protocol in ("HTTPS", "TERMINATED_HTTPS"),
    )
    if answer is None:
        return f"{what} got no answer: {why}"
    if answer.status != 200:
        return f"{what} was answered with status {answer.status}: {answer.text[:80]!r}."
    if protocol == "PROMETHEUS":
        return "" if METRICS in answer.body else f"{what} brought no metrics of haproxy."
    if answer.headers.get(member.HEADER) != name:
        return f"{what} was answered by {answer.headers.get(member.HEADER)!r}, not by {name}."
    seen = answer.headers.get(member.CLIENT_HEADER, "")
    if protocol == "PROXY" and seen != source:
        return f"{what}: the member was told that the client is {seen!r}."
    return ""
