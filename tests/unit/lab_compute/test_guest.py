# SPDX-License-Identifier: Apache-2.0
"""What a guest finds on its disk and how it is started."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sriov_lb_lab.compute import console, guestfiles, image, network_config, nspawn, overlay
from sriov_lb_lab.compute.errors import ImageError
from sriov_lb_lab.compute.guestfiles import Contents, Identity

UUID = "0a1b2c3d-1111-4111-8111-111111111111"
PASSWD = "root:x:0:0::/root:/bin/sh\ndebian:x:1000:1001::/home/debian:/bin/bash\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with what every Debian tree has."""
    folder = tmp_path / "root"
    for path in ("etc/ssh", "home/debian", "var", "run"):
        (folder / path).mkdir(parents=True)
    (folder / "etc/passwd").write_text(PASSWD)
    (folder / "var/run").symlink_to("/run")
    return folder


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """Name of each file or folder that was given to someone -> (uid, gid); needs no root."""
    given: dict[str, tuple[int, int]] = {}

    def fchown(descriptor, uid, gid):
        given[Path(os.readlink(f"/proc/self/fd/{descriptor}")).name] = (uid, gid)

    monkeypatch.setattr(os, "fchown", fchown)
    monkeypatch.setattr(os, "chown", lambda path, u, g: given.update({Path(path).name: (u, g)}))
    return given


def write(root: Path, identity: Identity | None = None, **contents) -> None:
    guestfiles.write(root, identity or Identity(UUID, "amp-1", "debian"), Contents(**contents))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_identity(root, owners):
    write(root, Identity(UUID, "amp-1", "debian", "ssh-ed25519 AAAA me\n"))
    assert (root / "etc/machine-id").read_text() == UUID.replace("-", "") + "\n"
    assert (root / "etc/hostname").read_text() == "amp-1\n"
    assert "127.0.1.1 amp-1\n" in (root / "etc/hosts").read_text()
    keys = root / "home/debian/.ssh/authorized_keys"
    assert keys.read_text() == "ssh-ed25519 AAAA me\n"
    assert mode(keys) == 0o600 and mode(keys.parent) == 0o700
    assert owners["authorized_keys"] == (1000, 1001) == owners[".ssh"]
    assert owners["hostname"] == (0, 0)


def test_no_key_no_folder(root, owners):
    write(root)
    assert not (root / "home/debian/.ssh").exists()


def test_missing_login_is_named(root, owners):
    with pytest.raises(ImageError, match="no user 'ubuntu'"):
        write(root, Identity(UUID, "amp-1", "ubuntu", "ssh-ed25519 AAAA"))


def test_each_instance_has_its_own_host_key(root, owners):
    (root / "etc/ssh/ssh_host_rsa_key").write_text("shared")
    (root / "etc/ssh/ssh_host_rsa_key.pub").write_text("shared")
    (root / "etc/ssh/sshd_config").write_text("kept")
    write(root)
    assert (root / "etc/ssh/ssh_host_rsa_key").exists()
    write(root, Identity(UUID, "a", "debian", "", "PRIVATE", "public"))
    assert sorted(os.listdir(root / "etc/ssh")) == [
        "ssh_host_ed25519_key",
        "ssh_host_ed25519_key.pub",
        "sshd_config",
    ]
    assert mode(root / "etc/ssh/ssh_host_ed25519_key") == 0o600


def test_injected_files_and_config_drive(root, owners):
    write(
        root,
        injected=[("/etc/octavia/amphora-agent.conf", b"[DEFAULT]"), ("etc/relative", b"x")],
        config_drive={"openstack/latest/meta_data.json": b"{}"},
    )
    conf = root / "etc/octavia/amphora-agent.conf"
    assert conf.read_bytes() == b"[DEFAULT]" and mode(conf) == 0o660
    assert (root / "etc/relative").read_bytes() == b"x"
    drive = root / "var/lib/cloud/seed/config_drive/openstack/latest/meta_data.json"
    assert drive.read_bytes() == b"{}" and mode(drive) == 0o600


def test_the_pci_bus_is_masked(root, owners):
    write(root)
    unit = root / "etc/systemd/system/sys-bus-pci.mount"
    assert "Where=/sys/bus/pci\nType=tmpfs" in unit.read_text()
    wanted = root / "etc/systemd/system/local-fs.target.wants/sys-bus-pci.mount"
    assert os.readlink(wanted) == "/etc/systemd/system/sys-bus-pci.mount"


