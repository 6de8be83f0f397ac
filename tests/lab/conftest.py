# SPDX-License-Identifier: Apache-2.0
"""One lab for all tests here, and what the host looks like from outside it.

The lab is brought up through its command, as its user would, under a name of its own: a lab that
somebody runs beside it is left alone. Its trees come from the usual cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAME = "check"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Lab:
    """A running lab, driven through its command line only."""

    name: str

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

    def openstack(self, *arguments: str, cloud: str = "lab-admin") -> object:
        """What ``openstack ARGUMENTS -f json`` printed, parsed (None for nothing)."""
        done = self.exec(["openstack", *arguments, "-f", "json"], cloud=cloud)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    def do(self, *arguments: str, cloud: str = "lab-admin") -> None:
        """An openstack command whose output does not matter."""
        done = self.exec(["openstack", *arguments], cloud=cloud)
        assert done.returncode == 0, done.stderr

    @property
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


_PROGRAMS = (
    "supervisord", "mariadbd", "beam.smp", "rabbitmq", "uwsgi", "ovs-vswitchd", "ovsdb-server",
    "nova-", "neutron-", "octavia-", "systemd-nspawn", "sriov_lb_lab",
)  # fmt: skip


def _others() -> set[int]:
    """Pids of labs that somebody else runs on this machine: theirs may come and go."""
    roots = {
        json.loads(file.read_text())["pid"]
        for file in Path("/var/lib/sriov-lb-lab/labs").glob("*/init.pid")
        if not file.parent.name.startswith(NAME)
    }
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
        except OSError:
            continue  # it ended while we looked

    def belongs(pid: int) -> bool:
        while pid in parents:
            if pid in roots:
                return True
            pid = parents[pid]
        return False

    return {pid for pid in parents if belongs(pid)}


def _mine() -> list[Path]:
    others = _others()
    return [p for p in Path("/proc").glob("[0-9]*") if int(p.name) not in others]


def _processes() -> list[str]:
    """Command lines of the lab's kind of programs, in PID namespaces other than this one."""
    found = []
    own = os.readlink("/proc/self/ns/pid")
    for folder in _mine():
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            pid_namespace = os.readlink(folder / "ns" / "pid")
        except OSError:
            continue  # it ended while we looked
        if any(word in line.split(" -")[0] for word in _PROGRAMS) and pid_namespace != own:
            found.append(f"{pid_namespace} {line[:80]}")
    return sorted(found)


def _namespaces() -> list[str]:
    """Identities of all mount, network and PID namespaces that some process is in."""
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
    top = Path("/sys/fs/cgroup")
    found = sorted(folder for folder, _, _ in os.walk(top))
    return [one for one in found if "/sriov-lb-lab-" not in one or f"/sriov-lb-lab-{NAME}" in one]


# Counters and clocks that change by themselves.
_RESTLESS = (
    "random/", "dentry-state", "inode-nr", "inode-state", "file-nr", "ns_last_pid", "pty/nr",
    "sched_domain", "nf_conntrack_count", "firmware_config", "dirty_", "aio-nr", "kernel/tainted",
    "perf_event_max_sample_rate", "perf_cpu_time", "nlm_", "binfmt_misc", "overflow",
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
