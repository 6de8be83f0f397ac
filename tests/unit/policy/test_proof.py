# SPDX-License-Identifier: Apache-2.0
"""The proof: agreement with the evaluation, witnesses, and speed."""

import dataclasses
import ipaddress
import json
import pathlib
import random
import time

import pytest
import z3

from sriov_lb_tests import errors
from sriov_lb_tests.policy.evaluate import INPUT, OUTPUT, evaluate
from sriov_lb_tests.policy.intervals import address
from sriov_lb_tests.policy.model import Match as PolicyMatch
from sriov_lb_tests.policy.model import Policy, Promise
from sriov_lb_tests.policy.packet import STATES, TCP, UDP, VRRP, WIDTHS, Packet
from sriov_lb_tests.policy.proof import _Search, difference, disagreements
from sriov_lb_tests.policy.ruleset import parse

LISTINGS = pathlib.Path(__file__).parent / "listings"
LB = {"vip_address": "198.51.100.20", "additional_vips": [{"ip_address": "2001:db8:1::20"}]}
WEB = {
    "name": "web", "protocol": "HTTP", "protocol_port": 80,
    "allowed_cidrs": ["198.51.100.0/25", "2001:db8:1::/112"],
}  # fmt: skip
SEVERAL = [
    {"name": "a", "protocol": "TCP", "protocol_port": 80},
    {"name": "b", "protocol": "HTTPS", "protocol_port": 443},
    {"name": "c", "protocol": "TCP", "protocol_port": 8080,
     "allowed_cidrs": ["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]},
    {"name": "d", "protocol": "UDP", "protocol_port": 53},
    {"name": "e", "protocol": "UDP", "protocol_port": 54, "allowed_cidrs": ["10.0.0.0/8"]},
    {"name": "f", "protocol": "SCTP", "protocol_port": 9},
]  # fmt: skip


def objects(name):
    return json.loads((LISTINGS / f"{name}.json").read_text())["nftables"]


def listing(name):
    return parse({"nftables": objects(name)})


def changed(name, chain, number, change):
    """The listing with rule ``number`` (from 1) of a chain replaced; None removes it."""
    found, seen = [], 0
    for entry in objects(name):
        if "rule" in entry and entry["rule"]["chain"] == chain:
            seen += 1
            if seen == number:
                expr = change(entry["rule"]["expr"])
                if expr is not None:
                    found.append({"rule": {**entry["rule"], "expr": expr}})
                continue
        found.append(entry)
    return parse({"nftables": found})


BASE, VIP = "amphora_chain", "amphora_vip_chain"


def test_what_octavia_makes_of_an_api_state_agrees_with_it():
    for name, listeners, more in (
        ("octavia-one-listener", [WEB], {}),
        ("octavia-several", SEVERAL, {}),
        ("octavia-drop-all", [], {}),
        ("octavia-pair", SEVERAL[:1], {"own": "198.51.100.30", "peers": ["198.51.100.31"]}),
    ):
        found = disagreements(Policy.of(LB, listeners, **more), listing(name))
        assert not found, f"{name}: {found}"
        assert str(found) == "policy and ruleset agree on every packet"


def prefix(length):
    def change(expr):
        text = json.dumps(expr).replace('"len": 25', f'"len": {length}')
        return json.loads(text)

    return change


def port(number):
    return lambda expr: json.loads(json.dumps(expr).replace('"right": 80', f'"right": {number}'))


FAULTS = {
    "rule removed": ("closed", VIP, 1, lambda expr: None),
    "prefix wider by a bit": ("open", VIP, 1, prefix(24)),
    "prefix narrower by a bit": ("closed", VIP, 1, prefix(26)),
    "port wrong by one": ("both", VIP, 1, port(81)),
    "source forgotten": ("open", VIP, 1, lambda expr: expr[1:]),
    "accept became drop": ("closed", VIP, 1, lambda expr: [*expr[:-1], {"drop": None}]),
    "interface forgotten": ("open", BASE, 8, lambda expr: expr[1:]),
    "interface wrong": (
        "both", BASE, 8, lambda expr: json.loads(json.dumps(expr).replace("eth1", "eth2")),
    ),
    "goto lost": ("closed", BASE, 8, lambda expr: None),
    "replies lost": ("closed", BASE, 1, lambda expr: None),
    "neighbour discovery lost": ("closed", BASE, 6, lambda expr: None),
    "loopback sources let in": (
        "open", BASE, 3, lambda expr: [*expr[:-1], {"accept": None}],
    ),
    "everything let in": ("open", BASE, 3, lambda expr: [{"accept": None}]),
    "new flows let in": (
        "open", BASE, 2,
        lambda expr: [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "new"}},
                      {"accept": None}],
    ),
    "ping let in": (
        "open", BASE, 5,
        lambda expr: json.loads(json.dumps(expr).replace("destination-unreachable",
                                                         "echo-request")),
    ),
    "ping over IPv6 let in": (
        "open", BASE, 6,
        lambda expr: json.loads(json.dumps(expr).replace("nd-router-advert", "echo-request")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found_with_a_witness(name):
    side, chain, number, change = FAULTS[name]
    ruleset = changed("octavia-one-listener", chain, number, change)
    policy = Policy.of(LB, [WEB])
    found = disagreements(policy, ruleset)
    assert bool(found.too_open) == (side in ("open", "both")), str(found)
    assert bool(found.too_closed) == (side in ("closed", "both")), str(found)
    for witness in (*found.too_open, *found.too_closed):
        assert evaluate(ruleset, witness.packet).accepted == witness.too_open
        assert str(witness.packet) in str(witness)
        expected = Promise.FORBIDDEN if witness.too_open else Promise.REQUIRED
        assert policy.decide(witness.packet).promise is expected


def test_the_witness_of_a_prefix_too_wide_is_a_source_in_the_difference():
    ruleset = changed("octavia-one-listener", VIP, 1, prefix(24))
    (witness,) = disagreements(Policy.of(LB, [WEB]), ruleset).too_open
    source = ipaddress.ip_address(witness.packet.source)
    assert source in ipaddress.ip_network("198.51.100.128/25")
    assert (witness.packet.protocol, witness.packet.dport) == (TCP, 80)
    assert witness.packet.state == "new" and witness.packet.interface == "eth1"
    assert "198.51.100.0/25" in str(witness) and "amphora_vip_chain rule 1" in str(witness)


def test_no_rules_at_all_are_too_open_and_the_search_stops():
    found = disagreements(Policy.of(LB, [WEB]), parse({"nftables": []}), limit=3)
    assert len(found.too_open) == 3 and found.more and not found.too_closed
    assert len({w.packet.dport for w in found.too_open}) == 3
    assert "(and more)" in str(found)


def test_ports_of_listeners_come_first():
    objects_ = [
        {"table": {"family": "inet", "name": "t"}},
        {"chain": {"family": "inet", "table": "t", "name": "c", "type": "filter", "hook": "input",
                   "prio": 0, "policy": "accept"}},
    ]  # fmt: skip
    found = disagreements(Policy.of(LB, [WEB]), parse({"nftables": objects_}), limit=1)
    assert found.too_open[0].packet.dport == 80


def test_known_shortcomings_of_octavia_are_found():
    """Not what Octavia does is law, but what the API promised; these are its own rules."""
    # "The whole of IPv4" is rendered without an address, so IPv6 gets in too.
    whole = {**SEVERAL[0], "allowed_cidrs": ["0.0.0.0/0"]}
    found = disagreements(Policy.of(LB, [whole], peers=["198.51.100.31"]), listing("octavia-pair"))
    assert {w.packet.version for w in found.too_open} == {6} and not found.too_closed
    # A pair with stick tables cannot exchange them.
    found = disagreements(
        Policy.of(LB, SEVERAL[:1], own="198.51.100.30", peers=["198.51.100.31"],
                  pools=[{"session_persistence": {"type": "SOURCE_IP"}}]),
        listing("octavia-pair"),
    )  # fmt: skip
    assert [w.packet.dport for w in found.too_closed] == [1025] and not found.too_open


def test_members_behind_a_port_without_conntrack_are_cut_off():
    """A normal member port gets `tcp notrack`; the firewall then no longer knows its answers."""
    raw = [
        {"chain": {"family": "inet", "table": "amphora_table", "name": "raw", "type": "filter",
                   "hook": "prerouting", "prio": -300, "policy": "accept"}},
        {"rule": {"family": "inet", "table": "amphora_table", "chain": "raw",
                  "expr": [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}},
                                      "right": "eth2"}},
                           {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}},
                                      "right": "tcp"}},
                           {"notrack": None}]}},
    ]  # fmt: skip
    ruleset = parse({"nftables": objects("octavia-one-listener") + raw})
    found = disagreements(Policy.of(LB, [WEB]), ruleset)
    assert not found.too_open
    assert {(w.packet.interface, w.packet.state) for w in found.too_closed} == {
        ("eth2", "established")
    }


