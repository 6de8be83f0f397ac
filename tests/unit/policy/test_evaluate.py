# SPDX-License-Identifier: Apache-2.0
"""The fate of single packets."""

import json
import pathlib

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.policy.evaluate import evaluate, first_only
from sriov_lb_tests.policy.packet import ACK, ICMP, ICMPV6, SYN, TCP, UDP, VRRP, Packet
from sriov_lb_tests.policy.ruleset import Chance, parse

LISTINGS = pathlib.Path(__file__).parent / "listings"


def listing(name):
    return parse((LISTINGS / f"{name}.json").read_text())


def packet(source="198.51.100.9", destination="198.51.100.20", protocol=TCP, dport=80, **more):
    more.setdefault("interface", "eth1")
    return Packet(source=source, destination=destination, protocol=protocol, dport=dport, **more)


@pytest.mark.parametrize(
    ("accepted", "fields"),
    [
        (True, {}),
        (True, {"source": "198.51.100.127"}),
        (False, {"source": "198.51.100.128"}),
        (False, {"dport": 81}),
        (False, {"protocol": UDP}),
        (False, {"interface": "eth2"}),
        (True, {"interface": "lo", "source": "127.0.0.1", "dport": 9}),
        (False, {"state": "invalid"}),
        (False, {"state": "invalid", "interface": "lo"}),
        (True, {"state": "established", "dport": 9, "interface": "eth2"}),
        (True, {"protocol": UDP, "sport": 67, "dport": 68, "source": "203.0.113.1"}),
        (False, {"protocol": UDP, "sport": 67, "dport": 546, "source": "203.0.113.1"}),
        (True, {"protocol": ICMP, "icmp_type": 3}),
        (False, {"protocol": ICMP, "icmp_type": 8}),
        # type 3 of ICMPv6 is not type 3 of ICMP
        (False, {"protocol": ICMPV6, "icmp_type": 3, "source": "fe80::1",
                 "destination": "fe80::2"}),
        (True, {"protocol": ICMPV6, "icmp_type": 135, "source": "fe80::1",
                "destination": "fe80::2", "state": "untracked"}),
        (False, {"protocol": ICMPV6, "icmp_type": 135, "source": "::1", "destination": "fe80::2"}),
        (True, {"source": "2001:db8:1::9", "destination": "2001:db8:1::20"}),
        (False, {"source": "2001:db8:1::1:9", "destination": "2001:db8:1::20"}),
        (False, {"protocol": VRRP}),
    ],
)  # fmt: skip
def test_octavias_rules(accepted, fields):
    assert evaluate(listing("octavia-one-listener"), packet(**fields)).accepted is accepted


def test_the_trace_tells_the_way():
    outcome = evaluate(listing("octavia-one-listener"), packet())
    assert [str(step) for step in outcome.trace] == [
        "inet amphora_table amphora_chain rule 8: goto amphora_vip_chain",
        "inet amphora_table amphora_vip_chain rule 1: accept",
    ]
    outcome = evaluate(listing("octavia-one-listener"), packet(dport=81))
    assert str(outcome.decided) == "inet amphora_table amphora_chain policy: drop"
    assert outcome.verdict == "drop"


def test_merged_rules_mean_the_same():
    rules = listing("octavia-several")
    for port, expected in ((80, True), (443, True), (81, False)):
        assert evaluate(rules, packet("203.0.113.1", dport=port)).accepted is expected
    for source, expected in (("10.9.9.9", True), ("192.0.2.255", True), ("11.0.0.0", False)):
        assert evaluate(rules, packet(source, dport=8080)).accepted is expected
    assert evaluate(rules, packet("10.1.1.1", protocol=UDP, dport=54)).accepted
    assert not evaluate(rules, packet("11.1.1.1", protocol=UDP, dport=54)).accepted


def test_the_peer_of_a_pair():
    rules = listing("octavia-pair")
    assert evaluate(rules, packet("198.51.100.31", protocol=VRRP)).accepted
    assert not evaluate(rules, packet("198.51.100.32", protocol=VRRP)).accepted
    six = packet("2001:db8::31", "2001:db8::30", protocol=VRRP)
    assert not evaluate(rules, six).accepted


def test_notrack_hides_the_state():
    """A normal VIP's rules beside an SR-IOV VIP's: replies are no longer known as such."""
    objects = json.loads((LISTINGS / "octavia-one-listener.json").read_text())["nftables"]
    objects += json.loads((LISTINGS / "octavia-normal-vip.json").read_text())["nftables"]
    rules = parse({"nftables": objects})
    reply = packet("10.0.0.1", dport=40000, state="established", tcp_flags=ACK)
    assert not evaluate(rules, reply).accepted
    assert evaluate(rules, packet(state="new")).accepted


