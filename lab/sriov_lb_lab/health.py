# SPDX-License-Identifier: Apache-2.0
"""Is the lab well? Asked inside, of the services themselves.

``python -m sriov_lb_lab.health`` prints JSON ``{"unwell": {name: reason}, "hosts": {...}}``. A
service is well when its process runs, its API answers, and the cloud itself counts it as alive.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from typing import Any

import openstack

from sriov_lb_lab.paths import INSIDE_LAB
from sriov_lb_lab.programs import everything
from sriov_lb_lab.settings import HOSTS, VFS_PER_PF
from sriov_lb_lab.supervisor import Supervisor


def main() -> None:
    """Print the state as JSON; exit 0 whatever it is."""
    unwell = _processes()
    for program in everything():
        if program.url and program.name not in unwell:
            reason = _http(program.url)
            if reason:
                unwell[program.name] = reason
    hosts: dict[str, Any] = {}
    if not {"keystone", "nova-api", "neutron-api"} & set(unwell):
        unwell.update(_cloud(hosts))
    json.dump({"unwell": unwell, "hosts": hosts}, sys.stdout)


def _processes() -> dict[str, str]:
    return {
        process["name"]: f"process is {process['statename']} {process['spawnerr']}".strip()
        for process in Supervisor(INSIDE_LAB / "supervisor.sock").processes()
        if process["statename"] != "RUNNING"
    }


def _http(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return ""
    except urllib.error.HTTPError as error:
        # 300 (version list) and 401 are answers of a service that works.
        return "" if error.code < 500 else f"{url} answers {error.code}"
    except OSError as error:
        return f"{url}: {error}"


def _cloud(hosts: dict[str, Any]) -> dict[str, str]:
    known = openstack.config.OpenStackConfig(
        config_files=[str(INSIDE_LAB / "clouds.yaml")], load_envvars=False
    )
    cloud = openstack.connection.Connection(config=known.get_one("lab-admin"))
    unwell = {}
    seen: dict[str, dict[str, bool]] = {host.name: {} for host in HOSTS}
    for service in cloud.compute.services():
        if service.binary == "nova-compute":
            seen.setdefault(service.host, {})["nova-compute"] = service.state == "up"
    for agent in cloud.network.agents():
        seen.setdefault(agent.host, {})[agent.binary] = bool(agent.is_alive)
    mapped = {hypervisor.name for hypervisor in cloud.compute.hypervisors()}
    for host in HOSTS:
        wanted = {"nova-compute": "nova-compute", "neutron-openvswitch-agent": "neutron-ovs-agent"}
        if host.sriov:
            wanted["neutron-sriov-nic-agent"] = "neutron-sriov-agent"
        for binary, program in wanted.items():
            if not seen[host.name].get(binary):
                unwell[f"{host.name}.{program}"] = f"the cloud does not see {binary} alive"
        if host.name not in mapped:
            unwell.setdefault(f"{host.name}.nova-compute", "Nova has not taken the host in yet")
        hosts[host.name] = {
            "sriov": host.sriov,
            "vfs": sum(len(pf["vfs"]) for pf in host.pfs()),
            "vfs_per_pf": VFS_PER_PF if host.sriov else 0,
        }
    return unwell


if __name__ == "__main__":
    main()
