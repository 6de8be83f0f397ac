# SPDX-License-Identifier: Apache-2.0
"""Interfaces of an instance: made, put into its network namespace, taken away again.

Two kinds. A normal port is a veth pair, one end in the host's integration bridge with what
Neutron's agent looks for in ``external_ids``. A direct port is a VF, which the substrate plays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sriov_lb_lab.compute.errors import ComputeError
from sriov_lb_lab.compute.hostfile import HostFile
from sriov_lb_lab.compute.records import OVS, VF, Vif
from sriov_lb_lab.substrate import links
from sriov_lb_lab.substrate.base import Substrate
from sriov_lb_lab.substrate.execute import run
from sriov_lb_lab.substrate.scope import GuestScope

DEFAULT_MTU = 1500

# Seconds to wait for the switch: it answers in milliseconds or not at all.
SWITCH_TIMEOUT = 10

# As udev would name the first NICs of a virtual machine: ens3, ens4, ...
FIRST_SLOT = 3


def from_nova(vif: Mapping[str, Any], taken: Iterable[str]) -> Vif:
    """Understand one entry of Nova's network_info.

    :param taken: names of the instance's other interfaces.
    :raises ComputeError: its ``type`` is one that cannot be plugged here.
    """
    network = vif["network"]
    common = {
        "id": vif["id"],
        "mac": vif["address"].lower(),
        "mtu": int((network.get("meta") or {}).get("mtu") or DEFAULT_MTU),
        "name": free_name(taken),
    }
    if vif["type"] == "ovs":
        return Vif(**common, kind=OVS, device=vif.get("devname") or f"tap{vif['id'][:11]}")
    if vif["type"] == "hw_veb":
        return Vif(**common, kind=VF, device=vif["profile"]["pci_slot"])
    raise ComputeError(
        f"port {vif['id']} is bound as {vif['type']!r}; this host plugs 'ovs' (vnic_type normal) "
        "and 'hw_veb' (vnic_type direct)",
        "look at the port's binding, and whether Neutron's agents on this host are alive",
    )


def free_name(taken: Iterable[str]) -> str:
    """The first free name in the guest."""
    used = set(taken)
    slot = FIRST_SLOT
    while f"ens{slot}" in used:
        slot += 1
    return f"ens{slot}"


class Plugger:
    """Plugs and unplugs interfaces on one host.

    :param host: the host file.
    :param substrate: what plays the VF there.
    """

    def __init__(self, host: HostFile, substrate: Substrate) -> None:
        self._host = host
        self._substrate = substrate

    def plug(self, vif: Vif, owner: str, scope: GuestScope) -> None:
        """Make an interface appear in the guest's own namespace. All of it happens, or nothing.

        :param owner: the instance's uuid.
        """
        if vif.kind == VF:
            self._substrate.attach(vif.device, vif.mac, vif.name, vif.mtu, owner, scope)
            return
        self._unplug_ovs(vif)
        try:
            self._plug_ovs(vif, owner, scope)
        except BaseException:
            self._unplug_ovs(vif)
            raise

    def unplug(self, vif: Vif, owner: str) -> None:
        """Take an interface away, wherever in the guest it is; no error if it is gone.

        A VF that meanwhile belongs to another instance is left alone.
        """
        if vif.kind == OVS:
            self._unplug_ovs(vif)
        elif (present := self._substrate.attachment(vif.device)) and present.owner == owner:
            self._substrate.detach(vif.device)

    def is_plugged(self, vif: Vif, owner: str) -> bool:
        """Whether the host's side of it is there."""
        if vif.kind == OVS:
            return links.exists(vif.device)
        present = self._substrate.attachment(vif.device)
        return present is not None and present.owner == owner

    def _plug_ovs(self, vif: Vif, owner: str, scope: GuestScope) -> None:
        mtu = str(vif.mtu)
        run(
            *("ip", "link", "add", vif.device, "mtu", mtu, "type", "veth"),
            *("peer", "name", vif.name, "address", vif.mac, "mtu", mtu, "netns", scope.netns),
        )
        # The userspace switch sees frames before any "hardware" has filled in their checksums, and
        # its conntrack calls such segments invalid. So the guest's end must fill them in itself.
        run("ethtool", "-K", vif.name, "tx", "off", netns=scope.netns)
        # The host's end is a switch port: it must not speak (neighbour discovery, MLD) itself.
        run("ip", "link", "set", "dev", vif.device, "addrgenmode", "none", "up")
        ids = {
            "iface-id": vif.id,
            "iface-status": "active",
            "attached-mac": vif.mac,
            "vm-uuid": owner,
            "vm-id": owner,
        }
        self._vsctl(
            *("--may-exist", "add-port", self._host.integration_bridge, vif.device),
            *("--", "set", "Interface", vif.device, f"mtu_request={mtu}"),
            # Quoted, because ovs-vsctl would read the colons of a MAC as a map's.
            *(f'external_ids:{key}="{value}"' for key, value in ids.items()),
        )

    def _unplug_ovs(self, vif: Vif) -> None:
        try:
            self._vsctl("--if-exists", "del-port", self._host.integration_bridge, vif.device)
        finally:
            # The other end goes with it, in whatever namespace; also while the switch is dead.
            links.delete(vif.device)

    def _vsctl(self, *argv: str) -> None:
        run("ovs-vsctl", f"--db={self._host.ovs_db}", f"--timeout={SWITCH_TIMEOUT}", "--", *argv)