@pytest.mark.parametrize(
    ("data", "runs"), [(b"#!/bin/sh\ntrue\n", True), (b"#cloud-config\n", False), (b"", False)]
)
def test_user_data_runs_if_it_is_a_script(root, owners, data, runs):
    write(root, user_data=data)
    script = root / "var/lib/cloud/lab-user-data"
    unit = root / "etc/systemd/system/multi-user.target.wants/lab-user-data.service"
    assert (script.exists(), os.path.lexists(unit)) == (runs, runs)
    if runs:
        assert mode(script) == 0o700 and script.read_bytes() == data


@pytest.mark.parametrize(
    ("link", "target", "path"),
    [
        ("etc/absolute", "/var", "/etc/absolute/file"),
        ("etc/climbing", "../../../../../../var", "/etc/climbing/file"),
        ("etc/plain", "../var", "etc/plain/./file"),
        ("etc/none", "/var", "/../../var/file"),
    ],
)
def test_links_lead_where_the_guest_would_go(root, owners, link, target, path):
    (root / link).symlink_to(target)
    write(root, injected=[(path, b"inside")])
    assert (root / "var/file").read_bytes() == b"inside"


def test_a_link_in_the_place_of_the_file_is_followed_inside(root, owners):
    (root / "etc/resolv.conf").symlink_to("/run/resolv.conf")
    write(root, injected=[("/etc/resolv.conf", b"x"), ("/var/run/pid", b"y")])
    assert (root / "run/resolv.conf").read_bytes() == b"x"
    assert (root / "run/pid").read_bytes() == b"y"


def test_a_circle_of_links_is_refused(root, owners):
    (root / "etc/a").symlink_to("b")
    (root / "etc/b").symlink_to("a")
    with pytest.raises(ImageError, match="circle"):
        write(root, injected=[("/etc/a", b"x")])


def nova_vif(mac="FA:16:3E:00:00:01", mtu=1450, subnets=None):
    return {
        "id": "0a1b2c3d-2222-4222-8222-222222222222",
        "address": mac,
        "type": "ovs",
        "network": {
            "meta": {"mtu": mtu} if mtu else {},
            "subnets": subnets
            if subnets is not None
            else [
                {
                    "cidr": "198.18.16.0/20",
                    "ips": [{"address": "198.18.17.16"}],
                    "gateway": {"address": "198.18.16.1"},
                    "dns": [{"address": "198.18.16.3"}],
                    "routes": [{"cidr": "192.0.2.0/24", "gateway": {"address": "198.18.16.9"}}],
                },
                {
                    "cidr": "2001:db8::/64",
                    "ips": [{"address": "2001:db8::5"}, {"address": "2001:db8::6"}],
                    "gateway": {"address": None},
                    "dns": [],
                },
            ],
        },
    }


def sections(unit: str) -> list[tuple[str, list[str]]]:
    found = []
    for block in unit.strip().split("\n\n"):
        head, *lines = block.splitlines()
        found.append((head, lines))
    return found


def test_network_unit_has_both_families():
    units = network_config.units([nova_vif()])
    assert list(units) == ["/etc/systemd/network/10-lab-0.network"]
    match, link, network, default, static = sections(units["/etc/systemd/network/10-lab-0.network"])
    assert match == ("[Match]", ["MACAddress=fa:16:3e:00:00:01"])
    assert link == ("[Link]", ["MTUBytes=1450", "RequiredForOnline=routable"])
    for line in (
        "Address=198.18.17.16/20",
        "Address=2001:db8::5/64",
        "Address=2001:db8::6/64",
        "DNS=198.18.16.3",
        "DHCP=no",
        "IPv6AcceptRA=no",
    ):
        assert line in network[1], network
    assert default == ("[Route]", ["Gateway=198.18.16.1", "Metric=100"])
    assert static == ("[Route]", ["Destination=192.0.2.0/24", "Gateway=198.18.16.9"])


def test_the_first_interfaces_gateway_wins():
    units = network_config.units([nova_vif(), nova_vif("fa:16:3e:00:00:02", mtu=None)])
    second = units["/etc/systemd/network/10-lab-1.network"]
    assert "Metric=200" in second and "MTUBytes" not in second