def test_the_wrong_peer():
    policy = Policy.of(LB, SEVERAL[:1], own="198.51.100.30", peers=["198.51.100.32"])
    found = disagreements(policy, listing("octavia-pair"))
    assert [w.packet.protocol for w in found.too_open] == [VRRP]
    assert found.too_open[0].packet.source == "198.51.100.31"
    assert [w.packet.source for w in found.too_closed] == ["198.51.100.32"]


def test_a_firewall_that_rewrites_what_comes_in_is_not_judged():
    nat = [
        {"chain": {"family": "inet", "table": "amphora_table", "name": "n", "type": "nat",
                   "hook": "prerouting", "prio": -100, "policy": "accept"}},
        {"rule": {"family": "inet", "table": "amphora_table", "chain": "n",
                  "expr": [{"redirect": {"port": 80}}]}},
    ]  # fmt: skip
    with pytest.raises(errors.UnknownExpression, match="redirect"):
        disagreements(Policy.of(LB, [WEB]), parse({"nftables": objects("octavia-pair") + nat}))


def test_a_limit_can_go_either_way():
    def limited(expr):
        return [{"limit": {"rate": 1, "per": "second"}}, *expr]

    ruleset = changed("octavia-one-listener", VIP, 1, limited)
    found = disagreements(Policy.of(LB, [WEB]), ruleset)
    assert found.too_closed and not found.too_open
    assert "depending on a limit" in str(found.too_closed[0])


