# SPDX-License-Identifier: Apache-2.0
"""What the tests of one process share: connections, site, guests, load balancers, record.

Booting a client or building a load balancer takes tens of seconds, so nothing of it belongs
to one class. Each thing is made when the first test asks for it, recorded first, and undone
when the process ends; the undoing itself is a requirement with a verdict.
"""

from __future__ import annotations

import atexit
import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keystoneauth1 import exceptions as ka
from openstack import exceptions as sdk
from tempest import config

from sriov_lb_tests import config_check, errors
from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.cloud import connect, faults, options, servers, site, sweep
from sriov_lb_tests.cloud.connect import Clouds
from sriov_lb_tests.cloud.ledger import Ledger, new_run_id
from sriov_lb_tests.cloud.servers import Guest
from sriov_lb_tests.tests import credentials
from sriov_lb_tests.verdicts import defects, record, report, run, table
from sriov_lb_tests.verdicts.model import Result, Verdict
from sriov_lb_tests.wire.ssh import Pins, SshHost

CONF = config.CONF
LOG = logging.getLogger(__name__)

#: A service that cannot be asked, or says no.
UNAVAILABLE = (sdk.SDKException, ka.ClientException, errors.SriovLbError)

#: The requirement that the end of the process itself answers for.
LEAVES_NOTHING = ("RUN-001", "A run leaves nothing behind in any service.")


