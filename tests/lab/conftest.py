# SPDX-License-Identifier: Apache-2.0
"""One lab for all tests here, and what the host looks like from outside it.

The lab is brought up through its command, as its user would, under a name of its own: a lab that
somebody runs beside it is left alone. Its trees come from the usual cache.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import openstack
import paramiko
import pytest
from pyroute2 import netns

ROOT = Path(__file__).parents[2]
NAME = "check"
BIN = Path(sys.executable).parent


class Lab:
    """A running lab, driven through its command line, its APIs and ssh."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._thread: ThreadPoolExecutor | None = None

    def command(self, *arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """``sriov-lb-lab --name NAME ARGUMENTS``, both streams in ``stdout``."""
        return subprocess.run(
            [str(BIN / "sriov-lb-lab"), "--name", self.name, *arguments],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
        )  # fmt: skip

    def exec(
        self,
        argv: list[str],
        *,
        cloud: str = "lab-admin",
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 900,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of this machine in the lab's network; stderr goes to ``stderr``."""
        return subprocess.run(
            [str(BIN / "sriov-lb-lab"), "--name", self.name, "exec", "--cloud", cloud, "--", *argv],
            text=True, capture_output=True, cwd=cwd, timeout=timeout,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **(env or {})},
        )  # fmt: skip

    def inside(self, function, *arguments, **options):
        """Call a function in a thread of this process that is in the lab's network.

        An API call costs milliseconds that way, where a command costs seconds.
        """
        if self._thread is None:
            pid = json.loads(self.command("status", "--json").stdout)["pid"]
            self._thread = ThreadPoolExecutor(
                1, initializer=netns.setns, initargs=(f"/proc/{pid}/ns/net",)
            )
        return self._thread.submit(function, *arguments, **options).result()

    @functools.cached_property
    def cloud(self) -> openstack.connection.Connection:
        """The administrator's connection; its calls belong into :meth:`inside`."""
        return self.inside(self._connect)

    def _connect(self) -> openstack.connection.Connection:
        known = openstack.config.OpenStackConfig(
            config_files=[self.facts["clouds_yaml"]], load_envvars=False
        )
        cloud = openstack.connection.Connection(config=known.get_one("lab-admin"))
        # Naming a service for the first time asks it for its versions: now, in this thread.
        for service in ("compute", "network", "identity", "image", "load_balancer"):
            getattr(cloud, service)
        return cloud

    def ssh(self, address: str, command: str) -> str | None:
        """What a command in a guest printed; None if the guest does not let us in or it failed."""
        return self.inside(self._ssh, address, command)

    def _ssh(self, address: str, command: str) -> str | None:
        with paramiko.SSHClient() as client:
            # Every guest is minutes old; its host key is nobody's acquaintance.
            client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
            try:
                client.connect(
                    address, username="debian", key_filename=self.facts["amphora_key"],
                    timeout=3, banner_timeout=5, auth_timeout=5, allow_agent=False,
                    look_for_keys=False,
                )  # fmt: skip
                _, stdout, _ = client.exec_command(command, timeout=20)
                text = stdout.read().decode()
                return text if stdout.channel.recv_exit_status() == 0 else None
            except (OSError, paramiko.SSHException):
                return None

    @functools.cached_property
    def facts(self) -> dict[str, str]:
        """lab.json."""
        done = self.command("status", "--json")
        return json.loads(done.stdout)["facts"]


def wait_for(question, wanted, timeout: float, step: float = 0.5):
    """Ask until the answer is the wanted one (or a callable says so); returns the answer."""
    deadline = time.monotonic() + timeout
    while True:
        answer = question()
        if wanted(answer) if callable(wanted) else answer == wanted:
            return answer
        assert time.monotonic() < deadline, f"still {answer!r} after {timeout} s, wanted {wanted!r}"
        time.sleep(step)


@pytest.fixture
def workspace(lab, tmp_path):
    """A function that makes a Tempest workspace whose [sriov_lb] is the lab's, with changes."""

    def make(changes: dict[str, str], text: str | None = None) -> Path:
        folder = tmp_path / "workspace"
        made = subprocess.run(
            [str(BIN / "tempest"), "init", "--workspace-path", str(tmp_path / "registry.yaml"),
             str(folder)], text=True, capture_output=True,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        # [sriov_lb] is the last section, so that lines at the end belong to it.
        text = Path(lab.facts["tempest_conf"]).read_text() if text is None else text
        values = {"artifacts_dir": str(tmp_path / "artifacts"), **changes}
        text += "".join(f"{name} = {value}\n" for name, value in values.items())
        (folder / "etc" / "tempest.conf").write_text(text)
        return folder

    return make


@pytest.fixture
def inventory(lab):
    """The function that lists everything in every service of the lab, as the administrator."""

    def take() -> set[str]:
        return lab.inside(_inventory, lab.cloud)

    return take


def _inventory(cloud) -> set[str]:
    listings = {
        # Nova, and Octavia with its amphorae, show what is deleted for a moment more.
        "server": (s for s in cloud.compute.servers(all_projects=True) if s.status != "DELETED"),
        "server group": cloud.compute.server_groups(all_projects=True),
        "flavor": cloud.compute.flavors(is_public=None),
        "aggregate": cloud.compute.aggregates(),
        "network": cloud.network.networks(),
        "subnet": cloud.network.subnets(),
        "port": cloud.network.ports(),
        "security group": cloud.network.security_groups(),
        "image": cloud.image.images(),
        "project": cloud.identity.projects(),
        "user": cloud.identity.users(),
        "load balancer": cloud.load_balancer.load_balancers(),
        "amphora": (a for a in cloud.load_balancer.amphorae() if a.status != "DELETED"),
        "listener": cloud.load_balancer.listeners(),
        "pool": cloud.load_balancer.pools(),
        "load balancer flavor": cloud.load_balancer.flavors(),
        "flavor profile": cloud.load_balancer.flavor_profiles(),
    }
    # Neutron makes a project's default group on its own, whenever somebody first looks.
    return {
        f"{kind} {one.id} {one.name}"
        for kind, listed in listings.items()
        for one in listed
        if not (kind == "security group" and one.name == "default")
    }


@pytest.fixture
def made(lab):
    """``made(create, delete, ...)``: what the administrator creates, deleted in reverse order."""
    undo = []

    def make(create, delete, *arguments, **options):
        thing = lab.inside(create, *arguments, **options)
        undo.append((delete, thing))
        return thing

    yield make
    for delete, thing in reversed(undo):
        lab.inside(delete, thing)


@pytest.fixture
def by_the_book(lab, made):
    """What Octavia's document on SR-IOV has an administrator make, once; returns how to go on.

    ``flavor(name, **data)`` makes a flavor of Octavia on the compute flavor of the aggregate;
    ``network`` and ``subnets`` are for VIPs, shared with everybody.
    """
    cloud, facts = lab.cloud, lab.facts
    hosts = facts["sriov_hosts"].split(",")

    def emptied(aggregate):
        for host in hosts:
            cloud.compute.remove_host_from_aggregate(aggregate, host)
        cloud.compute.delete_aggregate(aggregate)

    compute, balancing, network = cloud.compute, cloud.load_balancer, cloud.network
    aggregate = made(compute.create_aggregate, emptied, name="by-the-book")
    for host in hosts:
        lab.inside(compute.add_host_to_aggregate, aggregate, host)
    lab.inside(compute.set_aggregate_metadata, aggregate, {"sriov-nic": "true"})
    machine = made(compute.create_flavor, compute.delete_flavor, name="by-the-book", ram=1024,
                   disk=3, vcpus=1, is_public=False)  # fmt: skip
    lab.inside(compute.create_flavor_extra_specs, machine, {"sriov-nic": "true"})
    lab.inside(compute.flavor_add_tenant_access, machine, facts["id_project_service"])

    def flavor(name, **data):
        data = json.dumps({"compute_flavor": machine.id, **data})
        profile = made(balancing.create_flavor_profile, balancing.delete_flavor_profile,
                       name=name, provider_name="amphora", flavor_data=data)  # fmt: skip
        return made(balancing.create_flavor, balancing.delete_flavor, name=name,
                    flavor_profile_id=profile.id, enabled=True)  # fmt: skip

    vip = made(network.create_network, network.delete_network, name="by-the-book", shared=True,
               provider_network_type="flat", provider_physical_network="public")  # fmt: skip
    subnets = [
        lab.inside(network.create_subnet, network_id=vip.id, ip_version=version, cidr=cidr,
                   enable_dhcp=False, gateway_ip=None)
        for version, cidr in ((4, "203.0.113.0/24"), (6, "2001:db8:7::/64"))
    ]  # fmt: skip
    return SimpleNamespace(flavor=flavor, network=vip, subnets=subnets)


@pytest.fixture(scope="session")
def wait():
    """:func:`wait_for`."""
    return wait_for


@pytest.fixture(scope="session")
def lab_class():
    """For tests that need a lab beside the session's."""
    return Lab


@pytest.fixture(scope="session")
def host_state():
    """The function that takes stock of this machine."""
    return take_stock


@pytest.fixture(scope="session")
def before() -> dict[str, object]:
    """This machine before the lab came up."""
    Lab(NAME).command("down")
    return take_stock()


@pytest.fixture(scope="session")
def lab(before):
    """The running lab; taken down at the end of the session."""
    made = Lab(NAME)
    began = time.monotonic()
    extra = str(ROOT / "etc" / "lab.tempest.conf")
    done = made.command("up", "--tempest-extra", extra, timeout=1500)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    print(f"up took {time.monotonic() - began:.0f} s")
    yield made
    done = made.command("down")
    assert done.returncode == 0, done.stdout


# --- the host from outside ------------------------------------------------------------------------


def take_stock() -> dict[str, object]:
    """Everything of this machine that a lab could leave a trace in.

    Keys: ``processes`` of the lab's programs, ``namespaces``, ``mounts``, ``links``,
    ``addresses``, ``netns`` names, ``cgroups``, ``sysctls``, ``listeners``, ``files``.
    """
    return {
        "processes": _processes(),
        "namespaces": _namespaces(),
        "mounts": sorted(_column("/proc/self/mountinfo", 4)),
        "links": _ip("link"),
        "addresses": _ip("address"),
        "netns": sorted(os.listdir("/run/netns")) if Path("/run/netns").exists() else [],
        "cgroups": _cgroups(),
        "sysctls": _sysctls(),
        "listeners": _listeners(),
        "files": _files(),
    }


def _mine() -> list[Path]:
    """Processes of this test's labs, known by a mount of theirs or by their cgroup."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            mounts = (folder / "mountinfo").read_text(errors="replace")
            cgroup = (folder / "cgroup").read_text()
        except OSError:
            continue  # it ended while we looked
        if f"/labs/{NAME}" in mounts or f"sriov-lb-lab-{NAME}" in cgroup:
            found.append(folder)
    return found


def _processes() -> list[str]:
    """Command lines of this test's labs, wherever they ended up."""
    found = []
    for folder in _mine():
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended while we looked
        found.append(f"{folder.name} {line[:80]}")
    return sorted(found)


def _namespaces() -> list[str]:
    """Mount, network and PID namespaces of this test's labs."""
    seen = set()
    for folder in _mine():
        for kind in ("mnt", "net", "pid"):
            try:
                seen.add(os.readlink(folder / "ns" / kind))
            except OSError:
                continue  # it ended while we looked
    return sorted(seen)


def _column(path: str, number: int) -> list[str]:
    return [line.split()[number] for line in Path(path).read_text().splitlines()]


def _ip(what: str) -> list[str]:
    listed = json.loads(
        subprocess.run(["ip", "-j", what, "show"], capture_output=True, check=True).stdout
    )
    if what == "link":
        return sorted(f"{link['ifname']} {link.get('master', '')}" for link in listed)
    return sorted(
        f"{link['ifname']} {address['local']}"
        for link in listed
        for address in link.get("addr_info", [])
    )


def _cgroups() -> list[str]:
    """Folders in the hierarchies that systemd uses, where containers and labs make theirs."""
    top = Path("/sys/fs/cgroup")
    hierarchies = [top / name for name in ("systemd", "unified") if (top / name).is_dir()] or [top]
    found = [folder for one in hierarchies for folder, _, _ in os.walk(one)]
    return sorted(
        one for one in found if "/sriov-lb-lab-" not in one or f"/sriov-lb-lab-{NAME}" in one
    )


# Counters and clocks that change by themselves.
_RESTLESS = (
    "random/", "dentry-state", "inode-nr", "inode-state", "file-nr", "ns_last_pid", "pty/nr",
    "sched_domain", "nf_conntrack_count", "firmware_config", "dirty_", "aio-nr", "kernel/tainted",
    "quota/", "perf_event_max_sample_rate", "perf_cpu_time", "nlm_", "binfmt_misc", "overflow",
)  # fmt: skip


def _sysctls() -> dict[str, str]:
    values = {}
    for folder, _, names in os.walk("/proc/sys"):
        for name in names:
            path = os.path.join(folder, name)
            if any(word in path for word in _RESTLESS):
                continue
            try:
                values[path] = Path(path).read_text(errors="replace")
            except OSError:
                continue  # write-only, or of a device that is not there
    return values


def _listeners() -> list[str]:
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] in ("0A", "07"):
                found.append(f"{table} {fields[1]}")
    return sorted(found)


_FOLDERS = ("/etc", "/usr/local", "/opt", "/var/lib", "/run", "/srv", "/root")
# The lab's own state, this very test run's, and what the machine itself keeps writing to.
_OWN = ("/var/lib/sriov-lb-lab", "/run/user", "/root/.cache", "/var/lib/apt", "/var/lib/dpkg")


def _files() -> list[str]:
    """Names of all files in the folders where a careless lab would leave one."""
    found = []
    for top in _FOLDERS:
        for folder, folders, names in os.walk(top):
            folders[:] = [one for one in folders if not _own(os.path.join(folder, one))]
            found += [os.path.join(folder, name) for name in names]
    return sorted(name for name in found if "__pycache__" not in name)


def _own(path: str) -> bool:
    return path.startswith(_OWN) or path == str(ROOT)