# --- the proof and the evaluation read rules alike --------------------------------------------


def symbolic(search, packet, chances=()):
    """What the formula says of one packet."""
    space, values = search.space, packet.values()
    pairs = [(space.fields[n], z3.BitVecVal(values[n], WIDTHS[n])) for n in WIDTHS]
    number = space.interfaces.index(packet.interface)
    pairs.append((space.v6, z3.BoolVal(packet.version == 6)))
    pairs.append((space.interface, z3.BitVecVal(number, 16)))
    pairs += [(unknown, z3.BoolVal(True)) for unknown in space.chances.values()]
    members = [
        (unknown, z3.simplify(z3.substitute(_spell(term, intervals), *pairs)))
        for unknown, term, intervals in space.large
    ]
    return z3.simplify(z3.substitute(search.accepts, *members, *pairs))


def _spell(term, intervals):
    return z3.Or(*[z3.And(z3.UGE(term, low), z3.ULE(term, high)) for low, high in intervals])


def some_packet(chance):
    six = chance.random() < 0.4
    if six:
        pool = ["2001:db8:1::9", "2001:db8:1::1:9", "2001:db8::5", "::1", "fe80::1", "ff02::1"]
    else:
        pool = ["198.51.100.9", "198.51.100.200", "10.1.2.3", "192.0.2.7", "127.0.0.1", "1.2.3.4",
                "198.51.100.31"]  # fmt: skip
    return Packet(
        interface=chance.choice(["lo", "eth1", "eth2"]),
        source=chance.choice(pool),
        destination="2001:db8:1::20" if six else "198.51.100.20",
        protocol=chance.choice([TCP, TCP, TCP, UDP, 132, 1, 58, VRRP, 47]),
        sport=chance.choice([67, 547, 40000]),
        dport=chance.choice([53, 54, 68, 80, 81, 82, 443, 546, 1500, 8080, 9]),
        tcp_flags=chance.choice([0x02, 0x12, 0x10, 0x04, 0x29, 0]),
        icmp_type=chance.choice([0, 1, 2, 3, 8, 11, 128, 134, 135, 136]),
        icmp_code=chance.choice([0, 1, 4]),
        hop_limit=chance.choice([1, 64, 255]),
        state=chance.choice(list(STATES)),
        extra={"length": chance.choice([40, 150, 1500]), "dscp": chance.choice([0, 8])},
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in LISTINGS.glob("*.json")))
def test_formula_and_evaluation_agree(name):
    chance = random.Random(name)
    ruleset = listing(name)
    search = _Search(Policy.of(LB, [WEB]), ruleset, ("eth1", "lo", "eth2"), INPUT)
    for _ in range(40):
        packet = some_packet(chance)
        said = symbolic(search, packet)
        assert z3.is_true(said) or z3.is_false(said), said
        assert z3.is_true(said) == evaluate(ruleset, packet).accepted, str(packet)


@pytest.mark.parametrize("rule", range(1, 76))
def test_every_rule_of_the_zoo_alone(rule):
    """Each expression by itself, for accept and for its absence."""
    everything = objects("everything-known")
    number, kept = 0, []
    for entry in everything:
        if "rule" in entry and entry["rule"]["chain"] == BASE:
            number += 1
            if number != rule:
                continue
        kept.append(entry)
    ruleset = parse({"nftables": kept})
    search = _Search(Policy.of(LB, [WEB]), ruleset, ("eth1", "lo", "eth2"), INPUT)
    chance = random.Random(rule)
    for _ in range(8):
        packet = some_packet(chance)
        assert z3.is_true(symbolic(search, packet)) == evaluate(ruleset, packet).accepted, (
            f"{kept[-1]}: {packet}"
        )


# --- speed ---------------------------------------------------------------------------------------


