# SPDX-License-Identifier: Apache-2.0
"""Makes sure that the trees of a lab are there.

============  ====================================================  ==========================
tree          what it is                                            named by
============  ====================================================  ==========================
system        root of the control plane                             packages, element files
stack         venv of all services, mounted at /opt/stack           pins, Octavia's release
amphora       root of an amphora, Octavia's agent in it             both of the above
guest         root of clients and members                           packages, element files
============  ====================================================  ==========================

``stack-base`` and ``amphora-base`` are what the trees of all Octavia releases have in common.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sriov_lb_lab.build import amphora, bootstrap, digest, host, pipconfig, roots, stack, versions
from sriov_lb_lab.build.steps import Runner
from sriov_lb_lab.build.wheels import Wheelhouse
from sriov_lb_lab.build.workspace import Workspace

#: Free bytes that a tree takes while it is made and afterwards, downloads included (measured, plus
#: a fifth).
SPACE: Mapping[str, int] = {
    "system": int(0.9 * host.GIB), "stack-base": int(0.8 * host.GIB), "stack": int(0.1 * host.GIB),
    "guest": int(0.35 * host.GIB), "amphora-base": int(0.4 * host.GIB),
    "amphora": int(0.7 * host.GIB),
}


class Progress(Protocol):
    """Is told what happens, from several threads."""

    def __call__(self, step: str, message: str) -> None:
        """``step`` is one word (a tree, or ``host``, ``lock``, ``clean``), ``message`` a phrase."""


@dataclasses.dataclass(frozen=True)
class Trees:
    """Complete trees, as absolute paths; the last component of each is its name in the cache.

    :ivar digests: tree (``system``, ``stack``, ``amphora``, ``guest``) -> digest of its inputs.
    """

    system: pathlib.Path
    stack: pathlib.Path
    amphora: pathlib.Path
    guest: pathlib.Path
    digests: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Names and inputs of all trees for one Octavia release, bases included."""

    names: Mapping[str, str]
    inputs: Mapping[str, Mapping[str, Any]]

    def trees(self, cache: pathlib.Path) -> Trees:
        """Where the trees are, or would be."""
        wanted = ("system", "stack", "amphora", "guest")
        return Trees(**{tree: cache / self.names[tree] for tree in wanted},
                     digests={tree: digest.of_inputs(self.inputs[tree]) for tree in wanted})


def plan(octavia: str) -> Plan:
    """Work out what the trees are called.  Pure but for reading this package's own files.

    :raises BuildError: if the release is none, or a constraints file is broken.
    """
    versions.require_version(octavia)
    inputs: dict[str, Mapping[str, Any]] = {
        "system": roots.SYSTEM.inputs(),
        "guest": roots.GUEST.inputs(),
        "stack-base": stack.base_inputs(),
        "stack": stack.inputs(octavia),
        "amphora-base": roots.AMPHORA_BASE.inputs(),
        "amphora": amphora.inputs(octavia),
    }
    prefixes = {tree: f"{tree}-{octavia}" if tree in ("stack", "amphora") else tree
                for tree in inputs}
    names = {tree: f"{prefixes[tree]}-{digest.of_inputs(inputs[tree])}" for tree in inputs}
    return Plan(names, inputs)


