# SPDX-License-Identifier: Apache-2.0
"""The audit's forms, and what it says when something is wrong with its options."""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import jsonschema
import pytest
from click.testing import CliRunner
from openstack import exceptions as sdk
from openstack.load_balancer.v2.load_balancer import LoadBalancer
from rich.console import Console

from sriov_lb_tests import cli, errors
from sriov_lb_tests.agreement import Agreement, Seat, Subject
from sriov_lb_tests.audit import checks, command, places, report
from sriov_lb_tests.audit.checks import Audit, Check, State, Witness
from sriov_lb_tests.policy.packet import Packet
from sriov_lb_tests.wire.exchange import Observation, Verdict

PACKET = Packet("eth1", "192.0.2.1", "198.51.100.20", 6, sport=40000, dport=80)
LB = {"id": "lb-1", "name": "shop", "vips": ["198.51.100.20"], "provisioning_status": "ACTIVE",
      "amphorae": ["a1"],
      "listeners": [{"name": "web", "protocol": "HTTP", "port": 80,
                     "allowed_cidrs": ["10.0.0.0/8"], "served": True}]}  # fmt: skip
OPEN = Witness(PACKET, True, "TCP SYN … may not pass, but it came through.", "x.pcap")
CLEAN = Check("policy = ruleset of amphora a1", State.CLEAN, seconds=0.25)
BAD = Check("policy = wire, from host", State.DISAGREEMENT, (OPEN,), ("one thing",), 3)
DUMB = Check("policy = ruleset of amphora a2", State.UNCLEAR, (), ("ssh says no <key>",))


def made(*found):
    return Audit(LB, list(found), ["a note"], "2026-01-02T03:04:05+0000")


@pytest.mark.parametrize(
    ("found", "status"),
    [((CLEAN,), 0), ((CLEAN, DUMB), 2), ((CLEAN, BAD, DUMB), 1), ((), 2)],
)
def test_status_and_forms(found, status):
    audit = made(*found)
    assert audit.status == status
    data = json.loads(json.dumps(report.to_json(audit)))
    jsonschema.Draft202012Validator.check_schema(report.schema())
    jsonschema.validate(data, report.schema())
    assert data["exit_status"] == status
    suite = ElementTree.fromstring(report.junit(audit).partition("\n")[2])
    assert int(suite.get("failures")) == sum(one is BAD for one in found)
    assert int(suite.get("errors")) == sum(one is DUMB for one in found)
    assert len(suite.findall("testcase")) == len(found)


def test_what_changed_meanwhile_is_no_failure_for_ci():
    audit = made(CLEAN, BAD, DUMB)
    audit.changed = "load balancer shop was changed meanwhile"
    assert audit.status == 2
    suite = ElementTree.fromstring(report.junit(audit).partition("\n")[2])
    assert (suite.get("failures"), suite.get("errors")) == ("0", "3")
    assert not suite.findall("testcase/failure")
    said = suite.findall("testcase/error")
    assert [one.get("message") for one in said] == [audit.changed] * 3
    assert OPEN.explanation in said[1].text


def test_captures_that_are_gone_are_not_named():
    folder = Path("/tmp/sriov-lb-audit-x")
    seen = Observation(None, Verdict.INCONCLUSIVE, "no control", (), (), None, 0, 0, None,
                       pcap=folder / "0001-probe.pcap")  # fmt: skip
    audit = made(CLEAN, BAD, Check("policy = wire", State.UNCLEAR, (), (f"a ping: {seen}",), 3))
    audit.forget_captures(folder)
    assert audit.checks[2].unclear == ("a ping: no control",)
    console = Console(width=160, record=True, file=open("/dev/null", "w"))
    report.render(audit, console)
    for text in (console.export_text(), json.dumps(report.to_json(audit)), report.junit(audit)):
        assert ".pcap" not in text and str(folder) not in text
    assert audit.notes[1:] == ["captures were not kept; --artifacts DIR keeps them."]
    clean = made(CLEAN)
    clean.forget_captures(folder)
    assert clean.notes == ["a note"], "there was none that could be missed"


