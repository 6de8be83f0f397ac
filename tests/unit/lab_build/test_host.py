# SPDX-License-Identifier: Apache-2.0
"""What the machine must be and have."""

import pytest

from sriov_lb_lab.build import host
from sriov_lb_lab.errors import BuildError, HostError


def test_root_is_needed():
    host.require_root(lambda: 0)
    with pytest.raises(HostError, match="effective user id is 1000"):
        host.require_root(lambda: 1000)


@pytest.mark.parametrize(("name", "version"), [
    ("debian", "12"), ("debian", "13"), ("ubuntu", "22.04"), ("ubuntu", "24.04")])
def test_supported(name, version):
    host.require_supported({"ID": name, "VERSION_ID": version})


@pytest.mark.parametrize(("release", "found"), [
    ({"ID": "debian", "VERSION_ID": "11", "PRETTY_NAME": "Debian 11"}, "found Debian 11"),
    ({"ID": "fedora", "VERSION_ID": "42"}, "found fedora 42"),
    ({"ID": "debian", "PRETTY_NAME": "Debian sid"}, "found Debian sid"),
    ({}, "found unknown unknown"),
])
def test_unsupported_names_what_was_found_and_what_would_do(release, found):
    with pytest.raises(HostError) as caught:
        host.require_supported(release)
    assert found in str(caught.value)
    assert "debian 12 or 13, ubuntu 22.04 or 24.04" in str(caught.value)


def test_os_release_is_read():
    text = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n\n# x\n'
    release = host.parse_os_release(text)
    assert release["ID"] == "debian" and release["VERSION_ID"] == "12"


def test_a_machine_without_os_release(tmp_path):
    assert host.read_os_release(tmp_path / "none") == {}


def test_packages_are_told_by_their_commands():
    every = {command for need in host.NEEDS for command in need.commands}

    def which(command):
        return f"/usr/bin/{command}" if command in every else None

    assert host.missing_packages(which) == []
    host.require_packages([])
    every -= {"mmdebstrap", "nsenter"}
    missing = host.missing_packages(which)
    assert missing == ["mmdebstrap", "util-linux"]
    with pytest.raises(HostError, match="apt-get install .* mmdebstrap util-linux"):
        host.require_packages(missing)


def test_space_names_needed_and_found(tmp_path):
    host.require_space(tmp_path, 3 * host.GIB, "building system", lambda path: 3 * host.GIB)
    with pytest.raises(BuildError, match=r"building system needs 3\.0 GiB, found 1\.5 GiB free"):
        host.require_space(tmp_path, 3 * host.GIB, "building system",
                           lambda path: 3 * host.GIB // 2)


def test_nothing_to_install_says_nothing():
    said = []
    host.install_packages([], lambda step, message: said.append(message))
    assert said == []


class Done:
    def __init__(self, returncode, stdout):
        self.returncode = returncode
        self.stdout = stdout


def test_installing_says_first_what_it_installs(monkeypatch):
    events = []
    monkeypatch.setattr(host.subprocess, "run",
                        lambda argv, **options: events.append(argv[1]) or Done(0, ""))
    host.install_packages(["mmdebstrap"], lambda step, message: events.append(message))
    assert events == ["installing with apt-get: mmdebstrap", "update", "install"]


def test_failed_installation_shows_why(monkeypatch):
    monkeypatch.setattr(host.subprocess, "run",
                        lambda argv, **options: Done(100, "E: Unable to locate package x\n"))
    with pytest.raises(HostError, match=r"mmdebstrap \(exit 100\):\n(.*\n)*E: Unable to locate"):
        host.install_packages(["mmdebstrap"], lambda step, message: None)
