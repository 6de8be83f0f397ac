# SPDX-License-Identifier: Apache-2.0
"""A run on an amphora whose kernel is a text, from a vantage that sends nothing."""

import json
import pathlib
from ipaddress import ip_interface
from types import SimpleNamespace

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.agreement import Reach, Seat, Subject, reboot
from sriov_lb_tests.audit import places
from sriov_lb_tests.mutants import command
from sriov_lb_tests.mutants import run as running
from sriov_lb_tests.mutants.fault import FORWARDING_SETTING, Change, Fault, Test
from sriov_lb_tests.mutants.faults import ALL
from sriov_lb_tests.mutants.listing import Listing
from sriov_lb_tests.mutants.matrix import Result
from sriov_lb_tests.mutants.run import Run
from sriov_lb_tests.mutants.seeding import Seeder, left
from sriov_lb_tests.mutants.testing import Outcome, Subjects
from sriov_lb_tests.mutants.testing import Tests as Columns
from sriov_lb_tests.policy.proof import difference
from sriov_lb_tests.policy.ruleset import parse
from sriov_lb_tests.wire.host import Interface

LISTINGS = pathlib.Path(__file__).parents[1] / "policy" / "listings"
FAULTS = {fault.id: fault for fault in ALL}
VIP4, VIP6 = "198.51.100.20", "2001:db8:1::20"
OWN, PEER = "198.51.100.30", "198.51.100.31"
RULES = "table inet amphora_table {\n\tset s { 192.0.2.1, 192.0.2.2 }\n}\n"


class Kernel:
    """In the place of an amphora."""

    def __init__(self, disk=None):
        self.text, self.disk, self.loaded = RULES, disk, []
        self.listing = (LISTINGS / "octavia-one-listener.json").read_text()

    def nft(self, *arguments, input=None):
        if arguments[-2:] == ("list", "ruleset"):
            return self.text
        self.loaded.append(input)
        if "-j" in arguments:
            self.text += "# with a fault\n"
        else:
            lines = input.splitlines(keepends=True)
            self.text = "".join(line for line in lines if not line.startswith("delete"))
        return ""

    def within(self, *_argv):
        names = (name.replace(".", "/") for name in FORWARDING_SETTING.values())
        return SimpleNamespace(stdout="".join(f"{name}:0\n" for name in names))

    def ruleset_json(self):
        return self.listing

    def interfaces(self):
        wide = (ip_interface(f"{OWN}/24"), ip_interface("2001:db8:1::30/64"))
        return {"eth1": Interface("eth1", 2, "02:00:00:00:00:02", 1500, True, wide)}

    def rules_on_disk(self, _path):
        if isinstance(self.disk, Exception):
            raise self.disk
        return self.disk


class Client:
    """In the place of a vantage: requests are answered with a status, or not (None)."""

    name = "client eth1"

    def __init__(self, *own, status=200):
        wide = tuple(map(ip_interface, own))
        self.interface = Interface("eth1", 2, "02:00:00:00:00:01", 1500, True, wide)
        self.status, self.closed = status, False

    def http_or_why(self, vip, port, *, source, timeout):
        if self.closed:
            raise errors.AgentFailed("The agent on client is closed; http was asked.")
        if self.status is None:
            return None, "timed out"
        return SimpleNamespace(status=self.status), ""


def subjects(listeners, vantage=None, *, links=(), pair=False, kernel=None, rules_file=None):
    amphorae = [{"id": "a1", "vrrp_ip": OWN}, {"id": "a2", "vrrp_ip": PEER}][: 2 if pair else 1]
    subject = Subject.of(
        {"id": "lb", "vip_address": VIP4, "additional_vips": [{"ip_address": VIP6}]},
        listeners, (), amphorae,
    )  # fmt: skip
    seats = [Seat.of(entry, kernel or Kernel()) for entry in amphorae]
    policies = {seat.id: subject.policy(seat.own) for seat in seats}
    reach = None if vantage is None else Reach.of(vantage, subject, links)
    return Subjects(policies, seats, seats[0], vantage, reach, rules_file=rules_file)


def web(*cidrs, port=80):
    return {"name": "web", "protocol": "HTTP", "protocol_port": port, "allowed_cidrs": cidrs}


# --- rules that changed since the run began -------------------------------------------------------


@pytest.fixture
def kernel():
    return Kernel()


@pytest.fixture
def change(kernel):
    listing = Listing.read(kernel.listing)
    del listing.objects[-1]
    return Change("a rule is gone", listing)


