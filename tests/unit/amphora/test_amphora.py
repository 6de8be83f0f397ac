# SPDX-License-Identifier: Apache-2.0
"""Inside an amphora, on a fake host."""

import json

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.amphora import Amphora, Counts, Stage
from sriov_lb_tests.amphora.counting import PREFIX, keys, table_text
from sriov_lb_tests.packets.catalogue import Expected
from sriov_lb_tests.packets.probe import Identities, Link, tcp_syn
from sriov_lb_tests.wire.fake import FakeHost
from sriov_lb_tests.wire.host import Result

INSIDE = ("ip", "netns", "exec", "amphora-haproxy")
LIST = (*INSIDE, "nft", "-j", "list", "ruleset")


def listing(*tables):
    objects = [{"metainfo": {"version": "1.0.6"}}]
    for name in tables:
        objects.append({"table": {"family": "inet", "name": name}})
        objects.append({"chain": {"family": "inet", "table": name, "name": "c"}})
    return json.dumps({"nftables": objects})


def test_the_ruleset_comes_from_haproxys_namespace_without_our_own_table():
    host = FakeHost(commands={LIST: listing("amphora_table", PREFIX + "abc")})
    found = Amphora(host).ruleset()
    assert [chain.table for chain in found.chains.values()] == ["amphora_table"]
    assert host.ran == [LIST]


def test_an_amphora_that_cannot_be_asked_says_why():
    with pytest.raises(errors.CommandFailed, match="nft -j list ruleset on amp ended with .* 127"):
        Amphora(FakeHost("amp")).ruleset()


def test_where_members_are_asked_from():
    command = (*INSIDE, "ip", "-j", "route", "get", "192.0.2.28")
    host = FakeHost(commands={command: '[{"dst": "192.0.2.28", "prefsrc": "192.0.2.43"}]'})
    assert Amphora(host).source_to("192.0.2.28") == "192.0.2.43"
    assert Amphora(host).source_to("192.0.2.99") is None, "no route"


def test_interfaces():
    entry = {
        "ifindex": 2, "ifname": "eth1", "flags": ["BROADCAST", "UP"], "mtu": 1450,
        "address": "fa:16:3e:00:00:01",
        "addr_info": [{"local": "198.51.100.30", "prefixlen": 24},
                      {"local": "2001:db8::30", "prefixlen": 64}],
    }  # fmt: skip
    command = (*INSIDE, "ip", "-j", "address", "show")
    found = Amphora(FakeHost(commands={command: json.dumps([entry, {}])})).interfaces()
    assert found["eth1"].owns("2001:db8::30") and found["eth1"].up
    assert found["eth1"].address(4) == "198.51.100.30"


def test_services():
    text = (
        "haproxy-x.service loaded active running haproxy\n"
        "octavia-keepalived.service loaded failed failed Keepalive Daemon (LVS and VRRP)\n"
    )
    command = ("systemctl", "list-units", "--all", "--plain", "--no-legend", "--no-pager",
               "haproxy-*", "octavia-keepalived*", "amphora-*")  # fmt: skip
    found = Amphora(FakeHost(commands={command: text})).services()
    assert found["haproxy-x.service"].sub == "running"
    assert found["octavia-keepalived.service"].active == "failed"


def test_everything_is_collected_and_failures_are_written_down(tmp_path):
    class Broken(FakeHost):
        def run(self, argv, **options):
            if "journalctl" in argv:
                raise errors.CommandFailed("journalctl did not end within 20 s.")
            return super().run(argv, **options)

    host = Broken(commands={LIST: listing("amphora_table")})
    found = Amphora(host).collect(tmp_path / "amp")
    assert json.loads(found["ruleset.json"].read_text())["nftables"]
    assert "[status 127]" in found["routes.txt"].read_text()
    assert "did not end within 20 s" in found["journal.txt"].read_text()
    assert {path.parent for path in found.values()} == {tmp_path / "amp"}


