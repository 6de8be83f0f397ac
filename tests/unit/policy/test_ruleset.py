# SPDX-License-Identifier: Apache-2.0
"""The parser, on listings that real nft printed (see listings/README.rst)."""

import json
import pathlib

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.policy import render
from sriov_lb_tests.policy.packet import STATES
from sriov_lb_tests.policy.ruleset import Chance, Masked, Match, Verdict, VerdictMap, parse

LISTINGS = pathlib.Path(__file__).parent / "listings"
NAMES = sorted(path.stem for path in LISTINGS.glob("*.json"))


def listing(name):
    return parse((LISTINGS / f"{name}.json").read_text())


def one(*expressions, sets=(), chains=("x",), family="inet"):
    """A ruleset of one rule."""
    place = {"family": family, "table": "t"}
    objects = [{"table": {"family": family, "name": "t"}}]
    objects += [{"chain": {**place, "name": name}} for name in chains]
    objects += list(sets)
    objects.append({"rule": {**place, "chain": "x", "handle": 4, "expr": list(expressions)}})
    return parse({"nftables": objects})


def rule(*expressions, **options):
    return one(*expressions, **options).chains["inet", "t", "x"].rules[0]


def payload(protocol, field):
    return {"payload": {"protocol": protocol, "field": field}}


def match(left, right, op="=="):
    return {"match": {"op": op, "left": left, "right": right}}


@pytest.mark.parametrize("name", NAMES)
def test_real_listings_are_understood_and_can_be_shown(name):
    ruleset = listing(name)
    text = render.table(ruleset)
    count = sum(len(chain.rules) for chain in ruleset.chains.values())
    assert count and len(text.splitlines()) >= count
    assert all(len(line) <= 120 for line in text.splitlines())


def test_the_chains_of_octavia():
    ruleset = listing("octavia-one-listener")
    base = ruleset.chains["inet", "amphora_table", "amphora_chain"]
    assert (base.hook, base.priority, base.policy, base.kind) == ("input", 0, "drop", "filter")
    assert ruleset.chains["inet", "amphora_table", "amphora_vip_chain"].hook is None
    state = base.rules[0].statements[0]
    assert isinstance(state, VerdictMap)
    found = {cells[0][0][0]: verdict.kind for cells, verdict in state.entries}
    assert found == {
        STATES["established"]: "accept",
        STATES["related"]: "accept",
        STATES["invalid"]: "drop",
    }
    assert base.rules[-1].statements[-1] == Verdict("goto", "amphora_vip_chain")


def test_the_screen_of_octavia():
    text = render.table(listing("octavia-one-listener"))
    assert "[input, priority 0, policy drop]" in text
    assert "ip saddr 198.51.100.0/25 tcp dport 80 accept" in text
    assert "iifname eth1 goto amphora_vip_chain" in text
    assert render.table(parse({"nftables": []})).startswith("(no rules")


def test_two_ways_to_write_a_set_are_one():
    whole = rule(match(payload("ip", "saddr"), {"prefix": {"addr": "10.0.0.0", "len": 8}}))
    halves = rule(
        match(
            payload("ip", "saddr"),
            {
                "set": [
                    {"prefix": {"addr": "10.128.0.0", "len": 9}},
                    {"range": ["10.0.0.0", "10.127.255.255"]},
                ]
            },
        )
    )
    assert whole.statements == halves.statements


def test_concatenations_merge_their_addresses():
    left = {"concat": [payload("ip", "saddr"), payload("tcp", "dport")]}
    elements = [{"concat": [f"10.0.0.{n}", 80]} for n in range(256)]
    elements += [{"concat": ["10.0.1.0", 443]}]
    (found,) = rule(match(left, {"set": elements})).statements
    assert len(found.rows) == 2
    assert ((0x0A000000, 0x0A0000FF),) in [row[0] for row in found.rows]


def test_flags_in_all_their_forms():
    flags = payload("tcp", "flags")
    (some,) = rule(match(flags, "syn", "in")).statements
    assert some == Match((Masked(some.nodes[0].inner, "&", 2),), (((((0, 0),)),),), True)
    for operand in (["fin", "syn"], {"|": ["fin", "syn"]}):
        (masked,) = rule(match({"&": [flags, operand]}, "syn")).statements
        assert masked.nodes[0].operand == 3 and masked.rows == ((((2, 2),),),)


def test_state_lists():
    state = {"ct": {"key": "state"}}
    (listed,) = rule(match(state, ["established", "related"], "in")).statements
    (anonymous,) = rule(match(state, {"set": ["related", "established"]})).statements
    assert listed == anonymous
    (negated,) = rule(match(state, "new", "!=")).statements
    assert negated.negated and negated.rows == ((((8, 8),),),)


