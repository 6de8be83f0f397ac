# SPDX-License-Identifier: Apache-2.0
"""A simulated host to try instances on, in namespaces of its own.

To be started by :func:`unshared`; everything it makes ends with its first process. The scenarios
it runs are the functions of ``scenarios.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sriov_lb_lab.compute.container import Container
from sriov_lb_lab.compute.hostfile import VARIABLE, HostFile
from sriov_lb_lab.compute.records import OVS, VF, Instance, Vif
from sriov_lb_lab.substrate.scope import hierarchies

# $0 scenario, $1 base, $2 system, $3 tree, $4 this folder, $5 the lab's code, $6 v2 or as-is
INSIDE_THE_SYSTEM = """
mount --make-rprivate /
root=$1/system
mkdir -p $root $1/system-upper $1/system-work
mount -t overlay -o lowerdir=$2,upperdir=$1/system-upper,workdir=$1/system-work overlay $root
mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
if [ $6 = v2 ]; then mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
else mount --rbind /sys/fs/cgroup $root/sys/fs/cgroup; fi
mount --rbind /dev $root/dev
mount -t tmpfs tmpfs $root/run
mount -t tmpfs tmpfs $root/tmp
for pair in $1:/mnt/base $(dirname $3):/mnt/trees $4:/mnt/tests $5:/mnt/lab; do
  mkdir -p $root${pair#*:}
  mount --bind ${pair%:*} $root${pair#*:}
done
mkdir -p $root/mnt/old
cd $root
pivot_root . mnt/old
export PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH=/mnt/lab PYTHONDONTWRITEBYTECODE=1 HOME=/root
exec chroot . sh -euc 'umount --lazy /mnt/old
exec python3 /mnt/tests/simulated_host.py "$0" /mnt/base "/mnt/trees/$1"' $0 $(basename $3)
"""

VF_ADDRESSES = ("0000:81:02.0", "0000:81:02.1")
FABRIC = "fab-public"


class SimulatedHost:
    """One host with an Open vSwitch, one PF with two VFs, and a fabric bridge both hang on.

    :param base: an empty folder on a file system that can hold an overlay's upper folder.
    :param tree: root folder of a Debian system that boots.
    """

    def __init__(self, base: Path, tree: Path) -> None:
        self.base = base
        self.tree = tree
        self.run_folder = Path("/run/lab/compute-1")
        self.ovs_db = f"unix:{self.run_folder}/ovs/db.sock"
        # Known to whoever started us, who removes what is left of it.
        self.cgroup = (
            os.environ.get("TEST_CGROUP") or f"sriov-lb-lab-test-{time.time_ns() % 10**12}"
        )

    def start(self) -> HostFile:
        """Make it, and return its host file."""
        for folder in ("/run/netns", "/run/lock", str(self.run_folder / "ovs")):
            os.makedirs(folder)
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", FABRIC, "type", "bridge", "mcast_snooping", "0")
        run("ip", "addr", "add", "192.0.2.1/24", "dev", FABRIC)
        run("ip", "link", "set", FABRIC, "up")
        for far in ("pf-public", "ovs-public"):
            run("ip", "link", "add", f"x-{far}", "type", "veth", "peer", "name", far)
            run("ip", "link", "set", f"x-{far}", "master", FABRIC, "up")
            run("ip", "link", "set", far, "up")
            for end in (far, f"x-{far}"):
                run("ethtool", "-K", end, "tx", "off")
        self._start_switch()
        return self._write_host_file()

    def _start_switch(self) -> None:
        folder = self.run_folder / "ovs"
        schema = "/usr/share/openvswitch/vswitch.ovsschema"
        run("ovsdb-tool", "create", f"{folder}/conf.db", schema)
        environment = {**os.environ, "OVS_RUNDIR": str(folder), "OVS_LOGDIR": str(folder)}
        log = open(folder / "log", "ab")  # noqa: SIM115 - both daemons keep it
        for argv in (
            ["ovsdb-server", f"{folder}/conf.db", f"--remote=p{self.ovs_db}"],
            ["ovs-vswitchd", self.ovs_db, "--disable-system"],
        ):
            subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
            await_true(lambda: os.path.exists(f"{folder}/db.sock"), 10)
        self.vsctl("add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev")
        self.vsctl("add-port", "br-int", "ovs-public")

    def _write_host_file(self) -> HostFile:
        path = self.base / "compute-1.json"
        pf = {
            "physnet": "public",
            "device": "pf-public",
            "address": "0000:81:00.0",
            "vendor_id": "8086",
            "pf_product_id": "1572",
            "vf_product_id": "154c",
            "vfs": [{"address": one, "index": n} for n, one in enumerate(VF_ADDRESSES)],
        }
        path.write_text(
            json.dumps(
                {
                    "lab": "test",
                    "host": "compute-1",
                    "substrate": "macvlan",
                    "cgroup": self.cgroup,
                    "instances": str(self.base / "instances"),
                    "trees": str(self.tree.parent),
                    "ovs": {"db": self.ovs_db, "integration_bridge": "br-int"},
                    "pfs": [pf],
                }
            )
        )
        os.environ[VARIABLE] = str(path)
        return HostFile.read()

    def vsctl(self, *argv: str) -> str:
        """Run ovs-vsctl on this host's switch."""
        return run("ovs-vsctl", f"--db={self.ovs_db}", "--timeout=20", *argv)

    def instance(self, host: HostFile, number: int = 1, vifs: tuple[Vif, ...] = ()) -> Container:
        """Define an instance; its interfaces are what ``vifs`` says."""
        uuid = f"{number:08x}-1111-4111-8111-111111111111"
        container = Container(host, uuid)
        container.store.save(
            Instance(uuid, f"instance-{number:08x}", f"guest-{number}", self.tree.name, vifs)
        )
        return container


def ovs_vif(number: int, name: str = "ens3") -> Vif:
    """A normal port."""
    port = f"{number:08x}-2222-4222-8222-222222222222"
    return Vif(port, OVS, f"fa:16:3e:00:00:{number:02x}", 1450, name, f"tap{port[:11]}")


def vf_vif(number: int, name: str = "ens4", address: str = VF_ADDRESSES[0]) -> Vif:
    """A direct port."""
    port = f"{number:08x}-3333-4333-8333-333333333333"
    return Vif(port, VF, f"fa:16:3e:00:01:{number:02x}", 1450, name, address)


def run(*argv: str) -> str:
    """Run a program; its output, or an exception with what it said."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(argv)}: status {done.returncode}: {done.stderr}")
    return done.stdout


def in_guest(container: Container, *argv: str) -> str:
    """Run a program in a running guest, as root."""
    leader = container.leader()
    assert leader is not None, f"instance {container.uuid} is not running"
    return run("nsenter", f"--target={leader}", "-m", "-u", "-i", "-n", "-p", "--", *argv)


def await_true(condition: Callable[[], object], seconds: float) -> None:
    """Wait until ``condition()`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not come true in {seconds} s"
        time.sleep(0.05)


def await_booted(container: Container, seconds: float = 60) -> None:
    """Wait until the guest's systemd is up."""

    def up() -> bool:
        try:
            state = subprocess.run(
                ["nsenter", f"--target={container.leader()}", "-m", "-u", "-i", "-n", "-p", "--"]
                + ["systemctl", "is-system-running"],
                capture_output=True,
                text=True,
                check=False,
            ).stdout.strip()
        except OSError:
            return False
        return state in ("running", "degraded")

    await_true(up, seconds)


def unshared(
    scenario: str, base: Path, system: Path, tree: Path, cgroup_v2: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run one scenario in namespaces of its own; whatever it left is gone when this returns.

    :param base: an empty folder on a file system that can hold an overlay's upper folder.
    :param system: tree with systemd-nspawn, Open vSwitch and so on; becomes the root.
    :param tree: tree that instances boot.
    :param cgroup_v2: show only the v2 hierarchy, as a machine without v1 would.
    """
    here = Path(__file__).parent
    return subprocess.run(
        ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--mount-proc"]
        + ["--kill-child", "sh", "-euc", INSIDE_THE_SYSTEM, scenario, str(base), str(system)]
        + [str(tree), str(here), str(here.parents[2] / "lab"), "v2" if cgroup_v2 else "as-is"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def remove_cgroups(name: str) -> None:
    """Remove what cgroup folders a scenario left."""
    from sriov_lb_lab.compute import cgroups

    cgroups.remove(name)


def main(argv: list[str]) -> None:
    """Run one scenario on a fresh host."""
    scenario, base, tree = argv
    import scenarios

    host = SimulatedHost(Path(base), Path(tree))
    host_file = host.start()
    print("cgroup hierarchies:", *map(str, hierarchies()))
    try:
        getattr(scenarios, scenario)(host, host_file)
    finally:
        for instance in list(Container(host_file, "none").store):
            Container(host_file, instance.uuid).destroy()
        shutil.rmtree(host_file.instances, ignore_errors=True)
        remove_cgroups(host.cgroup)


if __name__ == "__main__":
    main(sys.argv[1:])