def test_an_interface_without_addresses_is_left_without():
    unit = network_config.unit(nova_vif(subnets=[]), 0)
    assert "Address=\n" not in unit and "[Route]" not in unit and "MACAddress" in unit
    assert "RequiredForOnline" not in unit


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"QFI\xfb\x00\x00", "Decode"),
        (b'{"format": "qcow2", "tree": "x"}', "format is 'qcow2'"),
        (b'{"format": "sriov-lb-lab-tree"}', "tree"),
        (b"[]", "indices"),
    ],
)
def test_other_images_are_refused(data, complaint):
    with pytest.raises(ImageError, match=complaint) as refusal:
        image.parse([data], "image-1")
    assert "image-1" in str(refusal.value) and "sriov-lb-lab-tree" in str(refusal.value)


def test_a_descriptor_in_chunks():
    data = b'{"format": "sriov-lb-lab-tree", "tree": "guest-1", "user": "cloud"}'
    assert image.parse([data[:9], data[9:]], "i") == image.Descriptor("guest-1", "cloud")
    assert image.parse([data.replace(b', "user": "cloud"', b"")], "i").user == "debian"


def test_a_disk_image_is_not_read_to_its_end():
    def endless():
        while True:
            yield b"x" * 65536

    with pytest.raises(ImageError):
        image.parse(endless(), "image-1")


@pytest.mark.parametrize("name", ["", "../etc", "a/b", ".hidden"])
def test_a_tree_is_a_plain_name(tmp_path, name):
    with pytest.raises(ImageError, match="no plain folder name"):
        overlay.tree(tmp_path, name)


def test_a_tree_must_hold_a_system(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="holds no operating system"):
        overlay.tree(tmp_path, "empty")
    (tmp_path / "guest/usr/lib").mkdir(parents=True)
    (tmp_path / "guest/usr/lib/os-release").write_text("ID=debian\n")
    assert overlay.tree(tmp_path, "guest") == tmp_path / "guest"


def test_overlay_is_mounted_once(tmp_path, programs, monkeypatch):
    seen = programs(overlay)
    target = overlay.mount(tmp_path / "i", tmp_path / "tree")
    assert target == tmp_path / "i/root"
    (mount,) = seen
    assert f"lowerdir={tmp_path}/tree,upperdir={tmp_path}/i/upper" in mount[4]
    monkeypatch.setattr(overlay, "is_mounted", lambda folder: True)
    overlay.mount(tmp_path / "i", tmp_path / "tree")
    assert len(seen) == 1
    overlay.unmount(tmp_path / "i")
    assert seen[1][0] == "umount"


def test_nspawn_leaves_the_machine_alone():
    argv = nspawn.command(Path("/i/root"), "inst-1", "amp-1", "/run/netns/inst-1")
    assert argv[0] == "systemd-nspawn"
    for flag in (
        "--register=no",
        "--keep-unit",
        "--capability=all",
        "--network-namespace-path=/run/netns/inst-1",
        "--hostname=amp-1",
        "--boot",
    ):
        assert flag in argv
    assert nspawn.ENVIRONMENT == {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}


def test_console(tmp_path):
    assert console.tail(tmp_path) == b""
    console.path(tmp_path).write_bytes(b"a" * 10 + b"end")
    assert console.tail(tmp_path, 5) == b"aaend"
    console.trim(tmp_path)
    assert console.path(tmp_path).stat().st_size == 13
    console.path(tmp_path).write_bytes(b"a" * (console.KEPT + 7) + b"end")
    console.trim(tmp_path)
    assert console.path(tmp_path).stat().st_size == console.KEPT
    assert console.tail(tmp_path).endswith(b"end") and len(console.tail(tmp_path)) == console.SHOWN


def test_the_guest_believes_in_its_flavor_s_memory(root, owners):
    write(root, memory_mb=1024)
    lines = dict(
        line.split(":") for line in (root / "etc/lab-meminfo").read_text().splitlines()
    )
    assert lines["MemTotal"].split() == ["1048576", "kB"]
    # All that an amphora's agent reads.
    assert {"MemFree", "Buffers", "Cached", "SwapCached", "Shmem", "Slab"} <= set(lines)
    wanted = root / "etc/systemd/system/sysinit.target.wants/lab-meminfo.service"
    assert os.readlink(wanted) == "/etc/systemd/system/lab-meminfo.service"
    unit = (root / "etc/systemd/system/lab-meminfo.service").read_text()
    assert "mount --bind /etc/lab-meminfo /proc/meminfo" in unit


def test_without_a_size_the_machine_s_memory_shows(root, owners):
    write(root)
    assert not (root / "etc/lab-meminfo").exists()