def test_named_sets_and_maps():
    sets = [
        {"set": {"family": "inet", "table": "t", "name": "s", "type": "inet_service",
                 "elem": [{"elem": {"val": 80, "counter": {"packets": 1, "bytes": 1}}}, 443]}},
        {"map": {"family": "inet", "table": "t", "name": "m", "type": "inet_service",
                 "map": "verdict", "elem": [[80, {"accept": None}], ["*", {"drop": None}]]}},
    ]  # fmt: skip
    dport = payload("tcp", "dport")
    (found,) = rule(match(dport, "@s"), sets=sets).statements
    assert found.rows == ((((80, 80),),), (((443, 443),),)) or found.rows == (
        (((80, 80), (443, 443)),),
    )
    (mapped,) = rule({"vmap": {"key": dport, "data": "@m"}}, sets=sets).statements
    assert mapped.entries[-1] == (None, Verdict("drop"))


def test_what_depends_on_more_than_the_packet_is_a_chance():
    for expression in (
        {"set": {"op": "update", "elem": payload("ip", "saddr"), "set": "@s"}},  # it may be full
        {"limit": {"rate": 1, "per": "second"}},
        {"quota": {"val": 1, "val_unit": "bytes"}},
        match({"numgen": {"mode": "random", "mod": 100, "offset": 0}}, 2, "<"),
        {"set": {"op": "update", "elem": payload("ip", "saddr"), "set": "@s",
                 "stmt": [{"limit": {"rate": 1, "per": "second"}}]}},
    ):  # fmt: skip
        assert isinstance(rule(expression).statements[0], Chance)


def changing(kind, name, elements, **more):
    return [{kind: {"family": "inet", "table": "t", "name": name, "type": "inet_service",
                    "elem": elements, **more}}]  # fmt: skip


def test_a_map_that_changes_by_itself_is_not_guessed_about():
    """As nft 1.0.6 lists it: a verdict for an hour, and a verdict ten times a second."""
    dport, accept = payload("tcp", "dport"), {"accept": None}
    leased = {"elem": {"val": 80, "timeout": 3600, "expires": 3599}}
    limited = {"elem": {"val": 80, "limit": {"rate": 10, "burst": 5, "per": "second"}}}
    for elements, more in (
        ([[leased, accept]], {"flags": ["timeout"]}),
        ([[80, accept]], {"flags": "timeout"}),
        ([[limited, accept]], {}),
    ):
        sets = changing("map", "m", elements, map="verdict", **more)
        with pytest.raises(errors.UnknownExpression, match="changes by itself.*rule 1.*@m"):
            rule({"vmap": {"key": dport, "data": "@m"}}, sets=sets)


def test_a_map_that_rules_fill_is_named():
    """nft 1.0.6 prints such a statement as text."""
    with pytest.raises(errors.UnknownExpression, match="add @mm"):
        rule("add @mm { ip saddr : 0x00000001 }")


def test_an_element_with_more_than_a_value_is_named():
    sets = changing("set", "s", [{"elem": {"val": 80, "mood": "good"}}])
    with pytest.raises(errors.UnknownExpression, match="mood"):
        rule(match(payload("tcp", "dport"), "@s"), sets=sets)


def test_interfaces_that_rules_name():
    assert listing("octavia-one-listener").interfaces() == {"lo", "eth1"}
    assert listing("changing-sets").interfaces() == set()
    table = {"vmap": {"key": {"meta": {"key": "iifname"}},
                      "data": {"set": [["eth3", {"accept": None}]]}}}  # fmt: skip
    assert one(table).interfaces() == {"eth3"}


def test_the_next_header_of_ipv6_is_not_the_upper_layer():
    (first,) = rule(match(payload("ip6", "nexthdr"), {"set": ["ipv6-opts", "tcp"]})).statements
    (node,) = first.nodes
    assert (node.name, node.version) == ("next_header", 6)
    assert first.rows == ((((6, 6), (60, 60)),),)
    (upper,) = rule(match(payload("ip", "protocol"), "tcp")).statements
    assert upper.nodes[0].name == "protocol", "IPv4 has no such headers"


