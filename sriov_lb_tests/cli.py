# SPDX-License-Identifier: Apache-2.0
"""``sriov-lb``: what is needed around a run of the tests.

``cleanup`` finishes the job of a run that died, ``verdicts`` shows what a run concluded,
``defects`` lists the known defects that failures are compared with, ``audit`` looks at a load
balancer that others made, ``mutants`` damages one to see whether the tests notice.

Heavy libraries are imported by the commands that need them, so that ``--help`` is quick.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from sriov_lb_tests import errors
from sriov_lb_tests.audit import command as audit_command
from sriov_lb_tests.mutants import command as mutants_command


class Group(click.Group):
    """Reports our own errors as one message, without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except errors.SriovLbError as error:
            click.echo(f"{ctx.info_name}: {error.message}", err=True)
            click.echo(f"  {error.remedy}", err=True)
            ctx.exit(2)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sriov-lb-tests")
def main() -> None:
    """Tests of SR-IOV load balancers in OpenStack Octavia: what is needed around a run."""


@main.command()
@click.option(
    "--journal-dir",
    "--journal",
    "journal_dir",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of the journals ([sriov_lb] journal_dir). Default: artifacts/journal here.",
)
@click.option("--run-id", default=None, help="Only this run. Default: every run not finished.")
@click.option(
    "--cloud",
    default=None,
    help="Entry of clouds.yaml to do it with, best an administrator's. Default: OS_CLOUD, or the "
    "one the journal names.",
)
@click.option("--clouds-file", default="", help="The clouds.yaml to read.")
@click.option("--dry-run", is_flag=True, help="Only list what would be deleted.")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds for each deletion.")
def cleanup(
    journal_dir: Path | None,
    run_id: str | None,
    cloud: str | None,
    clouds_file: str,
    dry_run: bool,
    timeout: float,
) -> None:
    """Finish the job of a run that died; prove that nothing of it is left.

    Safe to repeat. Ends with status 0 if no service has anything of the run any more, 1 if
    something is left (it is listed), 2 if it could not be tried.
    """
    from rich.console import Console

    from sriov_lb_tests.cloud import sweep

    folder = journal_dir or Path("artifacts") / "journal"
    if not folder.is_dir():
        raise errors.ConfigurationError(
            f"There is no folder {folder}, so no journal.",
            remedy="Name it with --journal-dir: [sriov_lb] journal_dir of the run.",
        )
    clouds = _clouds(folder, run_id, cloud, clouds_file)
    console = Console(stderr=True)
    with console.status("reading journals") as status:
        outcomes = sweep.cleanup(
            folder,
            clouds,
            run_id=run_id,
            dry_run=dry_run,
            timeout=timeout,
            progress=lambda text: _show(console, status, text),
        )
    if run_id and not outcomes:
        raise errors.ResourceMissing(
            f"{folder} has no journal of run {run_id!r}.",
            remedy="List the folder; a journal is called RUN-PID-XXXX.jsonl.",
        )
    if not outcomes:
        click.echo(f"Nothing to do: every journal in {folder} is closed.")
    clean = True
    for outcome in outcomes:
        clean &= outcome.clean
        _report_outcome(outcome, dry_run)
    sys.exit(0 if clean else 1)


def _show(console: object, status: object, text: str) -> None:
    """A moving line on a terminal, plain lines in a log."""
    if console.is_terminal:  # type: ignore[attr-defined]
        status.update(text)  # type: ignore[attr-defined]
    else:
        click.echo(text, err=True)


def _report_outcome(outcome: object, dry_run: bool) -> None:
    run = outcome.run_id  # type: ignore[attr-defined]
    left = outcome.left or []  # type: ignore[attr-defined]
    for text in outcome.alive or ():  # type: ignore[attr-defined]
        click.echo(f"Run {run} is alive: {text}")
    if dry_run:
        click.echo(f"Run {run}: {len(left)} to be deleted." if left else f"Run {run}: nothing.")
    else:
        click.echo(
            f"Run {run}: {outcome.deleted} undone, "  # type: ignore[attr-defined]
            + (f"{len(left)} LEFT:" if left else "nothing is left in any service.")
        )
    for item in left:
        click.echo(f"  {item}")