def test_the_table_names_the_witness():
    console = Console(width=160, record=True, file=open("/dev/null", "w"))
    report.render(made(CLEAN, BAD, DUMB), console)
    text = console.export_text()
    for words in ("shop", "too open: TCP SYN", "Evidence: x.pcap", "could not tell", "a note",
                  "does not do what its API state says"):  # fmt: skip
        assert words in text


def test_the_schema_refuses_what_it_does_not_know():
    data = report.to_json(made(BAD))
    data["checks"][0]["witnesses"][0]["kind"] = "odd"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, report.schema())


def test_nothing_sent_is_not_clean(monkeypatch):
    monkeypatch.setattr(checks, "look", lambda *a, **k: Agreement("shop", sent=0))
    found = checks.wire(SUBJECT, SimpleNamespace(name="host eth0"), None)
    assert found.state is State.UNCLEAR and "no packet" in found.sentence
    monkeypatch.setattr(checks, "look", lambda *a, **k: Agreement("shop", sent=7))
    assert checks.wire(SUBJECT, SimpleNamespace(name="host eth0"), None).state is State.CLEAN


def test_listeners_of_which_nothing_was_seen_are_not_clean(monkeypatch):
    host = SimpleNamespace(name="host eth0")
    some = Agreement("shop", sent=7, unseen=("what listener dns does was not seen",))
    monkeypatch.setattr(checks, "look", lambda *a, **k: some)
    found = checks.wire(SUBJECT, host, None)
    assert found.state is State.UNCLEAR and "listener dns" in found.sentence


ONE_SIDE = Agreement("shop", sent=7, partly=("to sources it is not open to was not seen",))


@pytest.mark.parametrize("rulesets", [(), (DUMB,), (CLEAN, DUMB), (CLEAN, BAD)])
def test_a_listener_seen_from_one_side_is_not_clean(monkeypatch, rulesets):
    monkeypatch.setattr(checks, "look", lambda *a, **k: ONE_SIDE)
    found = checks.wire(SUBJECT, SimpleNamespace(name="host eth0"), None, (), rulesets)
    assert found.state is State.UNCLEAR and found.sentence == ONE_SIDE.partly[0]
    assert made(found).status == 2
    (said,) = report.to_json(made(found))["checks"]
    assert said["one_sided"] == said["unclear"] == list(ONE_SIDE.partly)


def test_clean_rulesets_tell_the_other_side(monkeypatch):
    monkeypatch.setattr(checks, "look", lambda *a, **k: ONE_SIDE)
    host = SimpleNamespace(name="host eth0")
    found = checks.wire(SUBJECT, host, None, (), (CLEAN, CLEAN))
    assert found.state is State.CLEAN and made(found).status == 0
    assert found.sentence == (
        "they agree on all of 7 packets that were sent; to sources it is not open to was not seen"
    )
    # It is said in every form all the same.
    data = report.to_json(made(found))
    jsonschema.validate(data, report.schema())
    assert data["checks"][0]["one_sided"] == list(ONE_SIDE.partly)
    assert "not open to was not seen" in report.junit(made(found))
    console = Console(width=160, record=True, file=open("/dev/null", "w"))
    report.render(made(found), console)
    assert f"told by the rulesets alone: {ONE_SIDE.partly[0]}" in console.export_text()


def audited(monkeypatch, seats=(), closed=(), artifacts="x"):
    """``sriov-lb audit`` from a vantage that sees one side only."""
    opened = command.Opened()
    opened.user, opened.subject, opened.reach = None, SUBJECT, None
    opened.seats, opened.closed = list(seats), list(closed)
    opened.vantage = SimpleNamespace(name="host eth0")
    monkeypatch.setattr(command, "open_all", lambda *a, **k: opened)
    monkeypatch.setattr(command, "describe", lambda subject: LB)
    monkeypatch.setattr(places, "changed", lambda user, subject: "")
    monkeypatch.setattr(checks, "inside", lambda subject, seat: [CLEAN, CLEAN])
    monkeypatch.setattr(checks, "look", lambda *a, **k: ONE_SIDE)
    options = {"count": False, "next_hop": None, "artifacts": artifacts, "vantage": "a@b"}
    with ExitStack() as stack:
        return command.look_at("shop", stack, amphora_key="", **options)