CHAINS = {
    "base": {"type": "filter", "hook": "input", "prio": 0, "policy": "accept"},
    "a": {}, "b": {},
}  # fmt: skip


def rules(chains=CHAINS, **bodies):
    place = {"family": "inet", "table": "t"}
    objects = [{"table": {"family": "inet", "name": "t"}}]
    objects += [{"chain": {**place, "name": name, **more}} for name, more in chains.items()]
    for name, body in bodies.items():
        objects += [{"rule": {**place, "chain": name, "expr": expr}} for expr in body]
    return parse({"nftables": objects})


def when_port(number, *then):
    left = {"payload": {"protocol": "tcp", "field": "dport"}}
    return [{"match": {"op": "==", "left": left, "right": number}}, *then]


ACCEPT, DROP, RETURN = {"accept": None}, {"drop": None}, {"return": None}


def jump(name):
    return {"jump": {"target": name}}


def goto(name):
    return {"goto": {"target": name}}


def test_jumps_come_back_and_gotos_do_not():
    made = rules(base=[[jump("a")], [DROP]], a=[when_port(80, ACCEPT), when_port(81, RETURN)])
    assert evaluate(made, packet(dport=80)).accepted
    assert not evaluate(made, packet(dport=81)).accepted
    made = rules(base=[[goto("a")], [DROP]], a=[when_port(80, ACCEPT)])
    assert evaluate(made, packet(dport=81)).accepted  # the policy of base: DROP is not reached
    # A goto inside a jumped-to chain returns to where the jump was.
    made = rules(base=[[jump("a")], [DROP]], a=[[goto("b")], [ACCEPT]], b=[])
    assert not evaluate(made, packet()).accepted


def test_accept_ends_one_hook_of_one_chain_drop_ends_all():
    late = {"type": "filter", "hook": "input", "prio": 10, "policy": "drop"}
    made = rules({**CHAINS, "late": late}, base=[[ACCEPT]], late=[when_port(80, ACCEPT)])
    assert evaluate(made, packet(dport=80)).accepted
    assert not evaluate(made, packet(dport=81)).accepted


def test_a_reject_is_no_drop_and_no_accept():
    made = rules(base=[[{"reject": {"type": "tcp reset"}}]])
    assert evaluate(made, packet()).verdict == "reject"


def test_an_endless_jump_is_an_error():
    with pytest.raises(errors.UnknownExpression, match="deeper than"):
        evaluate(rules(base=[[jump("a")]], a=[[jump("b")]], b=[[jump("a")]]), packet())


def test_marks_are_remembered():
    mark = {"meta": {"key": "mark"}}
    left = {"payload": {"protocol": "tcp", "field": "dport"}}
    table = {"map": {"key": left, "data": {"set": [[80, 1], [81, 2]]}}}
    made = rules(
        base=[
            [{"mangle": {"key": mark, "value": table}}],
            [{"match": {"op": "==", "left": mark, "right": 1}}, ACCEPT],
            [DROP],
        ]
    )
    assert [evaluate(made, packet(dport=port)).accepted for port in (80, 81, 82)] == [1, 0, 0]


def test_chances_go_as_they_are_told():
    made = rules(base=[[{"limit": {"rate": 1, "per": "second"}}, ACCEPT], [DROP]])
    (what,) = [s.what for s in made.chains["inet", "t", "base"].rules[0].statements[:1]]
    assert evaluate(made, packet()).accepted
    assert not evaluate(made, packet(), chances={what: False}).accepted


def test_rewriting_on_the_way_in_is_not_guessed_about():
    nat = {"type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept"}
    made = rules({"base": nat}, base=[when_port(8080, {"redirect": {"port": 80}})])
    assert evaluate(made, packet(dport=80)).accepted
    with pytest.raises(errors.UnknownExpression, match="redirect"):
        evaluate(made, packet(dport=8080))


def test_transport_header_of_any_protocol():
    left = {"payload": {"protocol": "th", "field": "dport"}}
    made = rules(base=[[{"match": {"op": "==", "left": left, "right": 53}}, ACCEPT], [DROP]])
    assert evaluate(made, packet(protocol=UDP, dport=53)).accepted
    assert evaluate(made, packet(protocol=TCP, dport=53, tcp_flags=SYN)).accepted
    assert not evaluate(made, packet(protocol=ICMP, dport=53)).accepted