def many(listeners, cidrs):
    """Listeners with random CIDRs, and the ruleset Octavia and ``nft -o`` make of them."""
    chance = random.Random(7)
    entries, elements4, elements6 = [], [], []
    for number in range(listeners):
        four = chance.sample(range(1 << 16, 222 << 16), cidrs // 2)
        six = chance.sample(range(1 << 16), cidrs // 2)
        texts = [str(ipaddress.ip_network((n << 8, 24))) for n in four]
        texts += [f"2001:db8:{n:x}::/48" for n in six]
        entries.append(
            {"name": f"l{number}", "protocol": "TCP", "protocol_port": 1000 + number,
             "allowed_cidrs": texts}
        )  # fmt: skip
        for text in texts:
            base, length = text.split("/")
            element = {"concat": [{"prefix": {"addr": base, "len": int(length)}}, 1000 + number]}
            (elements6 if ":" in text else elements4).append(element)
    rules = []
    for protocol, elements in (("ip", elements4), ("ip6", elements6)):
        left = [{"payload": {"protocol": protocol, "field": "saddr"}},
                {"payload": {"protocol": "tcp", "field": "dport"}}]  # fmt: skip
        match = {"op": "==", "left": {"concat": left}, "right": {"set": elements}}
        rules.append([{"match": match}, {"accept": None}])
    kept = [e for e in objects("octavia-one-listener")
            if "rule" not in e or e["rule"]["chain"] != VIP]  # fmt: skip
    place = {"family": "inet", "table": "amphora_table", "chain": VIP}
    kept += [{"rule": {**place, "expr": expr}} for expr in rules]
    return entries, kept


@pytest.mark.parametrize("fault", [False, True])
def test_speed(fault):
    """With 200 CIDRs for each listener: tests/bench/test_policy.py."""
    listeners, cidrs, seconds = 50, 4, 0.5
    entries, rules = many(listeners, cidrs)
    removed = entries[7]["allowed_cidrs"].pop(0) if fault else None
    disagreements(Policy.of(LB, [WEB]), listing("octavia-one-listener"))  # z3 is warm
    # Of this process: the machine may be busy with something else.
    started = time.process_time()
    found = disagreements(Policy.of(LB, entries), parse({"nftables": rules}))
    taken = time.process_time() - started
    assert bool(found) == fault
    if fault:
        (witness,) = found.too_open
        assert ipaddress.ip_address(witness.packet.source) in ipaddress.ip_network(removed)
    assert taken < seconds, f"{taken:.2f} s, expected at most {seconds} s"


def test_addresses_are_numbers_of_their_family():
    assert address("0.0.0.1") == (4, 1) and address("::1") == (6, 1)


# --- two rulesets, and parts of the space ---------------------------------------------------------


def test_a_ruleset_equals_itself_and_what_says_the_same():
    one = listing("octavia-one-listener")
    assert difference(one, one) is None
    split = changed(
        "octavia-one-listener", BASE, 8,
        lambda expr: [*expr[:-1], {"jump": {"target": VIP}}],
    )  # fmt: skip
    assert difference(one, split) is None


@pytest.mark.parametrize("name", FAULTS)
def test_a_difference_comes_with_a_packet(name):
    one = listing("octavia-one-listener")
    _, chain, number, change = FAULTS[name]
    other = changed("octavia-one-listener", chain, number, change)
    found = difference(one, other)
    assert evaluate(one, found.packet).accepted != evaluate(other, found.packet).accepted
    assert found.first.accepted != found.second.accepted
    assert str(found.packet) in str(found)


def test_what_nobody_was_promised_is_a_difference_and_no_disagreement():
    one = listing("octavia-one-listener")
    other = changed(
        "octavia-one-listener", BASE, 6,
        lambda expr: json.loads(json.dumps(expr).replace("nd-router-advert", "nd-neighbor-advert")),
    )  # fmt: skip
    assert difference(one, other) is not None
    assert not disagreements(Policy.of(LB, [WEB]), other)


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (5, lambda expr: None),
        (6, lambda expr: json.loads(json.dumps(expr).replace("destination-unreachable",
                                                             "nd-redirect"))),
    ],
)  # fmt: skip
def test_icmp_but_requests_begins_no_connection(number, change):
    """What is about no flow is invalid, and dropped by the rule on states: whether a rule behind
    it names errors or redirects makes no difference."""
    one = listing("octavia-one-listener")
    assert difference(one, changed("octavia-one-listener", BASE, number, change)) is None


def test_only_packets_of_a_space_are_looked_at():
    ruleset = changed("octavia-one-listener", VIP, 1, prefix(24))
    policy = Policy.of(LB, [WEB])
    near = PolicyMatch(version=4, sources=((int(ipaddress.ip_address("198.51.100.200")),) * 2,))
    (witness,) = disagreements(policy, ruleset, within=[near]).too_open
    assert witness.packet.source == "198.51.100.200"
    far = PolicyMatch(version=4, sources=((int(ipaddress.ip_address("192.0.2.1")),) * 2,))
    assert not disagreements(policy, ruleset, within=[far])
    assert not disagreements(policy, ruleset, within=[])


def test_a_base_chain_before_connection_tracking_sees_no_state():
    early = [
        {"chain": {**entry["chain"], "hook": "prerouting", "prio": -300}}
        if entry.get("chain", {}).get("hook") else entry
        for entry in objects("octavia-one-listener")
    ]  # fmt: skip
    found = disagreements(Policy.of(LB, [WEB]), parse({"nftables": early}))
    assert found.too_closed and not found.too_open


def test_nothing_is_untracked_by_itself_but_neighbours():
    def accept_untracked(expr):
        expr[0]["vmap"]["data"]["set"].append(["untracked", {"accept": None}])
        return expr

    ruleset = changed("octavia-one-listener", BASE, 1, accept_untracked)
    assert not disagreements(Policy.of(LB, [WEB]), ruleset)


# --- interfaces, helpers and sets that are not there yet ------------------------------------------


def added(name, *expressions, chain=BASE):
    """A listing with one rule more at the end of a chain."""
    place = {"family": "inet", "table": "amphora_table", "chain": chain}
    return parse({"nftables": [*objects(name), {"rule": {**place, "expr": list(expressions)}}]})