@pytest.mark.parametrize(
    ("expected", "family", "expression"),
    [
        ({4, 6}, "inet", match({"ct": {"key": "state"}}, "new", "in")),
        ({4}, "ip", {"vmap": {"key": {"ct": {"key": "state"}},
                              "data": {"set": [["new", {"accept": None}]]}}}),
        ({6}, "ip6", {"mangle": {"key": {"ct": {"key": "mark"}}, "value": 1}}),
        ({4}, "ip", {"masquerade": None}),
        ({4, 6}, "inet", {"ct count": {"val": 5}}),
        # What is exempt is so without conntrack, too.
        (set(), "inet", {"notrack": None}),
        (set(), "inet", match({"meta": {"key": "mark"}}, 1)),
    ],
)  # fmt: skip
def test_conntrack_looks_where_a_rule_asks_for_it(expected, family, expression):
    assert one(expression, family=family).tracked == expected


UNKNOWN = {
    "field": match({"fib": {"result": "type", "flags": ["daddr"]}}, "local"),
    "extension header": match({"exthdr": {"name": "hbh"}}, True),
    "hash": match({"jhash": {"mod": 2, "expr": payload("ip", "saddr")}}, 0),
    "socket": match({"socket": {"key": "transparent"}}, 1),
    "option": match({"tcp option": {"name": "maxseg", "field": "size"}}, 1),
    "owner": match({"meta": {"key": "skuid"}}, 0),
    "time": match({"meta": {"key": "hour"}}, "10:00"),
    "conntrack key": match({"ct": {"key": "helper"}}, "ftp"),
    "reply direction": match({"ct": {"key": "saddr", "dir": "reply"}}, "10.0.0.1"),
    "raw payload": match({"payload": {"base": "th", "offset": 16, "len": 16}}, 1),
    "queue": {"queue": {"num": 0}},
    "iptables": {"xt": {"type": "match", "name": "conntrack"}},
    "new statement": {"teleport": None},
    "operator": match(payload("tcp", "dport"), 1, "~"),
    "type name": match(payload("icmp", "type"), "nd-neighbor-solicit"),
    "protocol name": match({"meta": {"key": "l4proto"}}, "nonesuch"),
    "address of the other family": match(payload("ip", "saddr"), "2001:db8::1"),
    "range backwards": match(payload("tcp", "dport"), {"range": [5, 1]}),
    "missing set": match(payload("tcp", "dport"), "@nope"),
    "missing chain": {"jump": {"target": "nope"}},
    "map of numbers": match({"map": {"key": payload("tcp", "dport"), "data": "@m"}}, 1),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_the_unknown_is_an_error_that_names_it(name):
    with pytest.raises(errors.UnknownExpression) as caught:
        one(UNKNOWN[name])
    assert "inet t x rule 1" in caught.value.message
    words = [w for w in json.dumps(UNKNOWN[name]).replace('"', " ").split() if len(w) > 3]
    assert any(word in caught.value.message for word in words)
    assert caught.value.expression is not None


@pytest.mark.parametrize(
    "text", ["", "not json", "[]", '{"x": 1}', '{"nftables": [{"rule": {}}]}', '{"nftables": [1]}']
)
def test_what_is_no_listing_is_an_error(text):
    with pytest.raises(errors.UnknownExpression):
        parse(text)


def test_dormant_tables_are_not_guessed_about():
    for flags in ("dormant", ["dormant"]):
        with pytest.raises(errors.UnknownExpression, match="dormant"):
            parse({"nftables": [{"table": {"family": "inet", "name": "t", "flags": flags}}]})


def test_hooks_run_by_priority_across_tables_and_families():
    objects = []
    for family, table, name, hook, priority in (
        ("inet", "a", "late", "input", 10),
        ("ip", "b", "early", "input", -10),
        ("ip6", "c", "six", "input", 0),
        ("inet", "a", "raw", "prerouting", -300),
        ("inet", "a", "out", "output", -500),
    ):
        objects.append({"table": {"family": family, "name": table}})
        objects.append(
            {"chain": {"family": family, "table": table, "name": name, "type": "filter",
                       "hook": hook, "prio": priority, "policy": "accept"}}
        )  # fmt: skip
    ruleset = parse({"nftables": objects})
    hooks = ("ingress", "prerouting", "input")
    assert [c.name for c in ruleset.path(4, hooks)] == ["raw", "early", "late"]
    assert [c.name for c in ruleset.path(6, hooks)] == ["raw", "six", "late"]


# --- chains of one priority -----------------------------------------------------------------------

MARK, STATE = {"meta": {"key": "mark"}}, {"ct": {"key": "state"}}
ACCEPT, DROP, NOTRACK = {"accept": None}, {"drop": None}, {"notrack": None}
SET_MARK = {"mangle": {"key": MARK, "value": 1}}
READ_MARK = [match(MARK, 1), ACCEPT]
NEW = [match(STATE, "new", "in"), ACCEPT]


def beside(*bodies, tables=("a", "b"), family="inet", hook="input", priority=0, **more):
    """Base chains of one priority in tables of their own, each with rules."""
    chain = {"type": "filter", "hook": hook, "prio": priority, "policy": "accept", **more}
    objects = [{"table": {"family": family, "name": name}} for name in dict.fromkeys(tables)]
    for number, name in enumerate(tables[: len(bodies)]):
        place = {"family": family, "table": name}
        objects += [{"chain": {**place, "name": f"c{number}", **chain}},
                    {"chain": {**place, "name": f"side{number}"}}]  # fmt: skip
        for body in bodies[number]:
            called = f"side{number}" if body and body[0] == "aside" else f"c{number}"
            expr = body[1:] if called.startswith("side") else body
            objects.append({"rule": {**place, "chain": called, "expr": list(expr)}})
    return parse({"nftables": objects})


def test_of_one_table_the_chain_that_was_made_last_runs_first():
    ruleset = beside([], [], [], tables=("a", "a", "a"))
    assert [c.name for c in ruleset.path(4, ("input",))] == ["c2", "c1", "c0"]
    marks = beside([[SET_MARK]], [READ_MARK], tables=("a", "a"))
    assert [c.name for c in marks.path(6, ("input",))] == ["c1", "c0"]


JUMP = {"jump": {"target": "side1"}}


@pytest.mark.parametrize(
    ("why", "first", "second"),
    [
        ("reads it", [[SET_MARK]], [READ_MARK]),
        ("reads it", [READ_MARK], [[SET_MARK]]),
        ("reads it", [[SET_MARK]], [[JUMP], ["aside", *READ_MARK]]),
        ("reads it", [[SET_MARK]], [[{"vmap": {"key": MARK, "data": {"set": [[1, DROP]]}}}]]),
        ("sets it", [[SET_MARK], ["aside", *READ_MARK]], [[SET_MARK]]),
        ("about connections", [[NOTRACK]], [NEW]),
        ("about connections", [NEW], [[NOTRACK]]),
        ("about connections", [[NOTRACK]], [[match({"ct": {"key": "mark"}}, 1), ACCEPT]]),
        ("rewrites packets", [[{"redirect": {"port": 80}}]], [[DROP]]),
    ],
)
def test_an_order_that_nobody_knows_and_that_matters_is_an_error(why, first, second):
    ruleset = beside(first, second)
    for version in (4, 6):
        with pytest.raises(errors.UnknownExpression, match=f"b c1 and .*a c0.*input.*{why}"):
            ruleset.path(version, ("input",))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([], []),
        ([NEW], [[DROP]]),  # who drops is one and the same
        ([READ_MARK], [READ_MARK]),
        ([[SET_MARK]], [[SET_MARK]]),  # and nobody reads it
        ([[SET_MARK]], [[DROP], [JUMP]]),
        ([[NOTRACK]], [[NOTRACK]]),
        ([[{"redirect": {"port": 80}}]], [NEW]),  # it is met in any case
        ([[SET_MARK]], [["aside", *READ_MARK]]),  # nobody jumps there
    ],
)
def test_an_order_that_does_not_matter_is_none(first, second):
    assert len(beside(first, second).path(4, ("input",))) == 2


