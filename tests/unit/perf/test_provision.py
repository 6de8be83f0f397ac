# SPDX-License-Identifier: Apache-2.0
"""What is built for a comparison, told from a site that builds nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import types

import pytest
from click.testing import CliRunner

from sriov_lb_perf import cli, errors, nightly, provision
from sriov_lb_perf.clients import LocalHost
from sriov_lb_perf.history.store import History
from sriov_lb_perf.report import page
from sriov_lb_tests.errors import ResourceFault
from sriov_lb_tests.wire import origin, serving

GROUP = types.SimpleNamespace(
    amphora_ssh=True, amphora_user="debian", amphora_key_file="/keys/amphora",
    amphora_connect_method="jump", jump_host="192.0.2.1", jump_user="stack", jump_port=2222,
    jump_key_file="/keys/jump", tls_container_ref="lab-web",
)  # fmt: skip


class Site:
    """A site with one load balancer of two amphorae."""

    def __init__(self, admin=True):
        compute = types.SimpleNamespace(
            get_server=lambda id: types.SimpleNamespace(compute_host=f"host-of-{id}")
        )
        self.clouds = types.SimpleNamespace(
            admin=types.SimpleNamespace(compute=compute) if admin else None
        )
        amphorae = [
            types.SimpleNamespace(
                id=f"a{n}", role=role, compute_id=f"s{n}", image_id="i",
                lb_network_ip=f"198.18.16.{n}",
            )
            for n, role in ((5, "BACKUP"), (6, "MASTER"))
        ]
        self.lbs = types.SimpleNamespace(amphorae=lambda lb: amphorae)


def target(site):
    lb = types.SimpleNamespace(id="lb", flavor_id="f", vip_address="203.0.113.9")
    return provision._target(site, GROUP, lb, "sriov", provision.Served(iperf3=True, tls=True))


def test_amphorae_are_reached_through_the_jump_host_the_master_first():
    made = target(Site())
    assert [a.where for a in made.amphorae] == ["198.18.16.6", "198.18.16.5"]
    assert made.amphorae[0].jump.where == "192.0.2.1" and made.amphorae[0].jump.port == 2222
    assert made.facts["host"] == "host-of-s6, host-of-s5" and made.facts["image"] == "i"
    assert made.iperf3 == ("203.0.113.9", 5201)
    assert made.tls == "https://203.0.113.9:443/" and made.udp is None


def test_a_member_of_a_project_compares_without_looking_inside():
    made = target(Site(admin=False))
    assert made.amphorae == () and "host" not in made.facts


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("No valid host was found. There are not enough hosts available.", "has no room"),
        ("instance i on compute-3: ACTIVE; Nova says: attach_interface: IndexError", "has no room"),
        ("", "most often no host has a VF free"),
    ],
)
def test_a_cloud_without_a_free_vf_is_told_as_that(monkeypatch, fault, words):
    def build(*_):
        raise ResourceFault(f"Load balancer lb was to be ACTIVE and is ERROR: {fault}", fault=fault)

    monkeypatch.setattr(provision, "_build", build)
    with pytest.raises(errors.NoRoom, match=words) as raised:
        provision._built(None, GROUP, provision.Wanted(), None, None, print)
    assert "free VF" in str(raised.value) and "ERROR" in str(raised.value)


def test_any_other_fault_is_left_as_it_is(monkeypatch):
    def build(*_):
        raise ResourceFault("The listener is in ERROR", fault="certificate not found")

    monkeypatch.setattr(provision, "_build", build)
    with pytest.raises(ResourceFault, match="The listener"):
        provision._built(None, GROUP, provision.Wanted(), None, None, print)


class Balancers:
    """Octavia: keeps the listeners it is asked for; ``refuses`` one protocol on one of them."""

    def __init__(self, refuses=("", "")):
        self.refuses, self.made, self.pools, self.members = refuses, [], [], []

    def create_listener(self, lb, *, protocol, port, **attributes):
        listener = types.SimpleNamespace(lb=lb.id, protocol_port=port, protocol=protocol)
        self.made.append((listener, attributes))
        if (lb.id, protocol) == self.refuses:
            raise ResourceFault(f"Listener on {lb.id} was to be ACTIVE and is ERROR", fault="no")
        return listener

    def create_pool(self, lb, *, protocol, **_attributes):
        self.pools.append((lb.id, protocol))
        return types.SimpleNamespace(id=f"{protocol} pool of {lb.id}")

    def add_member(self, lb, pool, **attributes):
        self.members.append((lb.id, attributes["address"], attributes["port"]))

    def listeners(self, lb):
        return [listener for listener, _ in self.made if listener.lb == lb.id]

    def delete_listener(self, lb, listener):
        self.made = [each for each in self.made if each[0] is not listener]

    def amphorae(self, lb):
        role = types.SimpleNamespace(role="SINGLE", lb_network_ip=f"198.18.16.{len(lb)}")
        return [role]


class Inside:
    """ssh to a guest; what it is told to run is kept."""

    def __init__(self, status=0):
        self.status, self.asked = status, []

    def run(self, argv, **more):
        self.asked.append((argv, more))
        return types.SimpleNamespace(status=self.status)

    def close(self):
        pass


@pytest.fixture
def beside(monkeypatch, tmp_path):
    """beside(needs, …) -> (what is served, the load balancers, the member, the amphorae)."""

    def make(*needs, group=GROUP, refuses=("", ""), amphora=None, sizes=(1024,)):
        amphora = amphora or Inside()
        lbs, server = Balancers(refuses), Inside()
        net = types.SimpleNamespace(
            subnets={4: None}, subnet=lambda version: types.SimpleNamespace(id="subnet")
        )
        site = types.SimpleNamespace(
            lbs=lbs, vip_net=net, clouds=types.SimpleNamespace(admin=object())
        )
        monkeypatch.setattr(provision.Client, "open", lambda self, pins=None: amphora)
        made = [
            provision.Deployment(
                types.SimpleNamespace(id=name),
                pools={"web": types.SimpleNamespace(id=f"web pool of {name}")},
            )
            for name in ("sriov", "normal")
        ]
        member = types.SimpleNamespace(id="m", addresses=lambda role, version: ["203.0.113.7"])
        wanted = provision.Wanted(frozenset(needs), sizes)
        served = provision._beside(
            site, group, wanted, made, member, server, tmp_path, lambda text: None
        )
        return served, lbs, server, amphora

    return make


def test_both_vips_get_a_tls_listener_with_the_configured_certificate(beside):
    served, lbs, _, _ = beside("tls")
    assert served.tls and served.lacks == {}
    assert [(each.lb, each.protocol, each.protocol_port) for each, _ in lbs.made] == [
        ("sriov", "TERMINATED_HTTPS", 443), ("normal", "TERMINATED_HTTPS", 443),
    ]  # fmt: skip
    attributes = lbs.made[0][1]
    assert attributes["default_tls_container_ref"] == "lab-web"
    # The same members: those of the plain listener.
    assert attributes["default_pool_id"] == "web pool of sriov"


def test_without_a_certificate_the_option_is_named(beside):
    group = types.SimpleNamespace(**{**vars(GROUP), "tls_container_ref": ""})
    served, lbs, _, _ = beside("tls", group=group)
    assert not served.tls and lbs.made == []
    assert "[sriov_lb] tls_container_ref" in served.lacks["tls"]


@pytest.mark.parametrize("lb", ["sriov", "normal"])
def test_a_listener_that_fails_on_one_vip_is_on_neither_and_octavia_s_words_are_kept(beside, lb):
    served, lbs, _, _ = beside("tls", refuses=(lb, "TERMINATED_HTTPS"))
    assert not served.tls and lbs.made == []
    assert f"Listener on {lb} was to be ACTIVE" in served.lacks["tls"]


def test_both_vips_get_a_udp_listener_before_an_echo_where_the_amphorae_have_ip_vs(beside):
    served, lbs, server, amphora = beside("udp")
    assert served.udp and served.lacks == {}
    assert [(each.lb, each.protocol, each.protocol_port) for each, _ in lbs.made] == [
        ("sriov", "UDP", 9000), ("normal", "UDP", 9000),
    ]  # fmt: skip
    assert lbs.members == [("sriov", "203.0.113.7", 9000), ("normal", "203.0.113.7", 9000)]
    assert server.asked[0][0][:2] == ["python3", "-c"] and server.asked[0][0][3] == "9000"
    assert len(amphora.asked) == 2 and "ip_vs" in amphora.asked[0][0][2]
    assert amphora.asked[0][1]["root"] is True


def test_a_kernel_without_ip_vs_is_told_and_octavia_is_asked_for_nothing(beside):
    served, lbs, server, _ = beside("udp", amphora=Inside(status=1))
    assert not served.udp and lbs.made == lbs.pools == server.asked == []
    assert "198.18.16.5 has no ip_vs" in served.lacks["udp"]


def test_where_nobody_may_look_inside_octavia_is_asked_for_udp(beside):
    group = types.SimpleNamespace(**{**vars(GROUP), "amphora_ssh": False})
    served, lbs, _, amphora = beside("udp", group=group, amphora=Inside(status=1))
    assert served.udp and len(lbs.made) == 2 and amphora.asked == []


def test_the_member_gets_objects_of_the_sizes_a_profile_asks_for(beside):
    served, _, server, _ = beside("objects", sizes=(1024, 65536))
    assert served.objects == {1024: "/object-1024", 65536: "/object-65536"}
    ((argv, more),) = server.asked
    assert more["root"] is True and serving.FOLDER in origin.START
    assert f"head -c 65536 /dev/zero | tr '\\0' x >{serving.FOLDER}/object-65536" in argv[2]
    # Nothing that no stage asked for.
    assert beside()[0] == provision.Served() and beside()[2].asked == []


def test_an_object_has_its_size_to_the_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "FOLDER", str(tmp_path))
    made = serving.objects(LocalHost(), [1, 1024, 262144])
    for size, path in made.items():
        data = (tmp_path / path.lstrip("/")).read_bytes()
        assert len(data) == size and set(data) == {ord("x")}


def test_the_echo_sends_back_what_it_gets_over_both_ip_versions():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as free:
        free.bind(("::", 0))
        port = free.getsockname()[1]
    serving.echo(LocalHost(), port)
    listed = subprocess.run(
        ["pgrep", "-f", f"recvfrom_into.*\\s{port}$"], capture_output=True, text=True
    )
    pids = [int(pid) for pid in listed.stdout.split()]
    try:
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.settimeout(10)
                sock.connect((address, port))
                for data in (b"hello", b"x" * 1400):
                    sock.send(data)
                    assert sock.recv(2048) == data
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    assert len(pids) == 1


@contextlib.contextmanager
def no_room(*_, **__):
    raise errors.NoRoom("The cloud has no room for the comparison.")
    yield


@contextlib.contextmanager
def told_to_end(*_, say, **__):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        yield
    finally:
        say("taken away")


@pytest.mark.parametrize(
    ("twins", "words"),
    [(no_room, "free VF"), (told_to_end, "taken away\nsriov-lb-perf: told to end")],
)
def test_a_night_that_cannot_begin_is_no_regression_and_leaves_the_history_alone(
    monkeypatch, tmp_path, twins, words
):
    monkeypatch.setattr(provision, "twins", twins)
    monkeypatch.setattr(page, "plotly_script", lambda: "")
    path = tmp_path / "history.sqlite"
    done = CliRunner().invoke(
        cli.main,
        ["nightly", "--from-cloud", "--history", str(path), "--artifacts", str(tmp_path / "runs")],
    )
    assert done.exit_code == 2 and words in done.output, done.output
    assert "Traceback" not in done.output
    with nightly.held(path) as history:  # let go
        assert history.runs() == []
    with History(path) as history:
        assert history.series() == []