def test_a_dead_amphora_leaves_one_file(tmp_path):
    class Dead(FakeHost):
        def run(self, argv, **options):
            raise errors.GuestUnreachable("No ssh to amp within 60 s: timed out.")

    found = Amphora(Dead()).collect(tmp_path)
    assert len(found) == 1 and "No ssh to amp" in next(iter(found.values())).read_text()


def test_the_key_of_the_counters_is_what_probes_carry():
    identity = Identities("r", seed=3).next()
    link = Link("02:00:00:00:00:01", "02:00:00:00:00:02")
    four = tcp_syn("198.51.100.20", 80, source="198.51.100.9").frames(link, identity)[0]
    assert int.from_bytes(four[18:20], "big") == keys(identity)[4]
    six = tcp_syn("2001:db8::20", 80, source="2001:db8::9").frames(link, identity)[0]
    assert int.from_bytes(six[14:18], "big") & 0xFFFFF == keys(identity)[6]


def element(value, packets):
    return {"elem": {"val": value, "counter": {"packets": packets, "bytes": 0}}}


def test_counts():
    identity = Identities("r", seed=3).next()
    key = keys(identity)[4]
    counts = Counts("t")
    counts.read(
        {
            "nftables": [
                {"set": {"name": "arrived4", "elem": [element(key, 3), element(key ^ 1, 9)]}},
                {"set": {"name": "passed4", "elem": [element(key, 1)]}},
                {"set": {"name": "passed6"}},
                {"chain": {"name": "arrived"}},
            ]
        }
    )
    assert counts.of(identity, 4) == {
        Stage.ARRIVED: 3, Stage.REACHED_FILTER: 0, Stage.PASSED_FILTER: 1,
    }  # fmt: skip
    assert counts.of(identity, 6)[Stage.PASSED_FILTER] == 0
    assert counts.total(Stage.ARRIVED) == 12


@pytest.mark.parametrize(
    ("seen", "fate"),
    [
        ((1, 1, 1), Expected.ACCEPT),
        ((1, 1, 0), Expected.DROP),
        ((1, 0, 0), Expected.BEFORE_FILTER),
        ((0, 0, 0), Expected.NOT_ARRIVED),
    ],
)
def test_how_far_a_packet_came(seen, fate):
    identity = Identities("r", seed=3).next()
    counts = Counts("t")
    for stage, number in zip(Stage, seen, strict=True):
        counts.by_stage[stage, 6] = {keys(identity)[6]: number}
    assert counts.reached(identity, 6) is fate
    # Of two frames one is missing: only that it passed is still certain.
    passed = fate is Expected.ACCEPT
    assert counts.reached(identity, 6, frames=2) is (fate if passed else Expected.NOT_ARRIVED)


def test_the_counting_table_never_decides():
    text = table_text("t", "02:00:00:00:00:01")
    assert text.count("policy accept") == 3
    for word in ("drop", "reject", "return", "goto", "jump"):
        assert word not in text


class Recorder(FakeHost):
    """Answers nft; remembers what it was told."""

    def run(self, argv, *, input=None, **options):
        self.ran.append(tuple(argv))
        out = ""
        if argv[-2:] == ["list", "tables"]:
            out = listing(PREFIX + "old", "amphora_table")
        elif "table" in argv and "list" in argv:
            out = json.dumps({"nftables": []})
        return Result(tuple(argv), 0, out, "", 0.0)


def test_the_table_goes_away_even_after_a_failure_and_leftovers_too():
    host = Recorder()
    with pytest.raises(RuntimeError), Amphora(host, netns=None).counting("02::1"):
        raise RuntimeError("the test broke")
    deleted = [argv[-1] for argv in host.ran if "delete" in argv]
    assert deleted[0] == PREFIX + "old"
    assert len(deleted) == 2 and deleted[1].startswith(PREFIX)
    assert "amphora_table" not in deleted