@pytest.mark.parametrize(("artifacts", "named"), [(Path("x"), "x.pcap"), (None, None)])
def test_captures_are_named_where_they_are_kept(monkeypatch, artifacts, named):
    monkeypatch.setattr(checks, "wire", lambda *a: BAD)
    found = audited(monkeypatch, artifacts=artifacts)
    assert found.checks[-1].witnesses[0].pcap == named


def test_the_command_hands_the_rulesets_to_the_wire(monkeypatch):
    """The only allowed CIDR around the vantage, no --link: without a key nobody knows."""
    seat = Seat("a1", "198.51.100.30", "", None)

    def ended(*arguments):
        found = audited(monkeypatch, *arguments)
        return found.status, found.checks[-1].state

    assert ended() == (2, State.UNCLEAR)
    assert ended([seat]) == (0, State.CLEAN)
    # The other amphora of a pair may be the one that answers.
    away = places.Closed("a2", "ssh says no")
    assert ended([seat], [away]) == (2, State.UNCLEAR)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({}, ""),
        ({"allowed_cidrs": ["10.0.0.0/8"]}, "was changed meanwhile"),
        ({"provisioning_status": "ERROR"}, "was changed meanwhile"),
        (None, "PENDING_UPDATE"),
    ],
)
def test_what_changes_meanwhile_makes_it_unclear(now, words):
    web = {"id": "l", **SUBJECT.listeners[0]}
    before = Subject.of(SUBJECT.load_balancer, [web])
    status = "PENDING_UPDATE" if now is None else "ACTIVE"
    lb = LoadBalancer(**{**SUBJECT.load_balancer, "provisioning_status": status})
    api = SimpleNamespace(
        get_load_balancer=lambda id: lb,
        listeners=lambda load_balancer_id: [{**web, **(now or {})}],
    )
    said = places.changed(SimpleNamespace(load_balancer=api), before)
    assert words in said and bool(said) is bool(words)
    audit = made(CLEAN, BAD)
    audit.changed = said
    assert audit.status == (2 if words else 1)


SUBJECT = Subject(
    {"id": "lb-1", "name": "shop", "vip_address": "198.51.100.20", "admin_state_up": True},
    ({"name": "web", "protocol": "HTTP", "protocol_port": 80},),
    (),
    ({"id": "a1", "vrrp_ip": "198.51.100.30", "role": "STANDALONE"},),
)


class Inside:
    """An amphora whose kernel or rules file says nothing, or does not load."""

    def __init__(self, disk):
        self.disk = disk

    def rules_on_disk(self, _path):
        if isinstance(self.disk, Exception):
            raise self.disk
        return self.disk

    def ruleset(self):
        raise errors.UnknownExpression("an unknown statement: synproxy")

    def interfaces(self):
        return {}


@pytest.mark.parametrize(
    ("disk", "state", "words"),
    [
        (None, State.DISAGREEMENT, "no rules file"),
        (errors.RulesDoNotLoad("x", stderr="syntax error"), State.DISAGREEMENT, "does not load"),
        (errors.CommandFailed("sudo wants a password"), State.UNCLEAR, "sudo wants"),
        (errors.GuestUnreachable("it is away"), State.UNCLEAR, "away"),
        ('{"nftables": [{"teleport": {}}]}', State.UNCLEAR, "teleport"),
        ('{"nftables": []}', State.DISAGREEMENT, "may not pass"),
    ],
)
def test_the_rules_file_is_held_against_the_policy(disk, state, words):
    kernel, found = checks.inside(SUBJECT, Seat("a1", "198.51.100.30", "", Inside(disk)))
    assert found.state is state and words in found.sentence
    assert kernel.state is State.UNCLEAR and "synproxy" in kernel.sentence


def test_without_a_listener_no_rules_file_is_needed():
    """Octavia writes one that lets nobody in before the interface comes up."""
    empty = Subject(SUBJECT.load_balancer, (), (), SUBJECT.amphorae)
    seat = Seat("a1", "198.51.100.30", "", Inside(None))
    assert checks.inside(empty, seat)[1].state is State.CLEAN
    (witness,) = checks.inside(SUBJECT, seat)[1].witnesses
    assert not witness.too_open and "lets nobody in" in witness.explanation


