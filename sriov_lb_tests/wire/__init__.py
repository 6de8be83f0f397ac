# SPDX-License-Identifier: Apache-2.0
"""Hosts that send and capture, and what may be concluded from what they saw.

A test works with three things::

    from sriov_lb_tests.wire.ssh import SshHost            # or namespace.NamespaceHost
    from sriov_lb_tests.wire.vantage import Vantage
    from sriov_lb_tests.packets.probe import icmp_echo, tcp_syn, udp

    with SshHost("192.0.2.7", user="debian", key_file=key, pins=run_folder) as host:
        with Vantage(host, "eth1", artefacts=run_folder / "client") as vantage:
            vantage.play("198.51.100.1")                    # a gateway nobody else plays
            good = tcp_syn(vip, 80, source="198.51.100.7")
            bad = tcp_syn(vip, 80, source="203.0.113.9")
            seen = vantage.ask(good)                        # -> Observation
            assert seen.verdict is Verdict.ACCEPTED, seen
            seen = vantage.ask(bad, control=good)
            assert seen.verdict is Verdict.DROPPED, seen    # str(seen) is one sentence + pcap
            answer = vantage.http(vip, 80)                  # by the guest's own kernel

``Verdict``: ACCEPTED, REJECTED, DROPPED, INCONCLUSIVE. DROPPED needs a control that differs from
the probe in the one thing under test and that was answered before *and* after the probe, on the
same path within the same second; without one, silence is INCONCLUSIVE and never DROPPED.

Modules: ``host`` (the protocol all hosts keep), ``ssh``, ``namespace``, ``fake`` (for unit tests),
``session`` (the tester's end of the agent), ``agent`` (the guest's end), ``exchange`` (waves of
probes and controls, and verdicts), ``vantage`` (the façade), ``pcap``.
"""