def on(name, key="iifname"):
    return {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": name}}


ACCEPT, DROP = {"accept": None}, {"drop": None}


@pytest.mark.parametrize(
    ("name", "expected"), [("eth3", "eth3"), ("ens*", "ens0"), ("another", "another")]
)
def test_a_rule_for_an_interface_that_is_not_there_yet_is_too_open(name, expected):
    found = disagreements(
        Policy.of(LB, [WEB]), added("octavia-one-listener", on(name), ACCEPT),
        interfaces=("lo", "eth1"),
    )  # fmt: skip
    assert {w.packet.interface for w in found.too_open} == {expected} and not found.too_closed


def test_a_rule_for_all_but_the_known_interfaces_is_too_open():
    known = {"match": {"op": "!=", "left": {"meta": {"key": "iifname"}},
                       "right": {"set": ["lo", "eth1", "eth2", "another"]}}}  # fmt: skip
    found = disagreements(Policy.of(LB, [WEB]), added("octavia-one-listener", known, ACCEPT))
    assert {w.packet.interface for w in found.too_open} == {"another0"}
    assert difference(
        listing("octavia-one-listener"), added("octavia-one-listener", known, ACCEPT)
    )


def test_what_has_to_pass_has_to_on_interfaces_that_are_there():
    def only(expr):
        return [on({"set": ["lo", "eth1", "eth2"]}), *expr]

    ruleset = changed("octavia-one-listener", BASE, 1, only)
    assert not disagreements(Policy.of(LB, [WEB]), ruleset)
    assert disagreements(Policy.of(LB, [WEB]), ruleset, interfaces=("eth1", "eth3")).too_closed


def test_flows_that_a_helper_expects_are_too_open():
    """Octavia's rules accept what is related; by themselves only ICMP errors are."""
    found = disagreements(
        Policy.of(LB, [WEB]), added("octavia-one-listener", {"ct helper": "ftp"}, DROP)
    )
    assert found.too_open and not found.too_closed
    assert {w.packet.state for w in found.too_open} == {"related"}


def test_a_set_that_rules_fill_is_too_open_though_it_is_empty():
    place = {"family": "inet", "table": "amphora_table"}
    source = {"payload": {"protocol": "ip", "field": "saddr"}}
    listed = objects("octavia-one-listener") + [
        {"set": {**place, "name": "seen", "type": "ipv4_addr", "size": 65535}},
        {"rule": {**place, "chain": BASE,
                  "expr": [{"set": {"op": "update", "elem": source, "set": "@seen"}}]}},
        {"rule": {**place, "chain": BASE,
                  "expr": [{"match": {"op": "==", "left": source, "right": "@seen"}}, ACCEPT]}},
    ]  # fmt: skip
    found = disagreements(Policy.of(LB, [WEB]), parse({"nftables": listed}))
    assert {w.packet.version for w in found.too_open} == {4} and not found.too_closed
    assert "@seen" in str(found) and "depending on" in str(found.too_open[0])


def test_what_a_limit_does_not_decide_does_not_depend_on_it():
    limit = {"limit": {"rate": 1, "per": "second"}}
    found = disagreements(Policy.of(LB, [WEB]), added("octavia-one-listener", limit, ACCEPT))
    assert all("depending on a limit" in str(one) for one in found.too_open)
    found = disagreements(Policy.of(LB, []), added("octavia-one-listener", limit, DROP))
    assert found.too_open and "depending" not in str(found)


def test_a_nat_chain_that_drops_breaks_no_established_flow():
    nat = [{"chain": {"family": "inet", "table": "amphora_table", "name": "n", "type": "nat",
                      "hook": "prerouting", "prio": -100, "policy": "drop"}}]  # fmt: skip
    found = disagreements(
        Policy.of(LB, [WEB]), parse({"nftables": objects("octavia-one-listener") + nat})
    )
    assert found.too_closed and {w.packet.state for w in found.too_closed} == {"new"}


# --- what leaves ----------------------------------------------------------------------------------


def leaving(*rules, hook="output", policy="drop"):
    place = {"family": "inet", "table": "amphora_table"}
    more = [{"chain": {**place, "name": "out", "type": "filter", "hook": hook, "prio": 0,
                       "policy": policy}}]  # fmt: skip
    more += [{"rule": {**place, "chain": "out", "expr": expr}} for expr in rules]
    return parse({"nftables": objects("octavia-one-listener") + more})


@pytest.mark.parametrize("hook", ["output", "postrouting"])
def test_rules_that_keep_answers_back_are_too_closed(hook):
    found = disagreements(Policy.of(LB, [WEB]), leaving(hook=hook))
    assert not found.too_open
    one, six = found.too_closed
    assert six.packet.source == "2001:db8:1::20"
    assert one.packet.leaving and one.clause.name == "answers of listeners"
    assert (one.packet.source, one.packet.sport) == ("198.51.100.20", 80)
    assert one.packet.state == "established"
    assert "leaving by eth1" in str(one) and "does not let it out" in str(one)
    assert "no rule of inet amphora_table out matches and its policy is drop" in str(one)


def test_rules_that_let_answers_out_agree():
    state = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "established"}}
    sport = {"payload": {"protocol": "tcp", "field": "sport"}}
    web = {"match": {"op": "==", "left": sport, "right": 80}}
    for rules in ([state, ACCEPT],), ([on("eth1", "oifname"), web, ACCEPT],):
        assert not disagreements(Policy.of(LB, [WEB]), leaving(*rules))
    refused = leaving([on("eth1", "iifname"), DROP], policy="accept")
    assert not disagreements(Policy.of(LB, [WEB]), refused), "it has no input interface"
    assert not disagreements(Policy.of(LB, []), leaving()).too_closed, "nobody is answered"