# --- options --------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch):
    monkeypatch.delenv("OS_CLOUD", raising=False)
    return lambda *args: CliRunner().invoke(cli.main, [str(a) for a in args])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("LOADBALANCER", "openstack loadbalancer list")),
        (("shop",), ("--amphora-key", "--vantage")),
        (("shop", "--amphora-key", "/none"), ("--cloud",)),
        (("shop", "--cloud", "x", "--amphora-key", "/none"), ("--amphora-key", "/none")),
        (("shop", "--cloud", "x", "--vantage", "nobody"), ("--vantage", "nobody", "USER@HOST")),
        (("shop", "--cloud", "x", "--vantage", "a@b", "--vantage-key", "/none"),
         ("--vantage-key", "/none")),
        (("shop", "--cloud", "x", "--vantage", "a@b", "--vantage-key", __file__),
         ("--interface",)),
        (("shop", "--cloud", "nowhere", "--amphora-key", __file__), ("--cloud nowhere",)),
        (("shop", "--cloud", "x", "--clouds-file", "/none", "--amphora-key", __file__),
         ("/none", "--clouds-file")),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named_in_one_message(run, arguments, words):
    done = run("audit", *arguments)
    assert done.exit_code == 2, done.output
    for word in words:
        assert word in done.output
    assert "Traceback" not in done.output and len(done.output.splitlines()) <= 3


@pytest.mark.parametrize("option", ["--json", "--junit"])
@pytest.mark.parametrize(
    ("where", "words"), [("none/out", "there is no folder"), (".", "it is a folder")]
)
def test_a_file_that_cannot_be_written_is_named_before_anything_is_asked(
    run, monkeypatch, tmp_path, option, where, words
):
    monkeypatch.setattr(command, "look_at", lambda *a, **k: pytest.fail("it was asked"))
    done = run("audit", "shop", option, tmp_path / where)
    assert done.exit_code == 2, done.output
    for word in (option, str(tmp_path), words, f"folder that exists, with {option}"):
        assert word in done.output


def test_a_file_without_permission_is_named_before_anything_is_asked(run, monkeypatch, tmp_path):
    # As root everything may be written.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    monkeypatch.setattr(command, "look_at", lambda *a, **k: pytest.fail("it was asked"))
    done = run("audit", "shop", "--junit", tmp_path / "out.xml")
    assert done.exit_code == 2 and "permission denied" in done.output
    assert list(tmp_path.iterdir()) == []


def test_files_that_can_be_written_are(run, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "look_at", lambda *a, **k: made(CLEAN))
    done = run("audit", "shop", "--json", "-", "--junit", tmp_path / "out.xml")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["state"] == "clean"
    assert "testsuite" in (tmp_path / "out.xml").read_text()


def test_the_jump_host_that_was_named_is_known(monkeypatch):
    """Whoever has to come back later goes the same way."""
    monkeypatch.setattr(places, "connections", lambda *a: (None, None))
    monkeypatch.setattr(places, "find", lambda *a: None)
    monkeypatch.setattr(places, "subject", lambda *a: (SUBJECT, ""))
    monkeypatch.setattr(places, "seats", lambda *a, **k: ([], []))
    options = dict.fromkeys(
        ("admin_cloud", "clouds_file", "jump_key", "vantage", "vantage_key", "interface"), ""
    )
    with ExitStack() as stack:
        opened = command.open_all(
            "shop", stack, Path("x"), cloud="c", amphora_key=__file__, amphora_user="u",
            jump="ssh://u@[2001:db8::1]:2222/", vantage_jump=False, links=(), **options,
        )  # fmt: skip
    assert opened.jump == places.Login("u", "2001:db8::1", 2222, __file__)


def test_the_schema_is_printed(run):
    done = run("audit", "--schema")
    assert done.exit_code == 0 and json.loads(done.output) == report.schema()


@pytest.mark.parametrize("text", ["a@b", "ssh://a@b:22", "a@[2001:db8::1]:2222", "ssh://a@b/"])
def test_logins(text):
    login = places.Login.of("--vantage", text, __file__, "--vantage-key")
    assert login.user == "a" and login.port in (22, 2222)
    assert login.address in ("b", "2001:db8::1")


