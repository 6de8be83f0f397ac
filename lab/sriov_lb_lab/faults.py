# SPDX-License-Identifier: Apache-2.0
"""Faults on purpose; run inside the lab as ``python -m sriov_lb_lab.faults WHAT WHOM``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from sriov_lb_lab.paths import INSIDE_LAB
from sriov_lb_lab.programs import compute_host
from sriov_lb_lab.settings import HOSTS, PHYSNETS, Host
from sriov_lb_lab.substrate import scope
from sriov_lb_lab.supervisor import Supervisor


def crash_server(server: str) -> None:
    """Kill the first process of an instance, as a kernel panic would end it."""
    pid = scope.leader(_cgroup(server))
    if pid is None:
        raise SystemExit(f"server {server} has no running process")
    os.kill(pid, signal.SIGKILL)
    print(f"killed the first process of {server}")


def _cgroup(server: str) -> str:
    top = scope.hierarchies()[0]
    for folder in top.glob(f"sriov-lb-lab-*/*/{server}"):
        return str(folder.relative_to(top))
    raise SystemExit(f"no instance {server} is running; 'openstack server list --all' names them")


def _cables(host: Host) -> list[str]:
    names = [f"ctl-{host.number}"] + [f"{net.name}-{host.number}" for net in PHYSNETS]
    return names + [f"{pf['physnet']}-{host.number}pf" for pf in host.pfs()]


def _switch(host: Host, state: str) -> None:
    for cable in _cables(host):
        subprocess.run(["ip", "link", "set", cable, state], check=True)


def cut_off(host: Host) -> None:
    """Take down the controller's ends of a host's cables."""
    _switch(host, "down")
    print(f"{host.name} is cut off")


def kill_host(host: Host) -> None:
    """Cut a host off, kill its services and every instance on it."""
    _switch(host, "down")
    supervisor = Supervisor(INSIDE_LAB / "supervisor.sock")
    for program in compute_host(host):
        supervisor.stop(program.name)
    top = scope.hierarchies()[0]
    for folder in top.glob(f"sriov-lb-lab-*/{host.name}/*"):
        pid = scope.leader(str(folder.relative_to(top)))
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    print(f"{host.name} is dead")


def restore(host: Host) -> None:
    """Undo :func:`cut_off` and :func:`kill_host`."""
    _switch(host, "up")
    supervisor = Supervisor(INSIDE_LAB / "supervisor.sock")
    running = {p["name"] for p in supervisor.processes() if p["statename"] == "RUNNING"}
    for program in compute_host(host):
        if program.name not in running:
            supervisor.start(program.name)
    print(f"{host.name} is back")


def main(what: str, whom: str) -> None:
    """Dispatch."""
    if what == "crash-server":
        crash_server(Path(whom).name)
        return
    host = next((host for host in HOSTS if host.name == whom), None)
    if host is None:
        raise SystemExit(f"no host {whom!r}; there are {', '.join(host.name for host in HOSTS)}")
    {"cut-off": cut_off, "kill-host": kill_host, "restore": restore}[what](host)


if __name__ == "__main__":
    main(*sys.argv[1:3])