def test_rules_that_rewrite_what_leaves_keep_no_answer_back():
    """Only a flow's first packet meets them: `masquerade`, as Octavia writes it for UDP."""
    place = {"family": "ip", "table": "octavia-ipv4"}
    nat = [
        {"table": {"family": "ip", "name": "octavia-ipv4"}},
        {"chain": {**place, "name": "masq", "type": "nat", "hook": "postrouting", "prio": 100,
                   "policy": "accept"}},
        {"rule": {**place, "chain": "masq",
                  "expr": [on("eth1", "oifname"), {"masquerade": None}]}},
    ]  # fmt: skip
    ruleset = parse({"nftables": objects("octavia-one-listener") + nat})
    assert not disagreements(Policy.of(LB, [WEB]), ruleset)


@pytest.mark.parametrize("state", ["established", "new"])
def test_formula_and_evaluation_agree_on_what_leaves(state):
    lines = [
        [on("eth1", "oifname"), ACCEPT],
        [on("eth2"), ACCEPT],
        [{"match": {"op": "==", "left": {"payload": {"protocol": "ether", "field": "saddr"}},
                    "right": "00:11:22:33:44:55"}}, ACCEPT],
        [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "new"}}, ACCEPT],
        [{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "sport"}},
                    "right": 40000}}, {"notrack": None}, ACCEPT],
    ]  # fmt: skip
    nat = {"family": "inet", "table": "amphora_table", "name": "nat", "type": "nat",
           "hook": "postrouting", "prio": 100, "policy": "drop"}  # fmt: skip
    chance = random.Random(state)
    for number in range(len(lines)):
        ruleset = leaving(*lines[number:])
        both = parse({"nftables": [*ruleset.source, {"chain": nat}]})
        for rules in (ruleset, both):
            search = _Search(Policy.of(LB, [WEB]), rules, ("eth1", "lo", "eth2"), OUTPUT,
                             leaving=True)  # fmt: skip
            for _ in range(12):
                one = dataclasses.replace(some_packet(chance), state=state, leaving=True)
                said = z3.is_true(symbolic(search, one))
                assert said == evaluate(rules, one).accepted, f"{number}: {one}"


def test_answers_of_one_listener_of_two():
    sport = {"payload": {"protocol": "tcp", "field": "sport"}}
    https = {"match": {"op": "==", "left": sport, "right": 443}}
    other = {**WEB, "name": "https", "protocol_port": 443}
    found = disagreements(
        Policy.of(LB, [WEB, other]), leaving([https, DROP], policy="accept")
    ).too_closed
    assert {w.packet.sport for w in found if w.packet.leaving} == {443}


def test_what_leaves_is_no_packet_that_can_be_sent():
    assert not disagreements(Policy.of(LB, [WEB]), leaving(), within=[PolicyMatch()])


# --- packets that exist, and those that hosts send ------------------------------------------------

DROPS = {"type": "filter", "hook": "input", "prio": 0, "policy": "drop"}


def field(protocol, name, right, op="=="):
    left = {"payload": {"protocol": protocol, "field": name}}
    return {"match": {"op": op, "left": left, "right": right}}


def bits(protocol, name, mask, right, op="=="):
    left = {"&": [{"payload": {"protocol": protocol, "field": name}}, mask]}
    return {"match": {"op": op, "left": left, "right": right}}


def ct(key, right, op="=="):
    return {"match": {"op": op, "left": {"ct": {"key": key}}, "right": right}}


def meta(key, right, op="=="):
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": right}}


FOURTH, SIXTH = meta("nfproto", "ipv4"), meta("nfproto", "ipv6")
FRAGMENT = bits("ip", "frag-off", 0x1FFF, 0, "!=")
NOTRACK = {"notrack": None}


def first(*expressions, after=0):
    """Octavia's rules with one more before all others of the base chain, or behind some."""
    found, seen = [], 0
    place = {"family": "inet", "table": "amphora_table", "chain": BASE}
    mine = {"rule": {**place, "expr": list(expressions)}}
    for entry in objects("octavia-one-listener"):
        if entry.get("rule", {}).get("chain") == BASE:
            if seen == after:
                found.append(mine)
            seen += 1
        found.append(entry)
    return parse({"nftables": found})


def early(prio, *rules, hook="prerouting", policy="accept"):
    """Octavia's rules, and before them a chain of its own."""
    place = {"family": "inet", "table": "amphora_table"}
    more = [{"chain": {**place, "name": "early", "type": "filter", "hook": hook, "prio": prio,
                       "policy": policy}}]  # fmt: skip
    more += [{"rule": {**place, "chain": "early", "expr": list(expr)}} for expr in rules]
    return parse({"nftables": objects("octavia-one-listener") + more})


