# SPDX-License-Identifier: Apache-2.0
"""A real sshd in a namespace: the same vantage, and every way not to get in."""

import threading

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.packets.probe import tcp_syn
from sriov_lb_tests.wire.ssh import Pins, SshHost
from sriov_lb_tests.wire.vantage import Vantage, Verdict


@pytest.fixture(scope="module")
def bed(testbed):
    with testbed.bed() as made:
        made.listen(("tcp", 80))
        made.nft(testbed.octavia_rules("ip saddr 198.51.100.0/25 tcp dport 80 accept"), "-o")
        yield made


@pytest.fixture(autouse=True)
def there(bed, testbed):
    """This process reaches the client's loopback only from inside its namespace."""
    with testbed.entered(bed.name("client")):
        yield


@pytest.fixture(scope="module")
def server(bed, sshd, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sshd")
    with sshd.sshd(folder, namespace=bed.name("client")) as made:
        yield made


def connect(server, **more):
    options = {"port": server.port, "user": "root", "key_file": server.key_file, "deadline": 20}
    return SshHost("127.0.0.1", **{**options, **more})


def test_commands(server):
    with connect(server) as host:
        done = host.run(["sh", "-c", "cat; id -u; echo err >&2; exit 3"], input=b"in:", check=False)
        assert (done.status, done.stdout, done.stderr) == (3, "in:0\n", "err\n")
        assert host.run(["printf", "%s", "a b'c\"d"]).stdout == "a b'c\"d"
        big = host.run(["sh", "-c", "head -c 3000000 /dev/zero; head -c 300000 /dev/zero >&2"])
        assert (len(big.stdout), len(big.stderr)) == (3_000_000, 300_000)
        with pytest.raises(errors.CommandFailed, match="did not end within 0.3 s"):
            host.run(["sleep", "5"], timeout=0.3)
        assert host.run(["true"]).status == 0


def test_a_command_that_ends_before_it_has_read_its_input_tells_how(server):
    with connect(server) as host:
        for _ in range(5):
            done = host.run(
                ["sh", "-c", "echo no >&2; exit 3"], input=bytes(20_000_000), check=False
            )
            assert (done.status, done.stderr) == (3, "no\n")


def test_the_vantage_is_the_same(server, testbed, tmp_path):
    with connect(server) as host, Vantage(host, "c0", artefacts=tmp_path) as vantage:
        good = tcp_syn(testbed.VIP4, 80, source="198.51.100.99")
        assert vantage.ask(good).verdict is Verdict.ACCEPTED
        seen = vantage.ask(tcp_syn(testbed.VIP4, 80, source="198.51.100.200"), control=good)
        assert seen.verdict is Verdict.DROPPED, str(seen)
        assert seen.pcap.exists()


def test_the_agent_starts_within_a_second(server):
    with connect(server) as host:
        host.connect()
        seconds = float(host.run(["true"]).seconds)
        agent = host.open_agent()
        assert agent.hello["uid"] == 0
        agent.close()
        assert seconds < 5  # and the machine is not too busy to say anything


def test_a_channel_is_used_from_two_threads(server):
    with connect(server) as host:
        channel = host.open_channel(["cat"])
        sent = bytes(range(256)) * 40_000
        writer = threading.Thread(target=channel.send, args=(sent,))
        writer.start()
        got = b""
        while len(got) < len(sent):
            got += channel.receive(1 << 16, 10)
        writer.join()
        assert got == sent
        with pytest.raises(TimeoutError):
            channel.receive(1, 0.1)
        channel.close()


def test_an_agent_that_is_killed_is_named(server):
    with connect(server) as host:
        agent = host.open_agent()
        host.run(["kill", "-9", str(agent.hello["pid"])])
        with pytest.raises(errors.AgentFailed, match="ended during interfaces"):
            agent.interfaces()
        # The shared agent of the host is opened anew.
        assert "c0" in host.interfaces()


def test_a_server_that_goes_away_in_mid_session(bed, sshd, tmp_path):
    with sshd.sshd(tmp_path / "s", namespace=bed.name("client"), port=2255) as other:
        host = connect(other)
        agent = host.open_agent()
        pid = agent.hello["pid"]
        bed.within("client", "sh", "-c", f"kill -9 $(ps -o ppid= -p {pid})")
        with pytest.raises(errors.AgentFailed):
            agent.interfaces()
        host.close()


def test_nobody_listens(server):
    with pytest.raises(errors.GuestUnreachable, match="no sshd listens there"):
        connect(server, port=2, deadline=0.5).connect()


def test_no_route(server):
    with pytest.raises(errors.GuestUnreachable, match="unreachable"):
        SshHost("10.255.0.1", user="root", key_file=server.key_file, deadline=0.5).connect()


def test_a_wrong_key(server, sshd, tmp_path, monkeypatch):
    monkeypatch.setattr("sriov_lb_tests.wire.ssh.KEY_GRACE", 0.5)
    other = sshd.keygen(tmp_path / "other")
    with pytest.raises(errors.SshRefused, match="does not accept user 'root' with the key"):
        connect(server, key_file=other).connect()


def test_what_answers_is_no_ssh(bed, testbed, server):
    with pytest.raises(errors.GuestUnreachable, match="not as an ssh server should"):
        SshHost(testbed.VIP4, user="root", key_file=server.key_file, port=80, deadline=3).connect()


def test_a_changed_host_key(bed, sshd, server, tmp_path):
    pins = Pins(tmp_path / "pins")
    with connect(server, pins=pins, pin_name="guest") as host:
        host.connect()
    with sshd.sshd(tmp_path / "s", namespace=bed.name("client"), port=2244) as other:
        with pytest.raises(errors.SshRefused, match="host key of guest changed"):
            connect(other, pins=Pins(tmp_path / "pins"), pin_name="guest").connect()
        # Another identity at the same place is nobody's business.
        with connect(other, pins=pins, pin_name="rebuilt guest") as host:
            assert host.run(["true"]).status == 0


def test_through_a_jump_host(server, testbed):
    with connect(server) as jump:
        with connect(server, jump=jump) as beyond:
            assert beyond.run(["id", "-u"]).stdout == "0\n"
        # The server listens on its loopback only; from the jump host, too, nobody is there.
        with SshHost(
            testbed.CLIENT4,
            user="root",
            key_file=server.key_file,
            port=server.port,
            jump=jump,
            deadline=2,
        ) as beyond:
            with pytest.raises(errors.GuestUnreachable, match="through root@127.0.0.1"):
                beyond.connect()


def test_a_guest_that_comes_up_late(bed, sshd, server, tmp_path):
    """The first attempts fail; the connection succeeds as soon as sshd is there."""
    host = SshHost("127.0.0.1", user="root", key_file=tmp_path / "s" / "key", port=2277)
    (tmp_path / "s").mkdir()
    sshd.keygen(tmp_path / "s" / "key")
    outcome = []

    def late():
        with sshd.sshd(tmp_path / "s", namespace=bed.name("client"), port=2277):
            ready.wait(20)

    ready = threading.Event()
    original = host._try

    def attempt(timeout):
        try:
            return original(timeout)
        except OSError as error:
            if not outcome:
                threading.Thread(target=late, daemon=True).start()
            outcome.append(error)
            raise

    host._try = attempt
    host.connect()
    assert outcome and host.run(["true"]).status == 0
    host.close()
    ready.set()