def test_negation_needs_the_field_to_be_there():
    left = {"payload": {"protocol": "ip", "field": "saddr"}}
    right = {"prefix": {"addr": "10.0.0.0", "len": 8}}
    made = rules(base=[[{"match": {"op": "!=", "left": left, "right": right}}, DROP]])
    assert not evaluate(made, packet("192.0.2.1")).accepted
    assert evaluate(made, packet("10.0.0.1")).accepted
    assert evaluate(made, packet("2001:db8::1", "2001:db8::2")).accepted


# --- sets that change, and chains that not every packet meets ------------------------------------

NEVER, MAYBE, ALWAYS = "never", "maybe", "always"


def how_often(ruleset, one):
    """Whether a packet passes, for every way in which limits and sets may turn out."""
    whats = {
        statement.what
        for chain in ruleset.chains.values()
        for rule in chain.rules
        for statement in rule.statements
        if isinstance(statement, Chance)
    }
    found = {
        evaluate(ruleset, one, chances=dict.fromkeys(whats, happens)).accepted
        for happens in (True, False)
    }
    return MAYBE if len(found) == 2 else ALWAYS if True in found else NEVER


@pytest.mark.parametrize(
    ("port", "source", "expected"),
    [
        (21, "10.9.9.9", MAYBE),  # listed now, deleted by the rule for port 31
        (21, "10.1.1.1", MAYBE),  # not listed, and the first rule adds whoever comes
        (22, "10.9.9.9", MAYBE),
        (22, "10.1.1.1", MAYBE),
        (23, "10.0.0.1", MAYBE),  # expires
        (23, "10.1.1.1", NEVER),
        (24, "10.0.0.2", MAYBE),  # a limit of its own
        (24, "10.0.0.3", MAYBE),  # the set's
        (24, "10.1.1.1", NEVER),
        (25, "10.0.0.2", MAYBE),
        (80, "10.0.0.4", MAYBE),  # a quota
        (81, "10.0.0.4", NEVER),
        (27, "10.0.0.6", ALWAYS),  # a counter decides nothing
        (29, "10.1.1.1", MAYBE),  # names of interfaces, filled by the rule for port 28
        (30, "10.1.1.1", MAYBE),  # a limit in what adds
        (31, "10.1.1.1", ALWAYS),
        (32, "10.1.1.1", ALWAYS),  # tracing and queueing change no packet's way
        (33, "10.1.1.1", ALWAYS),
    ],
)
def test_what_changes_by_itself_is_neither_accepted_nor_dropped(port, source, expected):
    assert how_often(listing("changing-sets"), packet(source, dport=port)) == expected


def test_a_packet_has_to_have_the_field_that_is_looked_up():
    six = packet("2001:db8::1", "2001:db8::2", dport=21)
    assert how_often(listing("changing-sets"), six) == NEVER


@pytest.mark.parametrize(
    ("state", "accepted"),
    [("new", False), ("established", True), ("invalid", True), ("related", False)],
)
def test_only_the_first_packet_of_a_flow_meets_a_nat_chain(state, accepted):
    chain = {"type": "nat", "hook": "prerouting", "prio": -100, "policy": "drop"}
    made = rules({"base": chain}, base=[when_port(80, ACCEPT)])
    assert evaluate(made, packet(dport=80, state=state)).accepted
    assert evaluate(made, packet(dport=81, state=state)).accepted is accepted
    # The second packet of a flow that was let in is new until an answer comes.
    what = first_only(made.chains["inet", "t", "base"]).what
    assert evaluate(made, packet(dport=81, state=state), chances={what: False}).accepted


def test_a_nat_chain_never_sees_errors_about_a_flow_or_what_is_untracked():
    chain = {"type": "nat", "hook": "prerouting", "prio": -100, "policy": "drop"}
    made = rules({"base": chain}, base=[])
    assert evaluate(made, packet(protocol=ICMP, icmp_type=3, state="related")).accepted
    raw = {"type": "filter", "hook": "prerouting", "prio": -300, "policy": "accept"}
    made = rules({"base": chain, "raw": raw}, raw=[[{"notrack": None}]])
    assert evaluate(made, packet()).accepted