def ensure(cache: pathlib.Path, octavia: str, *, mirror: str | None = None,
           progress: Progress) -> Trees:
    """Return the trees, making those that are missing.

    Where all are there nothing is written and no network is touched.

    :param cache: the cache folder; made if missing.
    :param octavia: Octavia's release.
    :param mirror: a Debian mirror to use instead of the host's (see ``sources.mirror_lines``).
    :raises HostError: if this machine cannot build (no root, unsupported, packages missing).
    :raises BuildError: if a tree could not be made.
    """
    cache = cache.absolute()
    wanted = plan(octavia)
    workspace = Workspace(cache)
    finals = ("system", "stack", "amphora", "guest")
    if all(workspace.ready(wanted.names[tree]) for tree in finals):
        return wanted.trees(cache)
    host.require_root()
    release = host.read_os_release()
    host.require_supported(release)
    host.require_packages(host.missing_packages())
    archive = bootstrap.host_archive(mirror, release)
    with workspace.locked(progress):
        missing = [tree for tree in wanted.names if not workspace.ready(wanted.names[tree])]
        # A base is of no use to anybody whose trees are all made from it already.
        missing = [tree for tree in missing
                   if not tree.endswith("-base") or tree.removesuffix("-base") in missing]
        host.require_space(cache, sum(SPACE[tree] for tree in missing),
                           f"building {', '.join(missing)}")
        runner = Runner(workspace.logs, workspace.lock_fds)
        _Build(wanted, workspace, runner, archive, octavia, progress).run(missing)
    return wanted.trees(cache)


class _Build:
    """One build of what is missing: two lines of trees, side by side."""

    def __init__(self, wanted: Plan, workspace: Workspace, runner: Runner,
                 archive: bootstrap.Archive, octavia: str, progress: Progress) -> None:
        self._plan = wanted
        self._workspace = workspace
        self._runner = runner
        self._archive = archive
        self._octavia = octavia
        self._progress = progress
        self._settings = pipconfig.of_host()
        self._house = Wheelhouse(runner, workspace, self._settings)

    def run(self, missing: list[str]) -> None:
        """Make the missing trees; the first failure ends the other line too.

        :raises BuildError: the failure that came first.
        """
        for sentence in self._settings.skipped:
            self._progress("pip", sentence)
        lines = (("system", "stack-base", "stack"), ("guest", "amphora-base", "amphora"))
        with concurrent.futures.ThreadPoolExecutor(len(lines)) as pool:
            jobs = [pool.submit(self._line, [tree for tree in line if tree in missing])
                    for line in lines]
            try:
                done, _ = concurrent.futures.wait(
                    jobs, return_when=concurrent.futures.FIRST_EXCEPTION)
                for job in done:
                    job.result()
            finally:
                # Also when the user gives up: nothing may keep writing to the cache.
                self._runner.stop()

    def _line(self, trees: list[str]) -> None:
        for tree in trees:
            self._make(tree)

    def _make(self, tree: str) -> None:
        name = self._plan.names[tree]
        log = self._runner.log_of(name)
        log.unlink(missing_ok=True)
        self._progress(tree, f"building {name} (log: {log})")
        begin = time.monotonic()
        extra = self._makers()[tree](name)
        seconds = round(time.monotonic() - begin, 1)
        path = self._workspace.publish(name, {
            "inputs": self._plan.inputs[tree],
            "digest": digest.of_inputs(self._plan.inputs[tree]),
            "built": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "seconds": seconds,
            "archive": self._archive.kind,
            **(extra or {}),
        })
        self._progress(tree, f"ready in {seconds:.0f} s: {path}")

    def _path(self, tree: str) -> pathlib.Path:
        return self._workspace.cache / self._plan.names[tree]

    def _makers(self) -> Mapping[str, Callable[[str], dict[str, Any] | None]]:
        runner, workspace, archive = self._runner, self._workspace, self._archive
        return {
            "system": lambda name: roots.build(runner, workspace, name, roots.SYSTEM, archive),
            "guest": lambda name: roots.build(runner, workspace, name, roots.GUEST, archive),
            "amphora-base": lambda name: roots.build(
                runner, workspace, name, roots.AMPHORA_BASE, archive),
            "stack-base": lambda name: stack.build_base(
                runner, workspace, name, self._path("system"), self._house),
            "stack": lambda name: stack.build(
                runner, workspace, name, self._path("system"), self._path("stack-base"),
                self._octavia, self._house),
            "amphora": lambda name: amphora.build(
                runner, workspace, name, self._path("amphora-base"), self._octavia,
                self._house),
        }
