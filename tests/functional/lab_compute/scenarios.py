# SPDX-License-Identifier: Apache-2.0
"""What instances on a simulated host must do; each function is one scenario, run on a fresh host."""

from __future__ import annotations

import os
import signal

from simulated_host import (
    SimulatedHost,
    await_booted,
    await_true,
    in_guest,
    ovs_vif,
    run,
    vf_vif,
)
from sriov_lb_lab.compute.container import State
from sriov_lb_lab.compute.hostfile import HostFile


def life(host: SimulatedHost, host_file: HostFile) -> None:
    """Boot, look inside, shut down, boot again, remove."""
    one = host.instance(host_file, vifs=(ovs_vif(1), vf_vif(1)))
    assert one.state() is State.SHUTDOWN
    one.start()
    assert one.state() is State.RUNNING
    await_booted(one)
    names = in_guest(one, "ip", "-br", "link")
    assert "ens3" in names and "ens4" in names, names
    print(names, one.folder)
    print(in_guest(one, "sh", "-c", "mount | grep pci; cat /proc/1/cgroup | head -3"))
    print(host.vsctl("show"))
    assert one.stop(60), "the guest did not shut down by itself"
    assert one.state() is State.SHUTDOWN
    one.start()
    await_booted(one)
    one.destroy()
    assert not os.path.exists(one.folder)