def cloud(found=(), error=None, amphorae=(), hidden=False):
    class Api:
        def listeners(self, **_query):
            return []

        pools = listeners

        def amphorae(self, **_query):
            if hidden:
                raise sdk.ForbiddenException("no")
            return list(amphorae)

    return SimpleNamespace(load_balancer=Api())


def lb(**more):
    return SimpleNamespace(**{"id": "lb-1", "name": "shop", "vip_vnic_type": "direct",
                              "provisioning_status": "ACTIVE", "vip_subnet_id": None,
                              "additional_vips": [], **more})  # fmt: skip


def test_a_normal_load_balancer_has_no_such_rules():
    with pytest.raises(errors.ConfigurationError, match="type normal"):
        places.subject(cloud(), cloud(), lb(vip_vnic_type="normal"))


def test_one_that_is_being_changed_is_not_looked_at():
    with pytest.raises(errors.StuckPending, match="PENDING_UPDATE"):
        places.subject(cloud(), cloud(), lb(provisioning_status="PENDING_UPDATE"))


def test_hidden_amphorae_are_said_to_be_hidden(monkeypatch):
    monkeypatch.setattr(Subject, "of", classmethod(lambda cls, *a: a))
    _, hidden = places.subject(cloud(), cloud(hidden=True), lb())
    assert "does not show amphorae" in hidden


def test_subnets_of_the_vips_are_read_as_far_as_they_are_shown():
    def get_subnet(wanted):
        if wanted == "hidden":
            raise sdk.NotFoundException("no")
        return SimpleNamespace(cidr={"four": "198.51.100.0/24", "six": "2001:db8:1::/64"}[wanted])

    user = SimpleNamespace(network=SimpleNamespace(get_subnet=get_subnet))
    shown = [{"subnet_id": "six"}, {"subnet_id": "hidden"}, {"subnet_id": "four"}, {}]
    found = places.subnets(user, lb(vip_subnet_id="four", additional_vips=shown))
    assert found == ["198.51.100.0/24", "2001:db8:1::/64"]


def test_names_that_are_nobodys_or_several_peoples(monkeypatch):
    class Lookup:
        matches = []

        def fetch(self, _api):
            raise sdk.NotFoundException("no")

    monkeypatch.setattr(places.resources.LoadBalancer, "new", lambda **_: Lookup())
    monkeypatch.setattr(
        places.resources.LoadBalancer, "list", lambda _api, **_: list(Lookup.matches)
    )
    with pytest.raises(errors.ResourceMissing, match="'shop'"):
        places.find(cloud(), "x", "shop")
    Lookup.matches = [lb(id="1"), lb(id="2")]
    with pytest.raises(errors.ResourceMissing, match="1, 2"):
        places.find(cloud(), "x", "shop")
    Lookup.matches = [lb(id="1")]
    assert places.find(cloud(), "x", "shop").id == "1"


def test_the_load_balancer_is_described():
    subject = Subject({**SUBJECT.load_balancer, "provisioning_status": "ACTIVE"},
                      SUBJECT.listeners, (), SUBJECT.amphorae)  # fmt: skip
    described = command.describe(subject)
    assert described["listeners"][0]["port"] == 80 and described["amphorae"] == ["a1"]


# --- mutants' options -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("--loadbalancer",)),
        (("--loadbalancer", "shop"), ("--amphora-key",)),
        (("--loadbalancer", "shop", "--amphora-key", __file__), ("--yes",)),
        (("--loadbalancer", "shop", "--only", "nothing"), ("--only nothing", "--list")),
    ],
)
def test_mutants_wants_to_be_told_twice(run, arguments, words):
    done = run("mutants", *arguments)
    assert done.exit_code == 2, done.output
    for word in words:
        assert word in done.output


def test_mutants_lists_one_a_line(run):
    lines = run("mutants", "--list").output.splitlines()
    assert len(lines) >= 50
    assert any(line.startswith("port-plus-one") and "ports" in line for line in lines)


def test_nothing_to_put_back(run, tmp_path):
    done = run("mutants", "--restore", tmp_path)
    assert done.exit_code == 0 and "Nothing to do" in done.output
