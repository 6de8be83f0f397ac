# SPDX-License-Identifier: Apache-2.0
"""The command ``sriov-lb mutants``; heavy libraries are imported when it runs."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from sriov_lb_tests import errors

#: Opens what the options name: user, subject, seats, closed, vantage, reach, jump, notes.
Open = Callable[..., Any]


def command(open_all: Open, where_options: Callable) -> click.Command:
    """The command.

    :param open_all: from options to API objects, amphorae and vantage; comes from outside, because
        this room knows no OpenStack.
    :param where_options: decorates a command with those options.
    """

    @click.command()
    @click.option("--list", "show", is_flag=True, help="Print the faults, one a line, and end.")
    @click.option(
        "--restore",
        type=click.Path(path_type=Path),
        default=None,
        metavar="DIR",
        help="Put back what a run that died left in amphorae; DIR is its --out.",
    )
    @click.option(
        "--force",
        is_flag=True,
        help="With --restore: also when somebody changed the rules meanwhile.",
    )
    @click.option("--loadbalancer", default="", metavar="ID", help="The one to damage: id or name.")
    @click.option(
        "--yes",
        is_flag=True,
        help="Yes, damage it: its firewall is open or shut for seconds at a time, many times.",
    )
    @click.option(
        "--out",
        type=click.Path(path_type=Path),
        default=Path("mutants"),
        show_default=True,
        help="Folder for the matrix, captures, and what has to be put back.",
    )
    @click.option("--only", "only", multiple=True, metavar="FAULT", help="Only these (repeat).")
    @click.option(
        "--clean-repeats",
        default=20,
        show_default=True,
        help="Looks without a fault first: none may raise an alarm.",
    )
    @click.option(
        "--hold",
        type=click.FloatRange(min=1),
        default=None,
        metavar="SECONDS",
        help="Run no test: put the one fault of --only in for that long, for whoever looks.",
    )
    @where_options
    def mutants(show, restore, force, loadbalancer, yes, out, only, clean_repeats, hold, **options):
        """Seed faults into a live load balancer and see whether the tests catch them.

        Each fault goes into the rules of one amphora, the tests run, the rules are put back word
        for word, also after Ctrl-C. Writes the detection matrix (JSON, CSV, HTML) to --out. Ends
        with status 0 all caught, 1 some not, 2 could not tell.
        """
        if show:
            from sriov_lb_tests.mutants.faults import ALL

            for fault in ALL:
                click.echo(fault.line())
            return
        if restore is not None:
            sys.exit(put_back(restore, force))
        wanted = _wanted(only)
        if not loadbalancer:
            raise errors.ConfigurationError(
                "--loadbalancer is missing; expected the id or name of the one to damage.",
                remedy="Make one for this, and name it with --loadbalancer.",
            )
        if not options["amphora_key"]:
            raise errors.ConfigurationError(
                "--amphora-key is missing; faults are seeded by ssh.",
                remedy="Name the private key of Octavia's amp_ssh_key_name with --amphora-key.",
            )
        if not yes:
            raise errors.ConfigurationError(
                f"--yes is missing: {len(wanted)} faults would be seeded into {loadbalancer}, "
                "whose firewall would be open or shut meanwhile.",
                remedy="Take a load balancer that nobody needs, and add --yes.",
            )
        if hold and len(wanted) != 1:
            raise errors.ConfigurationError(
                f"--hold puts one fault in, and {len(wanted)} are named.",
                remedy="Name one with --only.",
            )
        signal.signal(signal.SIGTERM, _terminated)
        with ExitStack() as stack:
            found = open_all(loadbalancer, stack, out / "captures", **options)
            here = prepared(found, out, options)
            if hold:
                here.hold(wanted[0], hold)
                return
            sys.exit(run(here, wanted, out, clean_repeats))

    return mutants


def _terminated(_number, _frame):
    # As an exception, so that what is seeded is taken out on the way.
    raise SystemExit(2)


def _wanted(only):
    from sriov_lb_tests.mutants.faults import ALL

    known = {fault.id: fault for fault in ALL}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise errors.ConfigurationError(
            f"--only {unknown[0]}: there is no such fault.",
            remedy="`sriov-lb mutants --list` prints them.",
        )
    return tuple(known[name] for name in only) or ALL


def prepared(found: Any, out: Path, options) -> Any:
    """A run on what was opened.

    :raises GuestUnreachable: not every amphora can be entered.
    :raises ResourceMissing: there is none, or none has the VIP.
    """
    from sriov_lb_tests.mutants.run import Run
    from sriov_lb_tests.mutants.testing import Subjects

    if found.closed:
        one = found.closed[0]
        raise errors.GuestUnreachable(
            f"Amphora {one.id} cannot be entered: {one.why}",
            remedy="Every amphora of the load balancer has to be reachable by ssh.",
        )
    if not found.seats:
        raise errors.ResourceMissing(
            f"No amphora of the load balancer is known: {found.hidden or 'it has none in use'}.",
            remedy="Name an administrator's entry of clouds.yaml with --admin-cloud.",
        )
    subject, vantage = found.subject, found.vantage
    policies = {seat.id: subject.policy(seat.own) for seat in found.seats}
    holder = holder_of(found.seats, policies)
    way = way_to(options["amphora_user"], options["amphora_key"], found.jump)
    ways = {
        entry["id"]: {**way, "address": entry["lb_network_ip"]} for entry in subject.amphorae
    }
    on = Subjects(policies, found.seats, holder, vantage, found.reach)
    here = Run(on, out, ways=ways, say=lambda text: click.echo(text, err=True))
    here.matrix.facts.update(
        {
            "load balancer": subject.name,
            "listeners": "; ".join(
                f"{one.kind} {one.port} for {', '.join(one.cidrs) or 'everybody'}"
                for one in policies[holder.id].listeners
            ),
            "amphorae": len(found.seats),
            "vantage": vantage.name if vantage else "none: nothing is sent",
            "started": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        }
    )
    return here


def way_to(user: str, key: str, jump: Any) -> dict[str, Any]:
    """What whoever restores needs to get to an amphora, from whatever folder.

    :param jump: user, address, port and key of the jump host; None where there is none.
    """

    def absolute(path: str) -> str:
        return str(Path(path).resolve())

    through = {**asdict(jump), "key": absolute(jump.key)} if jump is not None else None
    return {"user": user, "key": absolute(key), "jump": through}


def run(here: Any, wanted, out: Path, clean_repeats: int) -> int:
    """Every fault; the exit status."""
    from rich.console import Console

    matrix = here.matrix
    started = time.monotonic()
    try:
        here.clean(clean_repeats)
        here.all(wanted)
        here.clean(1)
    finally:
        matrix.facts["took"] = f"{time.monotonic() - started:.0f} s"
        paths = matrix.write(out)
        show(matrix, Console() if Console().is_terminal else Console(width=200))
        click.echo(f"Matrix: {', '.join(str(path) for path in paths.values())}")
    return matrix.status


def holder_of(seats, policies):
    """The amphora that answers for the VIP: the one that has it on an interface."""
    for seat in seats:
        interfaces = seat.inside.interfaces()
        here = {str(one.ip) for entry in interfaces.values() for one in entry.addresses}
        if here & set(policies[seat.id].vips):
            return seat
    raise errors.ResourceMissing(
        "No amphora has the VIP on an interface.", remedy="Wait until the pair has a master."
    )


def show(matrix: Any, console: Any) -> None:
    """The matrix as a table."""
    from rich.table import Table
    from rich.text import Text

    from sriov_lb_tests.mutants.matrix import MARKS

    header, rows = matrix.table()
    table = Table(title="Detection matrix", title_justify="left")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    for sign, text in MARKS.items():
        if sign:
            console.print(Text(f"{sign}  {text}"))
    for row in matrix.rows:
        if row.why:
            console.print(Text(f"{row.fault.id}: {row.why}"), soft_wrap=True)
    console.print(Text(matrix.sentence, style="bold"), soft_wrap=True)


def put_back(folder: Path, force: bool) -> int:
    """Take out what runs that died left; the exit status."""
    from sriov_lb_tests.amphora import Amphora
    from sriov_lb_tests.mutants import seeding
    from sriov_lb_tests.wire.ssh import SshHost

    paths = seeding.left(folder)
    if not paths:
        click.echo(f"Nothing to do: {folder} holds no rules that wait to be put back.")
    for path in paths:
        saved = seeding.Saved.read(path)
        way = SimpleNamespace(**saved.way)
        jump = _jump(path, way.jump)
        host = SshHost(
            way.address, user=way.user, key_file=way.key, jump=jump,
            name=f"amphora {saved.amphora} ({way.address})", deadline=15,
        )  # fmt: skip
        with host:
            seeding.Seeder.resume(Amphora(host), path).restore(force=force)
        click.echo(
            f"Amphora {saved.amphora}: the rules are as before fault {saved.seeded}, word for word."
        )
    return 0


def _jump(path: Path, way: Any) -> Any:
    """The jump host that ``path`` names.

    :raises JournalCorrupt: as older versions did, in words.
    """
    from sriov_lb_tests.wire.ssh import SshHost

    if not way:
        return None
    if isinstance(way, str):
        raise errors.JournalCorrupt(
            f"{path} names the jump host as {way!r}: an older version wrote it.",
            remedy="Restore with the version that wrote it, or let Octavia write the rules again: "
            "change one of the listeners.",
        )
    return SshHost(
        way["address"], user=way["user"], port=way["port"], key_file=way["key"],
        name=f"jump host {way['address']}", deadline=15,
    )  # fmt: skip
