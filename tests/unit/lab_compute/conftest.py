# SPDX-License-Identifier: Apache-2.0
"""A host file, and stand-ins for the programs that would change the machine."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sriov_lb_lab.compute.hostfile import HostFile
from sriov_lb_lab.substrate.base import Attachment, Capabilities, PhysicalFunction, Substrate

if importlib.util.find_spec("oslo_service") is not None:
    # Nova would choose one kind of threads and Neutron the other; a process has only one.
    from oslo_service import backend

    backend.init_backend(backend.BackendType.THREADING)

PF = {
    "physnet": "public",
    "device": "pf-public",
    "address": "0000:81:00.0",
    "vendor_id": "8086",
    "pf_product_id": "1572",
    "vf_product_id": "154c",
    "vfs": [{"address": "0000:81:02.0", "index": 0}, {"address": "0000:81:02.1", "index": 1}],
}


@pytest.fixture
def host_values(tmp_path: Path) -> dict[str, Any]:
    """The host file's contents."""
    return {
        "lab": "test",
        "host": "compute-1",
        "substrate": "macvlan",
        "cgroup": "sriov-lb-lab-test",
        "instances": str(tmp_path / "instances"),
        "trees": str(tmp_path / "trees"),
        "ovs": {"db": "unix:/nowhere/db.sock", "integration_bridge": "br-int"},
        "pfs": [PF],
        "run": str(tmp_path / "run"),
    }


@pytest.fixture
def host(tmp_path: Path, host_values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> HostFile:
    """A host with one PF and two VFs."""
    path = tmp_path / "compute-1.json"
    path.write_text(json.dumps(host_values))
    monkeypatch.setenv("SRIOV_LB_LAB_HOST_FILE", str(path))
    return HostFile.read()


class FakeSubstrate(Substrate):
    """VFs as entries of a dictionary: PCI address -> (attachment, name, mtu).

    ``failing`` is raised by the next plug; ``up`` holds link states that were set.
    """

    name = "fake"
    capabilities = Capabilities(
        anti_spoof=False, vlan=False, trust=False, link_state=True, rate=False, pci=False
    )

    def __init__(self, pfs: tuple[PhysicalFunction, ...], records: Path) -> None:
        super().__init__(pfs, records)
        self.plugged: dict[str, tuple[Attachment, str, int]] = {}
        self.failing: Exception | None = None
        self.up: dict[str, bool] = {}

    def is_present(self, attachment: Attachment) -> bool:
        return attachment.address in self.plugged

    def set_link_state(self, address: str, up: bool) -> None:
        self.up[address] = up

    def _plug(self, attachment: Attachment, name: str, mtu: int) -> None:
        if self.failing:
            raise self.failing
        self.plugged[attachment.address] = (attachment, name, mtu)

    def _unplug(self, attachment: Attachment) -> None:
        self.plugged.pop(attachment.address, None)


@pytest.fixture
def substrate(host: HostFile) -> FakeSubstrate:
    """The host's VFs, without a network."""
    return FakeSubstrate(host.pfs, host.run / "vf")


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """``programs(module)`` replaces ``module.run``; returned is the list of what was run.

    An exception given as ``fail={"word": exception}`` is raised by commands with that word.
    """

    def install(module: Any, fail: dict[str, Exception] | None = None) -> list[list[str]]:
        seen: list[list[str]] = []

        def run(*argv: str, netns: str | None = None, timeout: float = 0) -> str:
            seen.append([*([f"@{netns}"] if netns else []), *argv])
            for word, failure in (fail or {}).items():
                if word in argv:
                    raise failure
            return ""

        monkeypatch.setattr(module, "run", run)
        return seen

    return install