def test_what_leaves_meets_other_hooks_and_has_an_output_interface():
    out = {"type": "filter", "hook": "output", "prio": 0, "policy": "accept"}
    leaves = [{"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "eth1"}}, DROP]
    comes = [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth1"}}, DROP]
    made = rules({"base": out}, base=[leaves])
    assert not evaluate(made, packet(leaving=True)).accepted
    assert evaluate(made, packet(leaving=True, interface="eth2")).accepted
    assert evaluate(made, packet()).accepted
    assert evaluate(rules({"base": out}, base=[comes]), packet(leaving=True)).accepted


# --- what the kernel does and is easily misread; tests/functional/policy asks it ------------------


def meta(key, right, op="=="):
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": right}}


def ct(key, right, op="=="):
    return {"match": {"op": op, "left": {"ct": {"key": key}}, "right": right}}


def ip(field, right, op="==", protocol="ip"):
    left = {"payload": {"protocol": protocol, "field": field}}
    return {"match": {"op": op, "left": left, "right": right}}


FRAGMENT = {"match": {"op": "!=", "right": 0, "left": {
    "&": [{"payload": {"protocol": "ip", "field": "frag-off"}}, 0x1FFF]}}}  # fmt: skip


def hooked(hook, *body, prio=0, **more):
    """A chain that drops, with rules."""
    chain = {"type": "filter", "hook": hook, "prio": prio, "policy": "drop", **more}
    return rules({"base": chain, "a": {}}, base=list(body))


NO_LO = {"vmap": {"key": {"meta": {"key": "oifname"}},
                  "data": {"set": [["lo", DROP], ["*", ACCEPT]]}}}  # fmt: skip


@pytest.mark.parametrize("leaving", [False, True])
@pytest.mark.parametrize("name", ["oifname", "oif", "iifname", "iif"])
def test_an_interface_that_is_not_there_has_an_empty_name(leaving, name):
    """nft_meta_store_ifname, nft_meta_store_ifindex: "" and 0, which are not the name of any."""
    hook, one = ("output", packet(leaving=True)) if leaving else ("input", packet())
    there = leaving == name.startswith("o")
    assert evaluate(hooked(hook, [meta(name, "lo", "!="), ACCEPT]), one).accepted
    assert evaluate(hooked(hook, [meta(name, "eth1", "!="), ACCEPT]), one).accepted is not there
    assert evaluate(hooked(hook, [meta(name, "eth1"), ACCEPT]), one).accepted is there
    assert evaluate(hooked(hook, [meta(name, {"set": ["lo", "eth*"]}), ACCEPT]), one).accepted is (
        there
    )
    some = meta(name, {"set": ["lo", "eth*"]}, "!=")
    assert evaluate(hooked(hook, [some, ACCEPT]), one).accepted is not there


def test_a_map_has_a_last_resort_for_the_interface_that_is_not_there():
    assert evaluate(hooked("input", [NO_LO]), packet()).accepted


def test_the_next_header_is_the_first_one():
    six = {"source": "2001:db8::1", "destination": "2001:db8::2"}
    made = hooked("input", [ip("nexthdr", "tcp", protocol="ip6"), DROP], when_port(80, ACCEPT))
    assert not evaluate(made, packet(**six)).accepted
    for number in (0, 43, 60):
        assert evaluate(made, packet(**six, extra={"next_header": number})).accepted
    negated = hooked("input", [ip("nexthdr", "tcp", "!=", protocol="ip6"), ACCEPT])
    assert not evaluate(negated, packet(**six)).accepted
    assert not evaluate(negated, packet()).accepted, "IPv4 has no such field"
    assert evaluate(negated, packet(**six, extra={"next_header": 60})).accepted


SIX = {"source": "2001:db8::1", "destination": "2001:db8::2", "extra": {"fragment_header": 1}}
FOUR = {"extra": {"frag_off": 0x4001}}
ASKS_FOR_CONNTRACK = [ct("state", "related", "in"), DROP]


@pytest.mark.parametrize(
    ("seen", "fields", "hook", "prio", "asks"),
    [
        # ip_local_deliver: IPv4 is put together before the hook input at the latest
        (False, FOUR, "input", -2000, []),
        (False, FOUR, "input", 0, [ASKS_FOR_CONNTRACK]),
        (True, FOUR, "prerouting", 0, []),
        (False, FOUR, "prerouting", 0, [ASKS_FOR_CONNTRACK]),
        (False, FOUR, "prerouting", -399, [ASKS_FOR_CONNTRACK]),
        (True, FOUR, "prerouting", -401, [ASKS_FOR_CONNTRACK]),
        (True, FOUR, "ingress", 0, [ASKS_FOR_CONNTRACK]),
        # ip6_protocol_deliver_rcu: IPv6 only behind it
        (True, SIX, "input", 0, []),
        (False, SIX, "input", 0, [ASKS_FOR_CONNTRACK]),
        (True, SIX, "prerouting", -401, [ASKS_FOR_CONNTRACK]),
    ],
)
def test_fragments_are_put_together_on_the_way(seen, fields, hook, prio, asks):
    header = ip("nexthdr", "ipv6-frag", protocol="ip6")
    chain = {"type": "filter", "hook": hook, "prio": prio, "policy": "accept"}
    made = rules({"base": chain, "a": {}}, base=[[FRAGMENT, DROP], [header, DROP]], a=asks)
    assert evaluate(made, packet(**fields)).accepted is not seen
    whole = {**fields, "extra": {"frag_off": 0x4000}}
    assert evaluate(made, packet(**whole)).accepted


def test_do_not_fragment_is_no_fragment():
    bits = {"&": [{"payload": {"protocol": "ip", "field": "frag-off"}}, 0x4000]}
    made = hooked("input", [{"match": {"op": "!=", "left": bits, "right": 0}}, ACCEPT])
    assert evaluate(made, packet(extra={"frag_off": 0x4001})).accepted
    assert not evaluate(made, packet(extra={"frag_off": 1})).accepted


@pytest.mark.parametrize(
    "one",
    [
        ct("mark", 0), ct("mark", 1, "!="), ct("direction", "original"),
        ct("status", 2, "<"), ct("direction", "reply", "!="),
    ],
)  # fmt: skip
def test_what_has_no_connection_has_none_of_its_fields(one):
    """nft_ct_get_eval ends the rule."""
    made = hooked("input", [one, ACCEPT])
    assert evaluate(made, packet()).accepted
    for state in ("invalid", "untracked"):
        assert not evaluate(made, packet(state=state)).accepted
    early = {"type": "filter", "hook": "prerouting", "prio": -300, "policy": "drop"}
    assert not evaluate(rules({"base": early}, base=[[one, ACCEPT]]), packet()).accepted
    raw = {**early, "policy": "accept"}
    chains = {"raw": raw, "base": {**early, "hook": "input"}}
    exempt = rules(chains, raw=[[{"notrack": None}]], base=[[one, ACCEPT]])
    assert not evaluate(exempt, packet()).accepted


@pytest.mark.parametrize(
    ("exempt", "hook", "prio", "fields"),
    [
        (True, "prerouting", -300, {}),
        (False, "prerouting", -199, {}),
        (False, "input", -300, {}),
        (False, "prerouting", -199, {"state": "established"}),
        # what conntrack made nothing of has no connection either
        (True, "prerouting", -199, {"state": "invalid"}),
        (True, "input", -1, {"state": "invalid"}),
        # nf_conntrack_in: by the loopback it comes with the connection it left with
        (False, "prerouting", -300, {"interface": "lo"}),
        (True, "prerouting", -300, {"interface": "lo", "state": "invalid"}),
    ],
)
def test_notrack_is_for_what_has_no_connection(exempt, hook, prio, fields):
    chains = {
        "raw": {"type": "filter", "hook": hook, "prio": prio, "policy": "accept"},
        "base": {"type": "filter", "hook": "input", "prio": 0, "policy": "drop"},
    }
    untracked = [ct("state", "untracked"), ACCEPT]
    made = rules(chains, raw=[[{"notrack": None}]], base=[untracked])
    assert evaluate(made, packet(**fields)).accepted is exempt


def test_notrack_is_seen_by_the_rest_of_its_rule():
    made = hooked("prerouting", [{"notrack": None}, ct("state", "untracked"), ACCEPT], prio=-300)
    assert evaluate(made, packet()).accepted


def test_conntrack_of_the_loopback_was_there_before_any_rule():
    made = hooked("prerouting", [ct("state", "new"), ACCEPT], prio=-300)
    assert evaluate(made, packet(interface="lo")).accepted
    assert not evaluate(made, packet()).accepted


def test_of_two_chains_of_one_priority_the_later_one_comes_first():
    base = {"type": "filter", "hook": "input", "prio": 0, "policy": "accept"}
    mark = {"meta": {"key": "mark"}}
    chains = {"one": base, "two": base, "last": {**base, "prio": 10, "policy": "drop"}}
    made = rules(
        chains,
        one=[[{"mangle": {"key": mark, "value": 1}}]],
        two=[[{"mangle": {"key": mark, "value": 2}}]],
        last=[[{"match": {"op": "==", "left": mark, "right": 1}}, ACCEPT]],
    )
    assert evaluate(made, packet()).accepted


def test_a_packet_says_what_is_unusual_about_it():
    one = packet(extra={"tcp_offset": 5, "next_header": TCP, "header_words": 4, "ct_status": 0})
    assert "header_words 4" in str(one) and "tcp_offset" not in str(one)
    assert "next_header" not in str(one) and "ct_status" not in str(one)
    assert "ct_status 0" in str(packet(state="established", extra={"ct_status": 0}))
