# SPDX-License-Identifier: Apache-2.0
"""The lab is a genuine cloud: services are well, and instances live as instances do."""

from __future__ import annotations

import json
import time

import pytest

SERVER = "life"
# `openstack` of the lab runs with the lab's own files.
KEY_INSIDE = "/var/lib/lab/keys/octavia_ssh_key.pub"


def test_every_service_is_well(lab):
    done = lab.command("status", "--json")
    assert done.returncode == 0, done.stdout
    status = json.loads(done.stdout)
    assert status["unwell"] == {}
    assert status["facts"]["substrate"] == "macvlan"
    assert status["hosts"]["compute-1"]["vfs_per_pf"] >= 8
    assert status["hosts"]["compute-3"]["vfs"] == 0


def test_up_again_leaves_it_alone(lab):
    pid = json.loads(lab.command("status", "--json").stdout)["pid"]
    done = lab.command("up")
    assert done.returncode == 0, done.stdout
    assert "running already" in done.stdout
    assert json.loads(lab.command("status", "--json").stdout)["pid"] == pid


def test_up_with_another_octavia_is_refused(lab):
    done = lab.command("up", "--octavia", "18.0.1")
    assert done.returncode == 1
    assert "runs Octavia 16.0.0, not 18.0.1" in done.stdout


def test_a_broken_service_is_named_with_its_log(lab, wait):
    supervisorctl = ["exec", "--inside", "--", "supervisorctl", "-s",
                     "unix:///var/lib/lab/supervisor.sock"]  # fmt: skip
    lab.command(*supervisorctl, "stop", "placement")
    try:
        done = lab.command("status")
        assert done.returncode == 1
        assert "end of placement's log" in done.stdout
    finally:
        lab.command(*supervisorctl, "start", "placement")
    wait(lambda: lab.command("status").returncode, 0, 60)


@pytest.fixture(scope="module")
def server(lab, wait):
    """A guest with a VF; found again by ssh."""
    lab.do("keypair", "create", "--public-key", KEY_INSIDE, "life")
    lab.do("network", "create", "--provider-network-type", "flat",
           "--provider-physical-network", "public", "life-vf")  # fmt: skip
    lab.do("subnet", "create", "--network", "life-vf", "--subnet-range", "192.0.2.0/24",
           "--no-dhcp", "--gateway", "none", "life-vf-v4")  # fmt: skip
    lab.do("port", "create", "--network", "life-vf", "--vnic-type", "direct", "life-vf-port")
    lab.do("port", "create", "--network", "access", "--disable-port-security", "--no-security-group",
           "life-access")  # fmt: skip
    lab.do("server", "create", "--image", "guest", "--flavor", "guest", "--key-name", "life",
           "--port", "life-access", "--port", "life-vf-port", "--wait", SERVER)  # fmt: skip
    shown = lab.openstack("server", "show", SERVER)
    yield shown
    for what in (("server", "delete", "--wait", SERVER), ("port", "delete", "life-access"),
                 ("port", "delete", "life-vf-port"), ("network", "delete", "life-vf"),
                 ("keypair", "delete", "life")):  # fmt: skip
        lab.do(*what)


def _key(lab):
    return lab.facts["amphora_key"]


def _ssh(lab, server, command):
    return lab.exec(
        ["ssh", "-i", _key(lab), "-o", "StrictHostKeyChecking=no", "-o", "ConnectTimeout=3",
         "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes",
         f"debian@{server['addresses']['access'][0]}", command]
    )  # fmt: skip


def _boot_id(lab, server):
    # Containers share the kernel's boot_id; the start of their own pid 1 tells boots apart.
    return _ssh(lab, server, "stat -c %Y /proc/1; uptime -s >/dev/null; cat /proc/1/stat").stdout


def test_a_guest_boots_with_a_vf_and_takes_ssh(lab, server, wait):
    wait(lambda: _ssh(lab, server, "true").returncode, 0, 60)
    links = json.loads(_ssh(lab, server, "ip -j address").stdout)
    addresses = {a["local"] for link in links for a in link["addr_info"] if a["family"] == "inet"}
    assert server["addresses"]["access"][0] in addresses
    assert server["addresses"]["life-vf"][0] in addresses
    assert _ssh(lab, server, "sudo -n id -u").stdout.strip() == "0"
    port = lab.openstack("port", "show", "life-vf-port")
    assert port["binding_vif_type"] == "hw_veb"
    assert port["status"] == "ACTIVE"
    assert port["binding_profile"]["physical_network"] == "public"


@pytest.mark.parametrize("kind", ["--soft", "--hard"])
def test_reboot_gives_a_new_first_process_and_the_same_disk(lab, server, wait, kind):
    wait(lambda: _ssh(lab, server, f"touch /home/debian/kept{kind}").returncode, 0, 60)
    old = _ssh(lab, server, "cat /proc/1/stat").stdout.split()[21]
    lab.do("server", "reboot", kind, "--wait", SERVER)
    new = wait(
        lambda: _ssh(lab, server, f"test -e /home/debian/kept{kind} && cat /proc/1/stat").stdout,
        lambda text: bool(text),
        60,
    )
    assert new.split()[21] != old


def test_stop_start_and_console(lab, server, wait):
    lab.do("server", "stop", SERVER)
    wait(lambda: lab.openstack("server", "show", SERVER)["status"], "SHUTOFF", 60)
    assert _ssh(lab, server, "true").returncode != 0
    lab.do("server", "start", SERVER)
    wait(lambda: lab.openstack("server", "show", SERVER)["status"], "ACTIVE", 60)
    wait(lambda: _ssh(lab, server, "true").returncode, 0, 60)
    console = lab.exec(["openstack", "console", "log", "show", SERVER]).stdout
    assert console.strip(), "the console log is empty"


def test_a_crash_is_seen_by_nova(lab, server, wait):
    done = lab.command("fault", "crash-server", server["id"])
    assert done.returncode == 0, done.stdout
    began = time.monotonic()
    wait(lambda: lab.openstack("server", "show", SERVER)["status"], "SHUTOFF", 120, 1)
    print(f"Nova saw the crash after {time.monotonic() - began:.0f} s")
    lab.do("server", "start", SERVER)
    wait(lambda: lab.openstack("server", "show", SERVER)["status"], "ACTIVE", 60)
    wait(lambda: _ssh(lab, server, "true").returncode, 0, 60)


def test_no_host_without_vfs_takes_a_vf(lab, server):
    """compute-3 has none: Nova's own scheduler must say so."""
    lab.do("port", "create", "--network", "life-vf", "--vnic-type", "direct", "life-no-vf")
    try:
        lab.exec(
            ["openstack", "server", "create", "--image", "guest", "--flavor", "guest", "--port",
             "life-no-vf", "--availability-zone", "nova:compute-3", "--wait", "life-no-vf"]
        )  # fmt: skip
        shown = lab.openstack("server", "show", "life-no-vf")
        assert shown["status"] == "ERROR"
    finally:
        lab.exec(["openstack", "server", "delete", "--wait", "life-no-vf"])
        lab.do("port", "delete", "life-no-vf")
