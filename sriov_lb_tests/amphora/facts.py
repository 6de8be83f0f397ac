# SPDX-License-Identifier: Apache-2.0
"""What of an amphora could matter to how fast it is: software, sizes, interface, ruleset.

One program of the standard library does all the reading, so that one ssh command is enough and
nothing is changed or installed. A fact that is not there is None, never left out: that two
amphorae differ in what is missing counts as well.
"""

from __future__ import annotations

import json
from typing import Any

from sriov_lb_tests import errors
from sriov_lb_tests.amphora.amphora import NAMESPACE, VIP_INTERFACE
from sriov_lb_tests.wire.host import Host

PROGRAM = r"""
import glob, json, os, platform, re, subprocess, sys
netns, interface = sys.argv[1], sys.argv[2]
inside = ["ip", "netns", "exec", netns] if netns else []
def out(argv):
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
def read(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None
def within(path):
    text = out([*inside, "cat", path])
    return text.strip() if text is not None else None
def number(text):
    return int(text) if text and text.strip().lstrip("-").isdigit() else None
def first(pattern, text):
    found = re.search(pattern, text or "", re.M)
    return found.group(1).strip() or None if found else None
cpuinfo = read("/proc/cpuinfo")
memory = number(first(r"^MemTotal:\s+(\d+)", read("/proc/meminfo")))
facts = {
    "os": (first(r"^PRETTY_NAME=(.*)", read("/etc/os-release")) or "").strip('"') or None,
    "kernel": platform.release(),
    "cpus": len(os.sched_getaffinity(0)),
    "cpu model": first(r"^model name\s*:[ \t]*(.*)", cpuinfo),
    "memory MiB": memory // 1024 if memory else None,
    "clock source": read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
}
workers, ticks = [], 0
for path in glob.glob("/proc/[0-9]*/status"):
    text = read(path)
    if first(r"^Name:[ \t]*(.*)", text) == "haproxy":
        fields = (read(path[:-6] + "stat") or "").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12]) if len(fields) > 12 else 0
        workers.append((int(first(r"^Threads:\s*(\d+)", text) or 0),
                        first(r"^Cpus_allowed_list:[ \t]*(.*)", text)))
facts["haproxy version"] = first(r"^HA-?Proxy version (\S+)", out(["haproxy", "-v"]))
facts["haproxy threads"] = max((threads for threads, _ in workers), default=None)
facts["haproxy CPUs"] = max(workers)[1] if workers else None
facts["keepalived version"] = first(r"Keepalived v(\S+)", out(["sh", "-c", "keepalived -v 2>&1"]))
agents = glob.glob("/opt/*/lib/python3*/site-packages/octavia-[0-9]*.dist-info") + glob.glob(
    "/usr/lib/python3/dist-packages/octavia-[0-9]*.*-info")
facts["agent version"] = first(r"octavia-([^-/]+?)\.(?:dist|egg)-info", "\n".join(agents))
tool = out([*inside, "ethtool", "-i", interface])
facts["interface driver"] = first(r"^driver:[ \t]*(.*)", tool)
facts["interface firmware"] = first(r"^firmware-version:[ \t]*(.*)", tool)
facts["interface bus"] = first(r"^bus-info:[ \t]*(.*)", tool)
facts["MTU"] = number(within("/sys/class/net/%s/mtu" % interface))
facts["MAC"] = within("/sys/class/net/%s/address" % interface)
facts["speed Mbit/s"] = number(within("/sys/class/net/%s/speed" % interface))
queues = out([*inside, "ls", "/sys/class/net/%s/queues" % interface])
facts["queues"] = None if queues is None else "%d rx, %d tx" % (
    queues.count("rx-"), queues.count("tx-"))
offloads = out([*inside, "ethtool", "-k", interface])
wanted = ("rx-checksumming", "tx-checksumming", "tcp-segmentation-offload",
          "generic-segmentation-offload", "generic-receive-offload", "large-receive-offload")
facts["offloads on"] = None if offloads is None else ", ".join(
    name for name in wanted if re.search(r"^%s: on" % name, offloads, re.M)) or "none"
listing = out([*inside, "nft", "-j", "list", "ruleset"])
if listing is None:
    facts["nftables rules"] = facts["nftables set elements"] = facts["notrack rules"] = None
else:
    entries = json.loads(listing)["nftables"]
    rules = [entry["rule"] for entry in entries if "rule" in entry]
    ours = [rule for rule in rules if not rule["table"].startswith("sriov_lb_count_")]
    facts["nftables rules"] = len(ours)
    facts["nftables set elements"] = sum(len(e["set"].get("elem", ())) for e in entries
                                         if "set" in e)
    facts["notrack rules"] = sum(any("notrack" in part for part in rule["expr"])
                                 for rule in ours)
base = "/proc/sys/net/netfilter/nf_conntrack_"
facts["conntrack entries"] = number(within(base + "count"))
facts["conntrack limit"] = number(within(base + "max"))
facts["congestion control"] = within("/proc/sys/net/ipv4/tcp_congestion_control")
stat = [int(value) for value in (read("/proc/stat") or "cpu 0").split("\n")[0].split()[1:]]
counters = {"haproxy_ticks": ticks, "hertz": os.sysconf("SC_CLK_TCK"), "cpu": stat}
print(json.dumps({"facts": facts, "counters": counters}))
"""


def read(
    host: Host, *, netns: str | None = NAMESPACE, interface: str = VIP_INTERFACE
) -> dict[str, Any]:
    """``{"facts": {name: value or None}, "counters": …}``.

    ``counters`` grow: CPU time of haproxy in ticks of ``hertz``, and the first line of /proc/stat
    (user, nice, system, idle, iowait, irq, softirq, steal, …); :func:`between` makes shares of two.

    :param netns: the namespace of haproxy; None when ``host`` is that namespace already.
    :raises GuestError: the host cannot be reached.
    :raises CommandFailed: there is no python3, or it may not run as root.
    """
    argv = ["python3", "-", netns or "", interface]
    done = host.run(argv, input=PROGRAM.encode(), root=True, timeout=60)
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise errors.CommandFailed(
            f"python3 on {host.name} printed no facts: {done.stdout[:200]!r}", argv=argv
        ) from error


def between(before: dict[str, Any], after: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What an amphora did between two readings.

    :param seconds: time between them.
    :returns: ``haproxy cores`` (CPU time of all haproxy processes over the time), ``steal share``
        (of the amphora's CPU time), ``conntrack entries`` at the end. None where unknown.
    """
    first, last = before["counters"], after["counters"]
    ticks = last["haproxy_ticks"] - first["haproxy_ticks"]
    spent = [b - a for a, b in zip(first["cpu"], last["cpu"], strict=False)]
    total = sum(spent[:8])
    return {
        # Less than before: haproxy was restarted.
        "haproxy cores": ticks / last["hertz"] / seconds if seconds > 0 <= ticks else None,
        "steal share": spent[7] / total if len(spent) > 7 and total > 0 else None,
        "conntrack entries": after["facts"]["conntrack entries"],
    }
