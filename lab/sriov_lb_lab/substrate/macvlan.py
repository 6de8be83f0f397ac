# SPDX-License-Identifier: Apache-2.0
"""Substrate ``macvlan``: a macvlan in bridge mode on the PF's device plays the VF.

It has a MAC of its own and is switched at the PF, with neither a host bridge nor Open vSwitch in
its path: of all software devices the closest to a VF behind a NIC's embedded switch. It is not a
VF. It checks no source address, knows no VLAN set by the host, no trust and no rate, and is no
PCI device.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from sriov_lb_lab.substrate import links
from sriov_lb_lab.substrate.base import Attachment, Capabilities, PhysicalFunction, Substrate
from sriov_lb_lab.substrate.errors import CommandFailed, SubstrateError
from sriov_lb_lab.substrate.execute import run

# A namespace of a guest that ended is taken apart in the background; until then its macvlan keeps
# the MAC, and a second one on the same PF cannot be opened.
MAC_RELEASE_TIMEOUT = 10.0

# Seconds for which a device that was seen is not looked for again.
LOOK_AGAIN = 10.0


class Macvlan(Substrate):
    """VFs as macvlan devices."""

    name = "macvlan"
    capabilities = Capabilities(
        anti_spoof=False, vlan=False, trust=False, link_state=True, rate=False, pci=False
    )

    def __init__(self, pfs: Sequence[PhysicalFunction], records: Path) -> None:
        super().__init__(pfs, records)
        self._seen: dict[str, tuple[Attachment, float, str]] = {}

    def is_present(self, attachment: Attachment) -> bool:
        """Whether the device is in any namespace of its guest.

        Where it was found a moment ago it is taken to be while that namespace is there: the SR-IOV
        NIC agent asks once a second for each VF, and looking means starting a program.
        """
        seen = self._seen.get(attachment.address)
        if seen is not None and seen[0] == attachment:
            _, since, where = seen
            if time.monotonic() - since < LOOK_AGAIN and where in attachment.scope.namespaces():
                return True
        found = self._find(attachment)
        if found is None:
            self._seen.pop(attachment.address, None)
            return False
        self._seen[attachment.address] = (attachment, time.monotonic(), found[0])
        return True

    def set_link_state(self, address: str, up: bool) -> None:
        """Give or take the carrier (protodown), wherever in the guest the device is."""
        attachment = self.attachment(address)
        found = self._find(attachment) if attachment else None
        if found is None:
            raise SubstrateError(f"VF {address} has no device whose link state could be set")
        netns, name = found
        run("ip", "link", "set", "dev", name, "protodown", "off" if up else "on", netns=netns)

    def _plug(self, attachment: Attachment, name: str, mtu: int) -> None:
        pf, vf = self.parent(attachment.address)
        # Made beside the PF first, as a VF is: the guest sees it appear once, complete.
        staged = f"vf{vf.index}-{pf.device}"[:15]
        run(
            *("ip", "link", "add", "link", pf.device, "name", staged),
            *("address", attachment.mac, "mtu", str(mtu), "type", "macvlan", "mode", "bridge"),
        )
        try:
            run("ip", "link", "set", "dev", staged, "alias", _alias(attachment))
            self._await_free_mac(staged)
            run("ip", "link", "set", "dev", staged, "netns", attachment.netns, "name", name)
        except BaseException:
            # The kernel moves first and renames then: with the name taken it is in the guest.
            if not links.delete(staged):
                self._unplug(attachment)
            raise

    def _await_free_mac(self, staged: str) -> None:
        """Open and close the device until the PF accepts its MAC, without a frame leaving it."""
        run("ip", "link", "set", "dev", staged, "addrgenmode", "none")
        deadline = time.monotonic() + MAC_RELEASE_TIMEOUT
        while True:
            try:
                run("ip", "link", "set", "dev", staged, "up")
                break
            except CommandFailed as failure:
                busy = "Address already in use" in failure.stderr
                if not busy or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        run("ip", "link", "set", "dev", staged, "down")

    def _unplug(self, attachment: Attachment) -> None:
        found = self._find(attachment)
        if found is not None:
            netns, name = found
            try:
                links.delete(name, netns)
            except CommandFailed:
                # The guest died at this moment and took the namespace along.
                if self._find(attachment) is not None:
                    raise

    def _find(self, attachment: Attachment) -> tuple[str, str] | None:
        return links.find_by_alias(_alias(attachment), attachment.scope.namespaces())


def _alias(attachment: Attachment) -> str:
    """What names the device for good: a guest renames and moves it, but leaves the alias alone."""
    return f"vf {attachment.address} {attachment.owner}"
