# SPDX-License-Identifier: Apache-2.0
"""Undo a ledger, also of a run that died, and prove that nothing is left.

Entries are undone in reverse. Neighbours of one kind are asked for together and waited for
together, and instances and load balancers, which nothing made later can hold back, are asked
for first of all: the difference between a minute and five. A load balancer takes its
listeners, pools, members and monitors along (cascade), so these are not undone singly.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from openstack import exceptions as sdk

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import kinds, ledger
from sriov_lb_tests.cloud.awaiting import until
from sriov_lb_tests.cloud.connect import Clouds
from sriov_lb_tests.cloud.ledger import Entry, Ledger

Progress = Callable[[str], None]

#: How often a deletion that Octavia answers with ERROR is asked for.
DELETE_ATTEMPTS = 3


@dataclass(frozen=True)
class Leftover:
    """A resource that should be gone and is not."""

    service: str
    kind: str
    id: str
    name: str
    reason: str = ""

    def __str__(self) -> str:
        because = f": {self.reason}" if self.reason else ""
        return f"{self.service} {self.kind} {self.name or '(no name)'} {self.id}{because}"


def _quiet(_: str) -> None:
    """Progress nobody watches."""


def undo(
    book: Ledger,
    clouds: Clouds,
    *,
    timeout: float = 300,
    interval: float = 1.0,
    progress: Progress = _quiet,
) -> list[Leftover]:
    """Undo everything in ``book`` that is not gone yet; returns what could not be undone.

    One resource that resists does not keep the others: its neighbours are undone all the
    same, and what hangs on it is tried as well and reported.

    :param timeout: seconds for each group of neighbours.
    """
    failed: list[Leftover] = []
    _ask_early(book, clouds, progress)
    for group in _groups(book.open_entries):
        failed += _undo_group(book, clouds, group, timeout, interval, progress)
    return failed


def _ask_early(book: Ledger, clouds: Clouds, progress: Progress) -> None:
    """Ask for the slow deletions at once, so that they go on side by side.

    Only what nothing else can hold back; whatever does not work here has its turn later.
    """
    for entry in reversed(book.open_entries):
        kind = kinds.KINDS[entry.kind]
        if not kind.slow:
            continue
        with contextlib.suppress(sdk.SDKException):
            found = kind.look(clouds.widest, entry)
            if found is None or not kind.ready(found):
                continue
            if entry.id is None:
                book.made(entry, found)
            if entry.kind == "load_balancer":
                follow(book, clouds, entry)
            progress(f"deleting {entry}")
            kind.delete(clouds.widest, found, entry)


def undo_one(
    book: Ledger,
    clouds: Clouds,
    kind: str,
    resource_id: str,
    *,
    timeout: float = 300,
    interval: float = 1.0,
) -> None:
    """Undo one resource of ``book`` now, and wait until it is gone.

    :raises LeftBehind: it resists.
    """
    entry = book.find(kind, resource_id)
    if entry is None:
        raise errors.ResourceMissing(
            f"The {kind} {resource_id} is not in the journal {book.path}.",
            remedy="Only what this run made can be undone by it.",
        )
    if entry.gone:
        return
    left = _undo_group(book, clouds, [entry], timeout, interval, _quiet)
    if left:
        raise errors.LeftBehind(
            f"The {kind} {resource_id} could not be deleted: {left[0].reason}",
            resources=[str(item) for item in left],
        )


def _groups(entries: list[Entry]) -> Iterator[list[Entry]]:
    """Reverse order, neighbours of one kind together, children left to their parents."""
    parents = {(entry.kind, entry.name) for entry in entries}
    alone = [
        entry
        for entry in reversed(entries)
        if (kinds.KINDS[entry.kind].parent, entry.extra.get("parent")) not in parents
    ]
    for _, group in itertools.groupby(alone, key=lambda entry: entry.kind):
        yield list(group)


def _undo_group(
    book: Ledger,
    clouds: Clouds,
    group: list[Entry],
    timeout: float,
    interval: float,
    progress: Progress,
) -> list[Leftover]:
    failed: list[Leftover] = []
    waiting: list[Entry] = []
    for entry in group:
        progress(f"deleting {entry}")
        try:
            if _ask(book, clouds, entry, timeout, interval):
                waiting.append(entry)
            else:
                _mark_gone(book, entry)
        except (sdk.SDKException, errors.CloudError) as error:
            failed.append(_leftover(entry, str(error)))
    for entry in waiting:
        try:
            _await_gone(book, clouds, entry, timeout, interval, progress)
        except (sdk.SDKException, errors.CloudError) as error:
            failed.append(_leftover(entry, str(error)))
        else:
            _mark_gone(book, entry)
    return failed


def _ask(book: Ledger, clouds: Clouds, entry: Entry, timeout: float, interval: float) -> bool:
    """Ask for the deletion; False if there is nothing to delete and nothing to wait for."""
    kind = kinds.KINDS[entry.kind]
    connection = clouds.widest
    last: list[str] = [""]

    def attempt() -> str | None:
        found = kind.look(connection, entry)
        if found is None:
            return "absent"
        if entry.id is None and hasattr(found, "id"):
            book.made(entry, found)
        if getattr(found, "provisioning_status", None) == "PENDING_DELETE":
            return "asked"  # before, by us or by somebody else
        if not kind.ready(found):
            last[0] = f"It is {found.provisioning_status}."
            return None
        if entry.kind == "load_balancer":
            follow(book, clouds, entry)
        try:
            kind.delete(connection, found, entry)
        except sdk.ConflictException as error:
            # Still in use by something that is going away, or Octavia was faster.
            last[0] = f"{kind.service} says: {error}"
            return None
        return "asked"

    outcome = until(
        attempt,
        what=f"{kind.service} to accept the deletion of {entry}",
        timeout=timeout,
        interval=interval,
        explain=lambda: last[0],
    )
    return outcome == "asked" or bool(entry.followers)


def _await_gone(
    book: Ledger,
    clouds: Clouds,
    entry: Entry,
    timeout: float,
    interval: float,
    progress: Progress,
) -> None:
    kind = kinds.KINDS[entry.kind]
    connection = clouds.widest
    last: list[str] = [""]
    attempts = [1]

    def absent() -> bool:
        found = kind.look(connection, entry)
        if found is None:
            return True
        if not last[0]:
            progress(f"waiting for {entry} to be gone")
        state = getattr(found, "provisioning_status", None) or getattr(found, "status", None)
        last[0] = f"It is still there{f', {state}' if state else ''}."
        if kind.service == "Octavia" and state == "ERROR":
            # The deletion failed. Octavia allows another attempt, but not all need another.
            if attempts[0] >= DELETE_ATTEMPTS:
                raise errors.ResourceFault(
                    f"{attempts[0]} deletions of {entry} all ended in ERROR."
                )
            attempts[0] += 1
            with contextlib.suppress(sdk.ConflictException):
                kind.delete(connection, found, entry)
        return False

    until(
        absent,
        what=f"{entry} to be gone",
        timeout=timeout,
        interval=interval,
        explain=lambda: last[0],
    )
    remaining = list(entry.followers)

    def followers_gone() -> bool:
        remaining[:] = [f for f in remaining if _follower_exists(clouds, *f)]
        return not remaining

    until(
        followers_gone,
        what=f"what Octavia made for {entry} to be gone",
        timeout=timeout,
        interval=interval,
        explain=lambda: "Still there: " + ", ".join(f"{k} {i}" for k, i in remaining),
    )


def follow(book: Ledger, clouds: Clouds, entry: Entry) -> None:
    """Note what Octavia made for a load balancer, while Octavia can still tell.

    :param entry: of a load balancer whose id is known.
    """
    if entry.id is None:
        return
    if clouds.admin is not None:
        for amphora in clouds.admin.load_balancer.amphorae(loadbalancer_id=entry.id):
            if amphora.compute_id:
                book.saw(entry, "server", amphora.compute_id)
            if amphora.vrrp_port_id:
                book.saw(entry, "port", amphora.vrrp_port_id)
    for port in clouds.widest.network.ports(device_id=f"lb-{entry.id}"):
        book.saw(entry, "port", port.id)


def _follower_exists(clouds: Clouds, kind: str, resource_id: str) -> bool:
    probe = Entry(0, kind, "", "member", id=resource_id)
    return kinds.KINDS[kind].look(clouds.widest, probe) is not None


def _mark_gone(book: Ledger, entry: Entry) -> None:
    book.gone(entry)
    for child in book.open_entries:
        if kinds.KINDS[child.kind].parent == entry.kind and child.extra.get("parent") == entry.name:
            book.gone(child)


def _leftover(entry: Entry, reason: str) -> Leftover:
    kind = kinds.KINDS[entry.kind]
    return Leftover(kind.service, kind.name, entry.id or "(id unknown)", entry.name, reason)


# --- after the fact --------------------------------------------------------------------


def remains(clouds: Clouds, run_id: str, entries: Iterable[Entry] = ()) -> list[Leftover]:
    """Everything in any service that belongs to a run: by name, and by what was followed.

    Looks at the services, not at a journal, so that it also finds what a journal forgot.

    :param entries: of the run's journals; amphorae and ports can be found through these only.
    """
    token = ledger.run_token(run_id)
    found: dict[tuple[str, str], Leftover] = {}
    connections = [clouds.member]
    if clouds.admin is not None and clouds.admin is not clouds.member:
        connections.append(clouds.admin)
    for connection in connections:
        admin = kinds.is_admin(connection)
        for kind in kinds.KINDS.values():
            if kind.listing is None:
                continue
            for resource in kind.listing(connection, admin):
                name = getattr(resource, "name", None) or ""
                text = name + " " + (getattr(resource, "description", None) or "")
                if token in text and getattr(resource, "status", "") != "DELETED":
                    key = (kind.name, str(resource.id))
                    found[key] = Leftover(kind.service, kind.name, str(resource.id), name)
    for entry in entries:
        for kind_name, resource_id in entry.followers:
            if _follower_exists(clouds, kind_name, resource_id):
                found[kind_name, resource_id] = Leftover(
                    kinds.KINDS[kind_name].service, kind_name, resource_id, "", f"made for {entry}"
                )
        if entry.kind == "load_balancer" and entry.id:
            for port in clouds.widest.network.ports(device_id=f"lb-{entry.id}"):
                found["port", port.id] = Leftover(
                    "Neutron", "port", port.id, port.name, f"made for {entry}"
                )
    return sorted(found.values(), key=str)


@dataclass
class Outcome:
    """What :func:`cleanup` did to one run."""

    run_id: str
    journals: list[str]
    deleted: int = 0
    alive: list[str] | None = None
    left: list[Leftover] | None = None

    @property
    def clean(self) -> bool:
        return not self.left and not self.alive


def cleanup(
    directory: str | os.PathLike[str],
    clouds: Clouds,
    *,
    run_id: str | None = None,
    dry_run: bool = False,
    timeout: float = 300,
    interval: float = 1.0,
    progress: Progress = _quiet,
) -> list[Outcome]:
    """Finish the job of runs that died. Safe to repeat.

    :param directory: of the journals.
    :param run_id: only this run; otherwise every run that is not closed.
    :param dry_run: look only; ``left`` is then what would be deleted.
    :raises JournalCorrupt: a journal cannot be read; nothing of it was touched.
    """
    records = [ledger.read(path) for path in ledger.journals(directory, run_id)]
    runs: dict[str, list[ledger.Record]] = {}
    for record in records:
        if record.run_id == run_id or (run_id is None and not record.closed):
            runs.setdefault(record.run_id, []).append(record)
    outcomes = []
    for run, members in runs.items():
        outcome = Outcome(run, [str(record.path) for record in members])
        outcomes.append(outcome)
        entries = [entry for record in members for entry in record.entries]
        failed: list[Leftover] = []
        if not dry_run:
            for record in members:
                if not record.open_entries and record.closed:
                    continue
                before = len(record.open_entries)
                try:
                    book = ledger.Reopened(record)
                except errors.JournalUnwritable:
                    raise
                except errors.JournalError as error:
                    outcome.alive = [*(outcome.alive or ()), str(error)]
                    continue
                try:
                    failed += undo(
                        book, clouds, timeout=timeout, interval=interval, progress=progress
                    )
                finally:
                    outcome.deleted += before - len(book.open_entries)
                    book.close()
        progress(f"looking for anything that is left of run {run}")
        known = {(item.kind, item.id): item for item in failed}
        for item in remains(clouds, run, entries):
            known.setdefault((item.kind, item.id), item)
        outcome.left = sorted(known.values(), key=str)
    return outcomes