class Stage:
    """One process's share of a run."""

    def __init__(self) -> None:
        group = CONF.sriov_lb
        config_check.check(group)
        self.run = run.join(Path(group.artifacts_dir), group.run_id, new_run_id())
        self.turn = run.Turn(self.run.folder)
        self.recorder = record.Recorder(self.run.folder)
        global _recorder
        _recorder = self.recorder
        self.registry = defects.load(group.known_defects_file or None)
        self.pins = Pins(self.run.folder / f"host-keys-{threading.get_native_id()}")
        journals = Path(group.journal_dir or Path(group.artifacts_dir) / "journal")
        self.ledger = Ledger(journals, self.run.id)
        self.clouds: Any = None
        self._provider: Any = None
        self._closers: list[Any] = []
        self._lent: list[Callable[[], None]] = []
        self._hosts: dict[str, SshHost] = {}
        self._jump: SshHost | None = None
        self.octavia_release = str(getattr(group, "octavia_release", "") or "")
        try:
            self._open(group)
        except BaseException:
            self.close()
            raise

    def _open(self, group: Any) -> None:
        admin = credentials.administrator(CONF)
        if admin is not None:
            # Enough to look around, and to undo what the next step makes, should it fail half-way.
            self.clouds = Clouds(member=admin, admin=admin)
            self._look_around(group)
        if group.mode == "admin":
            self.turn.take(_waiting)
        member, self._provider = credentials.member(CONF, admin, self.ledger)
        self.clouds = Clouds(member=member, admin=admin)
        who = {"member": connect.identity(self.clouds.member)}
        if admin is None:
            self._look_around(group)
        else:
            who["admin"] = connect.identity(admin)
        self.ledger.describe(who)
        self.site: Any = self._site(group)
        self.recorder.describe(
            run=self.run.id,
            started=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            mode=group.mode,
            cloud=who["member"]["auth_url"],
            octavia_api=".".join(map(str, self.api_version)),
            octavia_release=self.octavia_release or "not told",
            substrate=group.substrate,
            topology=group.loadbalancer_topology,
            journal=str(self.ledger.path.parent),
        )

    def _site(self, group: Any) -> Any:
        kind = site.AdminSite if group.mode == "admin" else site.AdoptedSite
        settings = options.site_settings(group, self.run.evidence("keys"))
        return kind(settings, self.clouds, self.ledger)

    def _look_around(self, group: Any) -> None:
        """Find out what is missing in the cloud before anything is made."""
        connect.require_services(self.clouds.member)
        self.api_version = connect.require_octavia(self.clouds.member)
        self._site(group).require()

    # --- guests -----------------------------------------------------------------------

    def host(self, guest: Guest, user: str) -> SshHost:
        """ssh to a guest; connected when first used."""
        if guest.id not in self._hosts:
            group = CONF.sriov_lb
            key = str(guest.key.private_key) if guest.key else group.guest_key_file
            address = guest.floating_address or guest.addresses(site.ACCESS)[0]
            self._hosts[guest.id] = SshHost(
                address,
                user=user,
                key_file=key,
                jump=self.jump() if group.guest_connect_method == "jump" else None,
                pins=self.pins,
                pin_name=guest.id,
                name=f"{guest.name} ({address})",
                deadline=group.ssh_timeout,
            )
        return self._hosts[guest.id]

    def amphora_host(self, amphora: Any) -> SshHost:
        """ssh to an amphora, by its address on the management network."""
        if amphora.id not in self._hosts:
            group = CONF.sriov_lb
            self._hosts[amphora.id] = SshHost(
                amphora.lb_network_ip,
                user=group.amphora_user,
                key_file=group.amphora_key_file,
                jump=self.jump() if group.amphora_connect_method == "jump" else None,
                pins=self.pins,
                pin_name=amphora.id,
                name=f"amphora {amphora.id} ({amphora.lb_network_ip})",
                deadline=30,  # it has served Octavia already: it is up, or it is not
            )
        return self._hosts[amphora.id]

    def jump(self) -> SshHost:
        """The ssh proxy."""
        if self._jump is None:
            group = CONF.sriov_lb
            self._jump = SshHost(
                group.jump_host,
                port=group.jump_port,
                user=group.jump_user,
                key_file=group.jump_key_file,
                pins=self.pins,
                name=f"jump host {group.jump_host}",
                deadline=group.ssh_timeout,
            )
        return self._jump

    def on_close(self, closer: Any) -> None:
        """Call ``closer`` when the process ends, before anything is undone."""
        self._closers.append(closer)

    def lend(self, take_back: Callable[[], None]) -> None:
        """Something has VFs that others may need: ``take_back`` frees them, and whoever asks for it
        again has it made again."""
        self._lent.append(take_back)

    def take_back(self) -> None:
        """Free VFs for what needs many: Octavia attaches them to an instance that has its host
        already, and Nova chose that without asking how many are free there."""
        while self._lent:
            self._lent.pop()()

    # --- evidence ---------------------------------------------------------------------

    def keep(self, folder: Path, name: str, content: Any) -> Path:
        """Write evidence: text as it is, anything else as JSON."""
        path = folder / name
        text = content if isinstance(content, str) else json.dumps(content, indent=1, default=str)
        path.write_text(text if text.endswith("\n") else text + "\n")
        return path

    def collect(self, folder: Path, lbs: dict[str, Any]) -> list[Path]:
        """What the APIs say of some load balancers, before anything is cleaned up.

        Whatever cannot be had is written down as such: evidence must not hide the failure.
        """
        kept = []
        for label, lb in lbs.items():
            try:
                content = self._api_view(lb.id)
            except UNAVAILABLE as error:
                content = {"not available": str(error)}
            kept.append(self.keep(folder, f"{label}-api.json", content))
            kept += self._inside(folder / label, lb)
        return kept

    def _inside(self, folder: Path, lb: Any) -> list[Path]:
        """What can be seen in a load balancer's amphorae, where we may look."""
        if not CONF.sriov_lb.amphora_ssh or self.clouds.admin is None:
            return []
        kept: list[Path] = []
        try:
            for amphora in self.site.lbs.amphorae(lb.id):
                inside = Amphora(self.amphora_host(amphora))
                kept += inside.collect(folder / amphora.id).values()
        except UNAVAILABLE as error:
            folder.mkdir(parents=True, exist_ok=True)
            kept.append(self.keep(folder, "not-available.txt", str(error)))
        return kept

    def _api_view(self, lb_id: str) -> dict[str, Any]:
        api = self.clouds.member.load_balancer
        view: dict[str, Any] = {
            "loadbalancer": self.site.lbs.show(lb_id).to_dict(computed=False),
            "statuses": faults.status_tree(self.clouds.member, lb_id),
            "listeners": [
                listener.to_dict(computed=False)
                for listener in api.listeners(load_balancer_id=lb_id)
            ],
        }
        admin = self.clouds.admin
        if admin is None:
            return view
        view["amphorae"], view["ports"], view["instances"] = [], [], []
        for amphora in admin.load_balancer.amphorae(loadbalancer_id=lb_id):
            view["amphorae"].append(amphora.to_dict(computed=False))
            if not amphora.compute_id or amphora.status == "DELETED":
                continue
            for port in admin.network.ports(device_id=amphora.compute_id):
                view["ports"].append(port.to_dict(computed=False))
            try:
                server = admin.compute.get_server(amphora.compute_id)
            except sdk.NotFoundException:
                continue
            view["instances"].append(
                {
                    "id": server.id,
                    "status": server.status,
                    "host": server.compute_host,
                    "fault": server.fault,
                    "console": servers.console(admin, server.id, 60).splitlines(),
                }
            )
        return view

    # --- the end ----------------------------------------------------------------------

    def close(self) -> None:
        """Undo everything, say so in the record, and write the table."""
        try:
            self._undo()
        finally:
            self.turn.give()

    def _undo(self) -> None:
        started = time.time()
        for closer in (*reversed(self._closers), *(one.close for one in self._hosts.values())):
            try:
                closer()
            except Exception:
                # A guest may have died; what was made is undone all the same.
                LOG.exception("%s broke; the clean-up goes on", closer)
        failed: list[sweep.Leftover] = []
        if self.ledger.open_entries and self.clouds is not None:
            failed = sweep.undo(
                self.ledger,
                self.clouds,
                timeout=CONF.sriov_lb.delete_timeout,
                interval=CONF.sriov_lb.check_interval,
            )
        if self._provider is not None:
            self._provider.clear_creds()
        if self.ledger.entries and self.clouds is not None:
            left = {(item.kind, item.id): item for item in failed}
            for item in self._remains():
                left.setdefault((item.kind, item.id), item)
            self.recorder.append(
                Result(
                    *LEAVES_NOTHING,
                    verdict=Verdict.FAIL if left else Verdict.PASS,
                    test=f"{__name__}.close",
                    reason="; ".join(map(str, left.values())),
                    evidence=[],
                    started=started,
                    seconds=time.time() - started,
                )
            )
        self.ledger.close()

    def _remains(self) -> list[sweep.Leftover]:
        """What is left of this process's part of the run; siblings may still be at work."""
        # A member that Tempest made for the run is gone by now, with its project.
        clouds = Clouds(member=self.clouds.widest, admin=self.clouds.admin)
        return [
            item
            for item in sweep.remains(clouds, self.run.id, self.ledger.entries)
            if self.ledger.mine in item.name or item.reason
        ]

    def finish(self) -> None:
        """What happens when the process ends."""
        try:
            self.close()
        except Exception as error:
            # Nobody above to catch it; the journal still has all that is needed.
            LOG.exception("The run could not be cleaned up")
            print(
                f"sriov_lb: the clean-up of run {self.run.id} failed: {error}\n"
                f"Finish it with: sriov-lb cleanup --run-id {self.run.id}",
                file=sys.stderr,
            )
        page = report.write(self.run.folder)
        rows = table.rows(record.read(self.run.folder)[1])
        print(f"\nsriov_lb: {table.summary(rows)}\nsriov_lb: report: {page}", file=sys.stderr)


def _waiting() -> None:
    """Tempest starts a worker for each CPU unless told otherwise."""
    print(
        "sriov_lb: another worker of this run is at work on the same networks and hosts; this one "
        "goes on when it has ended. --concurrency 1 makes one worker only, which is quicker.",
        file=sys.stderr,
    )


_recorder: record.Recorder | None = None
_stage: Stage | None = None
_failure: Exception | None = None
_lock = threading.Lock()


def recorder() -> record.Recorder | None:
    """Where verdicts go, even if the stage itself could not be opened; None if there is none."""
    return _recorder


def get() -> Stage:
    """The stage of this process; a stage that could not be opened is not tried again."""
    global _stage, _failure
    with _lock:
        if _failure is not None:
            raise _failure
        if _stage is None:
            try:
                _stage = Stage()
            except (errors.SriovLbError, sdk.SDKException) as error:
                _failure = error
                raise
            atexit.register(_stage.finish)
        return _stage