def test_chains_that_no_packet_meets_both_have_no_order():
    four = beside([[SET_MARK]], [], family="ip")
    six = beside([], [READ_MARK], family="ip6", tables=("c", "d"))
    both = parse({"nftables": [*four.source, *six.source]})
    assert len(both.path(4, ("input",))) == 2
    near = beside([[SET_MARK]], [], family="netdev", hook="ingress", dev="eth1")
    far = beside([], [READ_MARK], family="netdev", hook="ingress", dev="eth2", tables=("c", "d"))
    assert parse({"nftables": [*near.source, *far.source]}).path(4, ("ingress",))
    far = beside([], [READ_MARK], family="netdev", hook="ingress", dev="eth1", tables=("c", "d"))
    with pytest.raises(errors.UnknownExpression, match="reads it"):
        parse({"nftables": [*near.source, *far.source]}).path(4, ("ingress",))


def test_a_chain_at_the_priority_of_conntrack_is_not_guessed_about():
    for body in ([NEW], [[NOTRACK]]):
        with pytest.raises(errors.UnknownExpression, match="as conntrack does"):
            beside(body, hook="prerouting", priority=-200).path(4, ("prerouting",))
        assert beside(body, hook="prerouting", priority=-201).path(4, ("prerouting",))
        assert beside(body, hook="input", priority=-200).path(4, ("input",))
    assert beside([READ_MARK], hook="prerouting", priority=-200).path(4, ("prerouting",))
