# SPDX-License-Identifier: Apache-2.0
"""ssh errors and pins, without a network: the connection attempt is replaced."""

import socket
import threading

import paramiko
import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.wire import ssh
from sriov_lb_tests.wire.ssh import Pins, SshHost


@pytest.fixture(scope="module")
def key_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "key"
    paramiko.ECDSAKey.generate().write_private_key_file(str(path))
    return path


def host(key_file, outcome, **options):
    """A host whose every attempt to connect raises ``outcome``."""
    made = SshHost("192.0.2.7", user="debian", key_file=key_file, deadline=0.05, **options)

    def attempt(timeout):
        raise outcome

    made._try = attempt
    return made


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "no sshd listens there"),
        (TimeoutError("timed out"), "timed out"),
        (OSError(113, "No route to host"), "unreachable .No route to host"),
        (socket.gaierror(-2, "Name or service not known"), "cannot be resolved"),
        (paramiko.SSHException("Error reading SSH protocol banner"), "not as an ssh server should"),
        (
            paramiko.ssh_exception.NoValidConnectionsError(
                {("192.0.2.7", 22): ConnectionRefusedError(111, "Connection refused")}
            ),
            "no sshd listens there",
        ),
    ],
)
def test_why_there_is_no_connection(key_file, outcome, words):
    with pytest.raises(errors.GuestUnreachable, match=rf"192\.0\.2\.7 port 22.*{words}"):
        host(key_file, outcome).connect()


def test_a_refused_key_is_another_error(key_file, monkeypatch):
    monkeypatch.setattr(ssh, "KEY_GRACE", 0.05)
    refused = paramiko.AuthenticationException("Authentication failed.")
    with pytest.raises(errors.SshRefused, match="does not accept user 'debian'"):
        host(key_file, refused).connect()


def test_a_missing_or_broken_key_file_is_said_at_once(tmp_path, key_file):
    made = host(tmp_path / "nope", TimeoutError())
    with pytest.raises(errors.SshRefused, match="nope for .* cannot be read: No such file"):
        made.connect()
    (tmp_path / "bad").write_text("not a key\n")
    with pytest.raises(errors.SshRefused, match="is not a private key"):
        host(tmp_path / "bad", TimeoutError()).connect()


def test_retries_until_it_works(key_file):
    made = host(key_file, None)
    outcomes = [ConnectionRefusedError(), TimeoutError(), "client"]

    def attempt(timeout):
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    made._try = attempt
    made.deadline = 30
    made.connect()
    assert made._client == "client" and not outcomes


def test_pins_are_kept_and_a_changed_key_is_refused(tmp_path):
    first, second = paramiko.ECDSAKey.generate(), paramiko.ECDSAKey.generate()
    Pins(tmp_path / "pins").check("server-1", first)
    pins = Pins(tmp_path / "pins")
    pins.check("server-1", first)
    pins.check("server-2", second)
    with pytest.raises(errors.SshRefused, match="host key of server-1 changed"):
        pins.check("server-1", second)


def test_root_needs_no_sudo(key_file):
    assert SshHost("h", user="root", key_file=key_file)._as_root(["nft"]) == ["nft"]
    assert SshHost("h", user="debian", key_file=key_file)._as_root(["nft"])[:2] == ["sudo", "-n"]


@pytest.mark.parametrize(
    ("outcome", "words"),
    [(paramiko.SSHException("Timeout opening channel."), "Timeout opening channel"),
     (EOFError(), "EOFError")],
)  # fmt: skip
def test_a_guest_that_died_behind_its_connection_is_an_error_of_ours(key_file, outcome, words):
    class Transport:
        def is_active(self):
            return True

        def open_session(self, timeout):
            raise outcome

    class Client:
        def get_transport(self):
            return Transport()

        def close(self):
            pass

    made = host(key_file, None, name="guest-1")
    made._client = Client()
    for use in (made.run, made.open_channel):
        with pytest.raises(errors.GuestUnreachable, match=f"guest-1 .* any more: {words}\\."):
            use(["true"])


@pytest.mark.parametrize("ends", [1, 2])
def test_a_connection_that_ends_while_a_session_is_asked_for_is_made_anew_once(
    key_file, monkeypatch, ends
):
    class Transport:
        def __init__(self):
            self.active = True

        def is_active(self):
            return self.active

        def open_session(self, timeout):
            if made:
                return "a session"
            self.active = False
            raise paramiko.SSHException("Unable to open channel.")

    class Client:
        def __init__(self):
            self.transport = Transport()

        def get_transport(self):
            return self.transport

        def close(self):
            pass

    one, made = host(key_file, None, name="guest-1"), []
    connected = []

    def connect(timeout):
        connected.append(timeout)
        if len(connected) > ends:
            made.append(True)
        return Client()

    monkeypatch.setattr(one, "_try", connect)
    if ends == 1:
        assert one._open() == "a session"
    else:
        with pytest.raises(errors.GuestUnreachable, match="any more: Unable to open channel"):
            one._open()
    assert len(connected) == 2


@pytest.mark.parametrize("breaks", ["exec_command", "sendall"])
def test_a_connection_that_ends_while_a_command_begins_is_an_error_of_ours(
    key_file, monkeypatch, breaks
):
    class Channel:
        status_event = threading.Event()
        closed = False

        def __getattr__(self, name):
            def call(*_):
                if name == breaks:
                    raise paramiko.SSHException("Channel closed.")

            return call

        def close(self):
            self.closed = True

    one, channel = host(key_file, None, name="guest-1"), Channel()
    monkeypatch.setattr(one, "_open", lambda: channel)
    words = r"connection to guest-1 ended while cat was begun: Channel closed\."
    with pytest.raises(errors.GuestUnreachable, match=words):
        one.run(["cat"], input=b"x")
    assert channel.closed