def test_rules_that_somebody_changed_since_the_run_began_are_left_alone(kernel, change, tmp_path):
    seeder = Seeder(kernel, "a", tmp_path, rules_file=None)
    changed = kernel.text = RULES + "table inet amphora_more {\n}\n"
    with pytest.raises(errors.NotRestored, match="changed since the run began; nothing was seeded"):
        with seeder.seeded("x", seeder.listing(), change):
            raise AssertionError("the fault is in")
    with pytest.raises(errors.NotRestored, match="nothing was seeded"):
        seeder.seed("x", seeder.listing(), change)
    assert kernel.text == changed and kernel.loaded == [] and left(tmp_path) == []


def test_another_order_of_a_sets_elements_is_no_change(kernel, change, tmp_path):
    seeder = Seeder(kernel, "a", tmp_path, rules_file=None)
    kernel.text = RULES.replace("192.0.2.1, 192.0.2.2", "192.0.2.2, 192.0.2.1")
    with seeder.seeded("x", seeder.listing(), change):
        assert "with a fault" in kernel.text and left(tmp_path)
    assert kernel.text == RULES and left(tmp_path) == []


def test_a_run_ends_where_somebody_changed_the_rules(kernel, tmp_path):
    here = Run(subjects([web()], kernel=kernel), tmp_path)
    kernel.text += "# Octavia was here\n"
    with pytest.raises(errors.NotRestored, match="nothing was seeded"):
        here.all([FAULTS["policy-accept"]])


# --- the way back ---------------------------------------------------------------------------------


@pytest.fixture
def hosts(monkeypatch):
    """What ssh was asked for; nothing is restored."""
    made = []

    class Host:
        def __init__(self, address, **options):
            self.address, self.options = address, options
            made.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_error):
            pass

    monkeypatch.setattr("sriov_lb_tests.wire.ssh.SshHost", Host)
    monkeypatch.setattr(Seeder, "restore", lambda self, force: None)
    return made


def saved(kernel, folder, way):
    Seeder(kernel, "a", folder, rules_file=None, way=way).saved.write(folder / "restore-a.json")


