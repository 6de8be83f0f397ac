# SPDX-License-Identifier: Apache-2.0
"""Give a simulated host's Open vSwitch its provider bridges, then become its Neutron agent.

``python3 -m sriov_lb_lab.switch HOST -- COMMAND ...``; safe to repeat, as a restart of the agent
does.
"""

from __future__ import annotations

import os
import subprocess
import sys

from sriov_lb_lab.settings import HOSTS, PHYSNETS


def main(argv: list[str]) -> None:
    """Bridges ``br-PHYSNET`` with the uplink ``ovs-PHYSNET``, in the userspace datapath."""
    host = next(host for host in HOSTS if host.name == argv[0])
    vsctl = ["ovs-vsctl", "--timeout=60", f"--db={host.ovsdb}"]
    subprocess.run([*vsctl, "--no-wait", "init"], check=True)
    for net in PHYSNETS:
        subprocess.run(
            [
                *vsctl,
                "--may-exist", "add-br", f"br-{net.name}",
                "--", "set", "bridge", f"br-{net.name}", "datapath_type=netdev",
                "--", "--may-exist", "add-port", f"br-{net.name}", f"ovs-{net.name}",
            ],
            check=True,
        )  # fmt: skip
    command = argv[argv.index("--") + 1 :]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
