# SPDX-License-Identifier: Apache-2.0
"""The lab is a genuine cloud: services are well, and instances live as instances do."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

PREFIX = "life"


def test_every_service_is_well(lab):
    done = lab.command("status", "--json")
    assert done.returncode == 0, done.stdout
    status = json.loads(done.stdout)
    assert status["unwell"] == {}
    assert status["facts"]["substrate"] == "macvlan"
    assert status["facts"]["ip_vs"] == Path("/proc/net/ip_vs").exists()
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


@dataclass
class Guest:
    """A server with a port of each kind."""

    lab: object
    id: str
    address: str
    vf_address: str
    vf_port: str
    vf_network: str

    def shown(self):
        """Nova's view."""
        return self.lab.inside(self.lab.cloud.compute.get_server, self.id)

    def status(self):
        return self.shown().status

    def ssh(self, command):
        return self.lab.ssh(self.address, command)


@pytest.fixture(scope="module")
def guest(lab):
    """A guest with a VF and an address for ssh."""
    cloud, do = lab.cloud, lab.inside
    public = Path(lab.facts["amphora_key"] + ".pub").read_text()
    do(cloud.compute.create_keypair, name=PREFIX, public_key=public)
    network = do(cloud.network.create_network, name=PREFIX, provider_network_type="flat",
                 provider_physical_network="public")  # fmt: skip
    do(cloud.network.create_subnet, network_id=network.id, ip_version=4, cidr="192.0.2.0/24",
       enable_dhcp=False, gateway_ip=None)  # fmt: skip
    ports = [
        do(cloud.network.create_port, network_id=lab.facts["id_network_access"],
           security_groups=[], port_security_enabled=False),
        do(cloud.network.create_port, network_id=network.id, binding_vnic_type="direct"),
    ]  # fmt: skip
    server = do(cloud.compute.create_server, name=PREFIX, key_name=PREFIX,
                image_id=lab.facts["id_image_guest"], flavor_id=lab.facts["id_flavor_guest"],
                networks=[{"port": port.id} for port in ports])  # fmt: skip
    do(cloud.compute.wait_for_server, server, wait=120)
    addresses = [port.fixed_ips[0]["ip_address"] for port in ports]
    yield Guest(lab, server.id, *addresses, ports[1].id, network.id)
    do(cloud.compute.delete_server, server)
    do(cloud.compute.wait_for_delete, server)
    for port in ports:
        do(cloud.network.delete_port, port)
    do(cloud.network.delete_network, network)
    do(cloud.compute.delete_keypair, PREFIX)


def test_a_guest_boots_with_a_vf_and_takes_ssh(lab, guest, wait):
    links = json.loads(wait(lambda: guest.ssh("ip -j address"), bool, 60))
    addresses = {a["local"] for link in links for a in link["addr_info"] if a["family"] == "inet"}
    assert {guest.address, guest.vf_address} <= addresses
    assert guest.ssh("sudo -n id -u").strip() == "0"
    port = lab.inside(lab.cloud.network.get_port, guest.vf_port)
    assert port.binding_vif_type == "hw_veb"
    assert port.status == "ACTIVE"
    assert port.binding_profile["physical_network"] == "public"


def _birth(guest):
    """When the guest's own pid 1 started: containers share the kernel's boot id."""
    text = guest.ssh("cat /proc/1/stat")
    return text and text.rpartition(")")[2].split()[19]


@pytest.mark.parametrize("kind", ["SOFT", "HARD"])
def test_reboot_gives_a_new_first_process_and_the_same_disk(lab, guest, wait, kind):
    old = wait(lambda: _birth(guest), bool, 60)
    assert guest.ssh(f"touch /home/debian/kept-{kind}") is not None
    lab.inside(lab.cloud.compute.reboot_server, guest.id, kind)
    wait(lambda: _birth(guest), lambda birth: birth and birth != old, 60)
    wait(guest.status, "ACTIVE", 60)
    assert guest.ssh(f"ls /home/debian/kept-{kind}")


def test_stop_start_and_console(lab, guest, wait):
    lab.inside(lab.cloud.compute.stop_server, guest.id)
    wait(guest.status, "SHUTOFF", 60)
    assert guest.ssh("true") is None
    lab.inside(lab.cloud.compute.start_server, guest.id)
    wait(guest.status, "ACTIVE", 60)
    wait(lambda: guest.ssh("true"), "", 60)
    console = lab.inside(lab.cloud.compute.get_server_console_output, guest.id)
    assert console["output"].strip(), "the console log is empty"


def test_a_crash_is_seen_by_nova(lab, guest, wait):
    done = lab.command("fault", "crash-server", guest.id)
    assert done.returncode == 0, done.stdout
    began = time.monotonic()
    wait(guest.status, "SHUTOFF", 120)
    print(f"Nova saw the crash after {time.monotonic() - began:.0f} s")
    lab.inside(lab.cloud.compute.start_server, guest.id)
    wait(guest.status, "ACTIVE", 60)
    wait(lambda: guest.ssh("true"), "", 60)


def test_no_host_without_vfs_takes_a_vf(lab, guest, wait):
    """compute-3 has none: Nova's own claim must say so (the guest above is the control)."""
    cloud, do = lab.cloud, lab.inside
    port = do(cloud.network.create_port, network_id=guest.vf_network, binding_vnic_type="direct")
    server = do(cloud.compute.create_server, name="no-vf", availability_zone="nova:compute-3",
                image_id=lab.facts["id_image_guest"], flavor_id=lab.facts["id_flavor_guest"],
                networks=[{"port": port.id}])  # fmt: skip
    try:
        status = wait(
            lambda: do(cloud.compute.get_server, server.id).status, lambda s: s != "BUILD", 60
        )
        assert status == "ERROR"
    finally:
        do(cloud.compute.delete_server, server)
        do(cloud.compute.wait_for_delete, server)
        do(cloud.network.delete_port, port)