def _clouds(folder: Path, run_id: str | None, cloud: str | None, clouds_file: str) -> object:
    """The connection to clean up with, as whoever sees most."""
    from sriov_lb_tests.cloud import connect, kinds, ledger
    from sriov_lb_tests.cloud.connect import Clouds

    name = cloud or os.environ.get("OS_CLOUD") or ""
    if not name:
        named: set[str] = set()
        for path in ledger.journals(folder):
            record = ledger.read(path)
            if run_id in (None, record.run_id) and not record.closed:
                who = record.identities.get("admin") or record.identities.get("member") or {}
                named.add(who.get("cloud", ""))
        named.discard("")
        if len(named) != 1:
            raise errors.ConfigurationError(
                "It is not clear which cloud to clean up: the journals name "
                f"{', '.join(sorted(named)) or 'none'}.",
                remedy="Name an entry of clouds.yaml with --cloud, or set OS_CLOUD.",
            )
        name = named.pop()
    connection = connect.from_clouds_yaml(name, clouds_file=clouds_file)
    return Clouds(
        member=connection, admin=connection if kinds.is_admin(connection) else None
    )


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
@click.option(
    "--record", "as_record", is_flag=True,
    help="Print the verdict of each test as a file to compare later runs with, and nothing else.",
)
@click.option(
    "--compare", "on_file", type=click.Path(path_type=Path), default=None, metavar="FILE",
    help="Compare with such a FILE, and nothing else: status 0 if nothing differs.",
)  # fmt: skip
def verdicts(folder: Path, as_json: bool, as_record: bool, on_file: Path | None) -> None:
    """Show what the run in FOLDER concluded: requirement, verdict, evidence.

    FOLDER is one run's folder inside [sriov_lb] artifacts_dir (`latest` names the last one).
    Writes report.html and report.json there and prints the path of the page. Ends with status
    1 if a promise did not hold or could not be tried.
    """
    from rich.console import Console

    from sriov_lb_tests.verdicts import defects as registry
    from sriov_lb_tests.verdicts import onfile, record, report, table
    from sriov_lb_tests.verdicts.model import Verdict

    about, results = record.read(folder)
    release = str(about.get("octavia_release", "")).replace("not told", "")
    if as_record:
        click.echo(onfile.text(onfile.of(results), release), nl=False)
        return
    if on_file is not None:
        found = onfile.of(results)
        different = onfile.differences(onfile.read(on_file), found, onfile.reasons(results))
        for sentence in different:
            click.echo(sentence)
        if not different:
            click.echo(f"{len(found)} verdicts, all as on file in {on_file}.")
        sys.exit(1 if different else 0)
    rows = table.rows(results)
    page = report.write(folder)
    if as_json:
        click.echo(json.dumps(report.load(folder), indent=1))
    else:
        console = Console()
        if not console.is_terminal:
            console = Console(width=140)
        table.render(rows, console)
        known = registry.load()
        means = {defect.id: defect.means for defect in known.defects}
        for paragraph in table.broken_promises(rows, means, release):
            click.echo(f"\n{paragraph}")
        tried = {row.requirement for row in rows if row.verdict is not Verdict.SKIPPED}
        named = {one for row in rows for r in row.results for one in (r.defect or "").split(", ")}
        unseen = [] if not release else known.not_looked_at(release, tried)
        unseen = [defect for defect in unseen if defect.id not in named]
        if unseen:
            click.echo(
                f"\nKnown defects of Octavia {release} that this run did not look for, or not "
                "everywhere:"
            )
            for defect in unseen:
                click.echo(f"  - {defect.title} ({defect.id})")
        click.echo(f"Report: {page.resolve()}")
    good = (Verdict.PASS, Verdict.SKIPPED, Verdict.NOT_SUPPORTED)
    sys.exit(0 if rows and all(row.verdict in good for row in rows) else 1)


@main.command()
@click.option("--file", "path", default=None, help="Another registry.")
@click.option("--release", default="", help="Only defects of this Octavia release, such as 18.0.1.")
def defects(path: str | None, release: str) -> None:
    """List the known defects that failures are compared with."""
    from sriov_lb_tests.verdicts import defects as registry

    found = [d for d in registry.load(path).defects if not release or d.affects(release)]
    for defect in found:
        click.echo(f"{defect.id}: {defect.title}")
        click.echo(f"  releases: {', '.join(defect.releases)}")
        click.echo(f"  {defect.means}")
        click.echo(f"  upstream: {defect.upstream}")
    if not found:
        click.echo(f"No known defect{f' of Octavia {release}' if release else ''}.")


main.add_command(audit_command.audit)
main.add_command(
    mutants_command.command(audit_command.open_all, audit_command.where_options), "mutants"
)


if __name__ == "__main__":
    main()
