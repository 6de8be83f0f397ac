# SPDX-License-Identifier: Apache-2.0
"""How long the static proof takes: many listeners with many CIDRs, equal and with one fault."""

import ipaddress
import random
import time

import pytest

from sriov_lb_tests.policy.model import Policy
from sriov_lb_tests.policy.proof import difference, disagreements
from sriov_lb_tests.policy.ruleset import parse

LB = {"vip_address": "198.51.100.20", "additional_vips": [{"ip_address": "2001:db8:1::20"}]}
#: Listeners, CIDRs of each, seconds that the comparison may take.
GOALS = ((1, 2, 0.5), (50, 4, 0.5), (50, 200, 5.0))
TURNS = 3

TABLE = {"family": "inet", "table": "amphora_table"}


def rule(chain, *expressions):
    return {"rule": {**TABLE, "chain": chain, "expr": list(expressions)}}


def match(left, right, op="=="):
    return {"match": {"op": op, "left": left, "right": right}}


def payload(protocol, field):
    return {"payload": {"protocol": protocol, "field": field}}


ACCEPT = {"accept": None}
NEIGHBOURS = ["destination-unreachable", "packet-too-big", "nd-router-advert",
              "nd-neighbor-solicit", "nd-neighbor-advert"]  # fmt: skip
STATES = [["invalid", {"drop": None}], ["established", ACCEPT], ["related", ACCEPT]]

#: What Octavia and `nft -o` make of any load balancer, but for its listeners.
FRAME = [
    {"table": {"family": "inet", "name": "amphora_table"}},
    {"chain": {**TABLE, "name": "amphora_chain", "type": "filter", "hook": "input", "prio": 0,
               "policy": "drop"}},
    {"chain": {**TABLE, "name": "amphora_vip_chain"}},
    rule("amphora_chain", {"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": STATES}}}),
    rule("amphora_chain", match({"meta": {"key": "iif"}}, "lo"), ACCEPT),
    rule("amphora_chain", match(payload("ip", "saddr"),
                                {"prefix": {"addr": "127.0.0.0", "len": 8}}), {"drop": None}),
    rule("amphora_chain", match(payload("ip6", "saddr"), "::1"), {"drop": None}),
    rule("amphora_chain", match(payload("icmp", "type"), "destination-unreachable"), ACCEPT),
    rule("amphora_chain", match(payload("icmpv6", "type"), {"set": NEIGHBOURS}), ACCEPT),
    rule("amphora_chain", match({"meta": {"key": "iifname"}}, "eth1"),
         {"goto": {"target": "amphora_vip_chain"}}),
]  # fmt: skip


def load_balancer(listeners, cidrs):
    """Listeners as the API shows them, and the listing of their rules."""
    chance = random.Random(7)
    entries, elements = [], {"ip": [], "ip6": []}
    for number in range(listeners):
        four = chance.sample(range(1 << 16, 222 << 16), cidrs // 2)
        six = chance.sample(range(1 << 16), cidrs // 2)
        texts = [str(ipaddress.ip_network((n << 8, 24))) for n in four]
        texts += [f"2001:db8:{n:x}::/48" for n in six]
        entries.append({"name": f"l{number}", "protocol": "TCP", "protocol_port": 1000 + number,
                        "allowed_cidrs": texts})  # fmt: skip
        for text in texts:
            base, length = text.split("/")
            prefix = {"prefix": {"addr": base, "len": int(length)}}
            elements["ip6" if ":" in text else "ip"].append({"concat": [prefix, 1000 + number]})
    rules = [
        rule(
            "amphora_vip_chain",
            match({"concat": [payload(family, "saddr"), payload("tcp", "dport")]}, {"set": found}),
            ACCEPT,
        )
        for family, found in elements.items()
    ]
    return entries, FRAME + rules


def fastest(work):
    """Processor seconds of the fastest of several turns, and what the last one found.

    It runs on one core and waits for nothing.
    """
    taken, found = [], None
    for _ in range(TURNS):
        started = time.process_time()
        found = work()
        taken.append(time.process_time() - started)
    return min(taken), found


@pytest.fixture(scope="module")
def measured(publish):
    fastest(lambda: disagreements(Policy.of(LB, []), parse({"nftables": []}), limit=1))  # warm
    rows, seconds = [], {}
    for listeners, cidrs, goal in GOALS:
        entries, listing = load_balancer(listeners, cidrs)
        broken = [dict(entry) for entry in entries]
        broken[len(broken) // 2]["allowed_cidrs"] = broken[len(broken) // 2]["allowed_cidrs"][1:]
        reading, ruleset = fastest(lambda listing=listing: parse({"nftables": listing}))
        equal, none = fastest(lambda e=entries, r=ruleset: disagreements(Policy.of(LB, e), r))
        fault, one = fastest(lambda e=broken, r=ruleset: disagreements(Policy.of(LB, e), r))
        twice, same = fastest(lambda r=ruleset: difference(r, r))
        assert not none and len(one.too_open) == 1 and same is None
        seconds[listeners, cidrs] = reading + max(equal, fault)
        rows.append((f"{listeners} x {cidrs}", f"{reading:.3f} s", f"{equal:.3f} s",
                     f"{fault:.3f} s", f"{twice:.3f} s", f"{goal:g} s"))  # fmt: skip
    publish(
        "policy-proof",
        f"Static proof over all packets, processor time (fastest of {TURNS})",
        ("listeners x CIDRs", "reading the listing", "no packet differs", "one CIDR too many",
         "two rulesets compared", "goal for reading and comparing"),
        rows,
    )  # fmt: skip
    return seconds


@pytest.mark.parametrize(("listeners", "cidrs", "goal"), GOALS)
def test_the_proof_is_fast_enough(measured, listeners, cidrs, goal):
    taken = measured[listeners, cidrs]
    assert taken < goal, f"{taken:.2f} s for {listeners} listeners with {cidrs} CIDRs, not {goal} s"