FALSE_ALARMS = {
    "fragments, where there are none any more": first(FRAGMENT, DROP),
    "fragments behind conntrack": early(-300, [FRAGMENT, DROP]),
    "IPv6 fragments behind conntrack": early(-300, [field("ip6", "nexthdr", 44), DROP]),
    "to others": first(FOURTH, meta("pkttype", "host", "!="), DROP),
    "to others, behind neighbour discovery": first(meta("pkttype", "host", "!="), DROP, after=6),
    "no hops": first(field("ip", "ttl", 1, "<"), DROP),
    "no hops of IPv6": first(field("ip6", "hoplimit", 0), DROP),
    "half a TCP header": first(field("tcp", "doff", 5, "<"), DROP),
    "half an IP header": first(field("ip", "hdrlength", 5, "<"), DROP),
    "flags that no flow has": first(bits("tcp", "flags", 3, 3), DROP),
    "no flags": first(field("tcp", "flags", 0), DROP),
    "extension headers": first(field("ip6", "nexthdr", {"set": [0, 43, 60]}), DROP),
    "replies": first(ct("direction", "reply"), ACCEPT),
    "what was answered": first(ct("status", "seen-reply", "in"), ACCEPT),
    "flows that nobody answered": first(
        ct("state", "established", "in"),
        {"match": {"op": "==", "left": {"&": [{"ct": {"key": "status"}}, 2]}, "right": 0}}, DROP,
    ),
    "IPv6 fragments of what fits itself to the path": early(
        -450, [field("ip6", "nexthdr", 44), meta("l4proto", "tcp"), DROP]
    ),
    "new replies": first(ct("state", "new", "in"), ct("direction", "reply"), DROP),
    "connections of what has none": first(ct("state", "invalid", "in"), ct("mark", 1), ACCEPT),
    "connections before conntrack": early(-300, [on("eth1"), ct("direction", "original"), DROP]),
    "exempt too late": early(-150, [NOTRACK]),
    "no output interface": early(-300, [on("lo", "oifname"), DROP]),
}  # fmt: skip


@pytest.mark.parametrize("name", FALSE_ALARMS)
def test_rules_about_packets_that_do_not_exist_are_no_disagreement(name):
    found = disagreements(Policy.of(LB, [WEB]), FALSE_ALARMS[name])
    assert not found, str(found)