def test_the_way_back_is_known_in_every_folder(kernel, hosts, monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("key", "jump-key"):
        pathlib.Path(name).touch()
    login = places.Login.of("--jump", "ssh://u@[2001:db8::1]:2222/", "jump-key", "--jump-key")
    way = command.way_to("debian", "key", login)
    saved(kernel, tmp_path, {**way, "address": "192.0.2.7"})
    monkeypatch.chdir("/")
    assert command.put_back(tmp_path, False) == 0
    jump, amphora = hosts
    assert (amphora.address, amphora.options["user"]) == ("192.0.2.7", "debian")
    assert amphora.options["key_file"] == str(tmp_path / "here" / "key")
    assert amphora.options["jump"] is jump and jump.address == "2001:db8::1"
    assert (jump.options["user"], jump.options["port"]) == ("u", 2222)
    assert jump.options["key_file"] == str(tmp_path / "here" / "jump-key")


def test_without_a_jump_host(kernel, hosts, tmp_path):
    # As older versions wrote it.
    saved(kernel, tmp_path, {"user": "u", "key": "/k", "jump": "", "jump_key": "",
                             "address": "192.0.2.7"})  # fmt: skip
    assert command.put_back(tmp_path, False) == 0
    assert [host.options["jump"] for host in hosts] == [None]


def test_a_jump_host_in_the_old_form_is_said_to_be(kernel, hosts, tmp_path):
    saved(kernel, tmp_path, {"user": "u", "key": "/k", "jump": "u@h", "jump_key": "",
                             "address": "192.0.2.7"})  # fmt: skip
    with pytest.raises(errors.JournalCorrupt, match="restore-a.json names the jump host as 'u@h'"):
        command.put_back(tmp_path, False)


# --- where a fault goes ---------------------------------------------------------------------------


def test_a_fault_says_into_which_amphora_of_a_pair_it_goes(tmp_path):
    seen = []

    def make(target):
        seen.append(target.backup)
        return Change("nothing", target.listing)

    for backup, one, two in ((False, "a1", "a1"), (True, None, "a2")):
        fault = Fault("any-name", "nothing", (), make, backup=backup)
        for pair, expected in ((False, one), (True, two)):
            here = Run(subjects([web()], pair=pair), tmp_path)
            found = here._aim(fault)
            assert (found and found[0].id) == expected
    assert seen == [False, False, True]
    assert [fault.id for fault in ALL if fault.backup] == [
        "one-of-pair-closed", "one-of-pair-open",
    ]  # fmt: skip


def test_rules_that_are_not_understood_make_one_row_unclear(tmp_path, monkeypatch):
    def refuse(_listing):
        raise errors.UnknownExpression("an unknown statement: synproxy")

    here = Run(subjects([web()]), tmp_path)
    monkeypatch.setattr(running, "parse", refuse)
    row = here.one(FAULTS["policy-accept"])
    assert row.result is Result.UNCLEAR and "synproxy" in row.why


# --- forwarding -----------------------------------------------------------------------------------


def test_forwarding_that_cannot_be_asked_about_is_not_missed(kernel, tmp_path):
    here = Run(subjects([web()], Client("198.51.100.9/24"), kernel=kernel), tmp_path)
    said = here.tests.forwarding((4, 6))
    assert said.alarms == []
    four, six = said.unclear
    assert four == "IPv4: two addresses of ours on the link are needed"
    assert six == "IPv6: a listener that one of our addresses reaches is needed"
    for name, why in (("forwarding-v4", four), ("forwarding-v6", six)):
        row = here.one(FAULTS[name])
        assert (row.result, row.why) == (Result.NOT_APPLICABLE, why)
    # Nor is what was not asked a proof that a repair repairs.
    with pytest.raises(errors.ControlFailed, match="two addresses of ours"):
        here._repaired(Change("x", repair={"a": "0"}, routes=(4,)))
    assert kernel.loaded == []


# --- what is asked of a vantage -------------------------------------------------------------------


@pytest.fixture
def silent(monkeypatch):
    monkeypatch.setattr(Columns, "forwarding", lambda self, versions=(4, 6): Outcome())


@pytest.mark.parametrize(
    ("own", "links"),
    [
        (("198.51.100.9/24",), ()),
        (("198.51.100.9/24", "198.51.100.10/24"), ()),
        (("198.51.100.9/24",), ("198.51.100.0/24",)),
    ],
)
def test_whether_forwarding_can_be_asked_about(silent, own, links):
    tests = Columns(subjects([web()], Client(*own), links=links))
    assert bool(tests.no_forwarding(4)) is (len(own) == 1 and not links)


OURS = ("198.51.100.9/24", "198.51.100.10/24", "2001:db8:1::9/64")


@pytest.mark.parametrize(
    "cidrs",
    [(), ("198.51.100.9/32", "198.51.100.10/32", "2001:db8:1::9/128", "198.51.100.128/27")],
)
def test_requests_come_from_an_address_of_the_vantage_itself(silent, cidrs):
    links = ("198.51.100.0/24", "2001:db8:1::/64")
    tests = Columns(subjects([web(*cidrs), web(port=81)], Client(*OURS), links=links))
    assert tests.answered() == [(VIP4, 80, "198.51.100.9"), (VIP6, 80, "2001:db8:1::9")]
    assert Test.REQUESTS in tests.applicable()


@pytest.mark.parametrize("status", [503, None])
def test_what_no_member_answers_is_not_asked(silent, status):
    tests = Columns(subjects([web()], Client(*OURS, status=status)))
    assert tests.answered() == [] and Test.REQUESTS not in tests.applicable()


def test_an_agent_that_died_is_no_request_without_an_answer(silent):
    client = Client(*OURS)
    tests = Columns(subjects([web()], client))
    client.status = None
    assert len(tests.requests().alarms) == 2 and "timed out" in tests.requests().alarms[0]
    client.closed = True
    with pytest.raises(errors.AgentFailed, match="is closed"):
        tests.requests()


# --- what a reboot would load ---------------------------------------------------------------------

WEB = web("198.51.100.0/25", "2001:db8:1::/112")
ONE = (LISTINGS / "octavia-one-listener.json").read_text()


@pytest.mark.parametrize(
    ("disk", "listeners", "words"),
    [
        (None, [], ""),
        (None, [WEB], "there is no rules file, so a reboot lets nobody in"),
        (errors.RulesDoNotLoad("x", stderr="syntax error"), [WEB], "not load (syntax error)"),
        (ONE, [WEB], ""),
        (ONE, [], "may not pass"),
    ],
)
def test_the_rules_file_is_held_against_the_policy(disk, listeners, words):
    tests = Columns(subjects(listeners, kernel=Kernel(disk), rules_file="/rules"))
    alarms = tests.disk().alarms
    assert bool(alarms) is bool(words) and all(words in text for text in alarms)


def test_without_a_file_octavia_lets_nobody_in():
    listing = json.loads((LISTINGS / "octavia-drop-all.json").read_text())
    assert difference(parse(reboot.DROP_ALL), parse(listing)) is None
    assert difference(parse(reboot.NO_RULES), parse(listing)) is not None