WRONG = {
    "fragments before they are put together": ("closed", early(-450, [FRAGMENT, DROP])),
    "IPv6 fragments before": ("closed", early(-450, [field("ip6", "nexthdr", 44), DROP])),
    # Neighbours are asked for by multicast.
    "to groups, before neighbour discovery": ("closed", first(meta("pkttype", "host", "!="), DROP)),
    "to this host": ("closed", first(meta("pkttype", "host"), DROP)),
    "many hops away": ("closed", first(field("ip", "ttl", 65, "<"), DROP)),
    "a plain TCP header": ("closed", first(field("tcp", "doff", 6, "<"), DROP)),
    "TCP options": ("closed", first(field("tcp", "doff", 5, ">"), DROP)),
    "IP options": ("closed", first(field("ip", "hdrlength", 6, "<"), DROP)),
    "SYN": ("closed", first(bits("tcp", "flags", 3, 2), DROP)),
    "no extension headers": ("closed", first(field("ip6", "nexthdr", "tcp"), DROP)),
    "first packets": ("open", first(ct("direction", "original"), ACCEPT)),
    "what nobody answered": ("open", first(ct("status", "confirmed", "in"), ACCEPT)),
    "replies of flows": ("closed", first(ct("direction", "reply"), DROP)),
    "exempt": ("closed", early(-300, [on("eth2"), NOTRACK])),
    "what has no connection": ("open", first(ct("state", "invalid", "in"), ACCEPT)),
    "an output interface but lo": ("open", first(meta("oifname", "lo", "!="), ACCEPT)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_rules_about_packets_that_exist_still_are(name):
    side, ruleset = WRONG[name]
    found = disagreements(Policy.of(LB, [WEB]), ruleset)
    assert bool(found.too_open) == (side == "open"), str(found)
    assert bool(found.too_closed) == (side == "closed"), str(found)


def test_a_firewall_for_packets_to_this_host_hears_no_neighbours():
    found = disagreements(Policy.of(LB, [WEB]), first(meta("pkttype", "host", "!="), DROP))
    (witness,) = found.too_closed
    assert witness.clause.name == "neighbour discovery"
    assert witness.packet.destination.startswith("ff")


def test_what_has_to_pass_is_an_ordinary_packet_that_can_be_sent():
    """The agreement on the wire sends witnesses of which nothing else need be said."""
    ruleset = changed("octavia-one-listener", VIP, 1, lambda expr: None)
    for one in disagreements(Policy.of(LB, [WEB]), ruleset).too_closed:
        assert one.packet.extra == {} and one.packet.state == "new"
    ruleset = changed("octavia-one-listener", BASE, 1, lambda expr: None)
    for one in disagreements(Policy.of(LB, [WEB]), ruleset).too_closed:
        assert one.packet.extra == {} and one.packet.state in ("established", "related")


def test_an_extension_header_gets_past_a_rule_about_the_first_header():
    found = disagreements(
        Policy.of(LB, [WEB]),
        added("octavia-one-listener", SIXTH, field("ip6", "nexthdr", "tcp", "!="),
              field("tcp", "dport", 81), ACCEPT, chain=VIP),
    )  # fmt: skip
    (witness,) = found.too_open
    assert witness.packet.extra.get("next_header") in (0, 43, 60) and not found.too_closed
    assert witness.packet.protocol == TCP


def test_rules_about_the_input_interface_keep_answers_back():
    kept = leaving([meta("iifname", "eth1", "!="), DROP], policy="accept")
    found = disagreements(Policy.of(LB, [WEB]), kept)
    assert {w.clause.name for w in found.too_closed} == {"answers of listeners"}


def test_chains_whose_order_nobody_knows_are_not_judged():
    mark = {"meta": {"key": "mark"}}
    place = {"family": "inet", "table": "other"}
    more = [
        {"table": {"family": "inet", "name": "other"}},
        {"chain": {**place, "name": "c", "type": "filter", "hook": "input", "prio": 0,
                   "policy": "accept"}},
        {"rule": {**place, "chain": "c", "expr": [{"mangle": {"key": mark, "value": 1}}]}},
    ]  # fmt: skip
    listed = objects("octavia-one-listener")
    assert not disagreements(Policy.of(LB, [WEB]), parse({"nftables": listed + more}))
    reads = added("octavia-one-listener", meta("mark", 1), ACCEPT).source
    with pytest.raises(errors.UnknownExpression, match="other c and .*reads it"):
        disagreements(Policy.of(LB, [WEB]), parse({"nftables": reads + more}))


LINES = [
    [meta("oifname", "lo", "!="), ACCEPT],
    [meta("oifname", "eth*"), ACCEPT],
    [meta("iifname", {"set": ["lo", "eth2"]}, "!="), ACCEPT],
    [{"vmap": {"key": {"meta": {"key": "oifname"}},
               "data": {"set": [["lo", DROP], ["*", ACCEPT]]}}}],
    [field("ip6", "nexthdr", "tcp"), ACCEPT],
    [field("ip6", "nexthdr", "tcp", "!="), ACCEPT],
    [field("ip6", "nexthdr", {"set": [44, 60]}), ACCEPT],
    [FRAGMENT, ACCEPT],
    [bits("ip", "frag-off", 0x4000, 0), ACCEPT],
    [ct("direction", "original"), ACCEPT],
    [ct("mark", 1, "!="), ACCEPT],
    [ct("status", "seen-reply", "in"), ACCEPT],
    [ct("state", "untracked"), ACCEPT],
    [NOTRACK, ct("state", "untracked"), ACCEPT],
    [ct("state", "new", "in"), NOTRACK],
    [ct("state", "invalid", "in"), NOTRACK],
    [on("eth1"), NOTRACK],
]  # fmt: skip


def some_stranger(chance, way):
    """A packet of which much is unusual."""
    packet = some_packet(chance)
    extra = {
        "next_header": chance.choice([packet.protocol, 0, 43, 60]),
        "fragment_header": int(packet.version == 6 and chance.random() < 0.3),
        "frag_off": chance.choice([0, 0x4000, 0x2000, 1]),
        "ct_direction": chance.choice([0, 1]),
        "ct_mark": chance.choice([0, 1]),
        "ct_status": chance.choice([0, 8, 10]),
    }
    return dataclasses.replace(packet, extra=extra, leaving=way)


@pytest.mark.parametrize("hook", ["ingress", "prerouting", "input", "output", "postrouting"])
@pytest.mark.parametrize("prio", [-450, -300, -100])
def test_formula_and_evaluation_agree_on_what_is_easily_misread(hook, prio):
    chance = random.Random(f"{hook} {prio}")
    way = hook in OUTPUT
    place = {"family": "inet", "table": "t"}
    last = {"type": "filter", "hook": "postrouting" if way else "input", "prio": 300,
            "policy": "drop"}  # fmt: skip
    for number, line in enumerate(LINES):
        chains = [
            {"chain": {**place, "name": "a", **DROPS, "hook": hook, "prio": prio,
                       "policy": chance.choice(["accept", "drop"])}},
            {"chain": {**place, "name": "b", **last}},
        ]  # fmt: skip
        listed = [{"rule": {**place, "chain": "a", "expr": line}}]
        for other in chance.sample(LINES, 3):
            listed.append({"rule": {**place, "chain": chance.choice("ab"), "expr": other}})
        ruleset = parse({"nftables": chains + listed})
        search = _Search(Policy.of(LB, [WEB]), ruleset, ("eth1", "lo", "eth2"),
                         OUTPUT if way else INPUT, leaving=way)  # fmt: skip
        for _ in range(4):
            one = some_stranger(chance, way)
            said = z3.is_true(symbolic(search, one))
            assert said == evaluate(ruleset, one).accepted, f"{number}: {listed} {one}"
