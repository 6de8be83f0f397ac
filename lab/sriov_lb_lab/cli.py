# SPDX-License-Identifier: Apache-2.0
"""The command ``sriov-lb-lab``."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from sriov_lb_lab.errors import HostError, LabError
from sriov_lb_lab.lab import DEFAULT_OCTAVIA, PYTHON, Lab
from sriov_lb_lab.paths import DEFAULT_NAME, DEFAULT_STATE, Paths
from sriov_lb_lab.settings import HOSTS


class _Group(click.Group):
    """Turns the lab's errors into a message and exit code 1."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except LabError as error:
            click.secho(f"error: {error}", fg="red", err=True)
            context.exit(1)


class _Steps:
    """Progress a person can follow, in a terminal and in a log: one line a step, with the time."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._last = ""

    def __call__(self, step: str, message: str) -> None:
        if message != self._last:
            self._last = message
            click.echo(f"[{time.monotonic() - self._began:6.1f} s] {step}: {message}")


@click.group(cls=_Group)
@click.option(
    "--state", metavar="DIR", help=f"State folder [SRIOV_LB_LAB_STATE or {DEFAULT_STATE}]."
)
@click.option(
    "--name",
    default=DEFAULT_NAME,
    show_default=True,
    envvar="SRIOV_LB_LAB_NAME",
    help="Which lab; several can run side by side.",
)
@click.pass_context
def main(context: click.Context, state: str | None, name: str) -> None:
    """A genuine OpenStack with SR-IOV load balancers on this machine."""
    context.obj = Lab(Paths.of(state, name))


_NO_IP_VS = (
    "  no UDP and SCTP listeners: the kernel has no ip_vs loaded ('modprobe ip_vs', if it is there)"
)


def _root() -> None:
    if os.geteuid() != 0:
        raise HostError(
            f"the lab makes namespaces and mounts; this needs root, and you are uid {os.geteuid()}",
            "run it with sudo",
        )


_OCTAVIA = click.option(
    "--octavia", default=DEFAULT_OCTAVIA, show_default=True, metavar="VERSION",
    help="Octavia release from PyPI (controller and amphora). The default is the newest whose "
    "SR-IOV listeners work.",
)  # fmt: skip
_MIRROR = click.option("--mirror", metavar="URL", help="Debian mirror for the lab's own trees.")


@main.command()
@_OCTAVIA
@_MIRROR
@click.pass_obj
def build(lab: Lab, octavia: str, mirror: str | None) -> None:
    """Fetch and build everything a lab needs; afterwards no network is needed."""
    _root()
    for kind, tree in lab.build(octavia, mirror, _Steps()).items():
        click.echo(f"{kind:9} {tree}")


@main.command()
@_OCTAVIA
@_MIRROR
@click.option(
    "--tempest-extra",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Sections to append to tempest.conf; ${facts} of lab.json are filled in.",
)
@click.pass_obj
def up(lab: Lab, octavia: str, mirror: str | None, tempest_extra: Path | None) -> None:
    """Start the lab and wait until every service is well."""
    _root()
    if tempest_extra and not tempest_extra.is_file():
        raise LabError(f"--tempest-extra {tempest_extra} is not a file", "name a readable file")
    steps = _Steps()
    facts = lab.up(octavia, mirror, tempest_extra, steps)
    steps("up", f"Octavia {facts['octavia']}, substrate {facts['substrate']}")
    if not facts["ip_vs"]:
        click.echo(_NO_IP_VS)
    click.echo(f"  clouds.yaml   {facts['clouds_yaml']}\n  tempest.conf  {facts['tempest_conf']}")
    click.echo("  try           sriov-lb-lab exec -- openstack loadbalancer list")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.pass_obj
def status(lab: Lab, as_json: bool) -> None:
    """Is every service well? Exit code 0 yes, 1 no, 3 not running."""
    pid = lab.runtime.pid()
    if pid is None:
        if as_json:
            click.echo(json.dumps({"running": False}))
        else:
            click.echo(f"the lab {lab.paths.name!r} is not running")
        sys.exit(3)
    health = lab.health()
    facts = json.loads(lab.paths.facts.read_text()) if lab.paths.facts.exists() else {}
    if as_json:
        click.echo(json.dumps({"running": True, "pid": pid, "facts": facts, **health}, indent=1))
    else:
        _print_status(lab, pid, facts, health)
    sys.exit(1 if health["unwell"] else 0)


def _print_status(lab: Lab, pid: int, facts: dict[str, Any], health: dict[str, Any]) -> None:
    console = Console()
    console.print(
        f"lab {lab.paths.name!r}: pid {pid}, Octavia {facts.get('octavia', '?')}, "
        f"substrate {facts.get('substrate', '?')}"
    )
    if not facts.get("ip_vs", True):
        console.print(_NO_IP_VS)
    table = Table("service", "state", "pid in the lab", "up for")
    now = time.time()
    for process in sorted(lab.runtime.supervisor().processes(), key=lambda p: p["name"]):
        wrong = health["unwell"].get(process["name"])
        table.add_row(
            process["name"],
            f"[red]{wrong}[/red]" if wrong else "well",
            str(process["pid"] or ""),
            f"{now - process['start']:.0f} s" if process["pid"] else "",
        )
    console.print(table)
    for name in sorted(health["unwell"]):
        console.print(f"[bold]end of {name}'s log[/bold] ({lab.paths.logs / name}.log)")
        for line in lab.tail(name, 12):
            console.print("  " + line, markup=False, highlight=False)


@main.command("exec", context_settings={"ignore_unknown_options": True})
@click.option("--inside", is_flag=True, help="With the lab's own files instead of this machine's.")
@click.option("--host", type=click.Choice([host.name for host in HOSTS]),
              help="On a simulated host (implies --inside).")  # fmt: skip
@click.option("--cloud", default="lab-admin", show_default=True, help="OS_CLOUD for the command.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def exec_(lab: Lab, inside: bool, host: str | None, cloud: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in the lab's network, with OS_CLIENT_CONFIG_FILE and OS_CLOUD set."""
    _root()
    argv = list(command)
    if inside or host:
        argv = lab.runtime.inside(
            ["/usr/bin/env", f"OS_CLOUD={cloud}",
             f"OS_CLIENT_CONFIG_FILE={lab.paths.inside(lab.paths.clouds_yaml)}", *argv], host,
        )  # fmt: skip
    else:
        environment = os.environ
        environment["PATH"] = f"{environment.get('PATH', '')}:{lab.paths.tools}"
        environment["OS_CLIENT_CONFIG_FILE"] = str(lab.paths.clouds_yaml)
        environment["OS_CLOUD"] = cloud
        argv = lab.runtime.beside(argv)
    os.execvp(argv[0], argv)


@main.command()
@click.argument("service", required=False)
@click.option("-n", "--lines", default=40, show_default=True, help="How many lines from the end.")
@click.option("-f", "--follow", is_flag=True, help="Go on printing (Ctrl-C ends it).")
@click.pass_obj
def logs(lab: Lab, service: str | None, lines: int, follow: bool) -> None:
    """The end of SERVICE's log; without SERVICE, which logs there are."""
    if service is None:
        for path in sorted(lab.paths.logs.glob("*.log")):
            click.echo(f"{path.stem:32} {path.stat().st_size:>10} bytes  {path}")
        return
    for line in lab.tail(service, lines):
        click.echo(line)
    if follow:
        log = str(lab.paths.logs / f"{service}.log")
        os.execvp("tail", ["tail", "-n", "0", "-F", log])


@main.command()
@click.argument("service")
@click.pass_obj
def restart(lab: Lab, service: str) -> None:
    """Restart SERVICE."""
    lab.runtime.need_pid()
    lab.runtime.supervisor().restart(service)


@main.group()
def fault() -> None:
    """Break something on purpose, to see what the cloud and your tests make of it."""


def _fault(name: str, whom: str, help_: str) -> None:
    @fault.command(name, help=help_)
    @click.argument("whom", metavar=whom)
    @click.pass_obj
    def command(lab: Lab, whom: str) -> None:
        _root()
        argv = [PYTHON, "-m", "sriov_lb_lab.faults", name, whom]
        click.echo(lab.runtime.run(argv), nl=False)


_fault("crash-server", "UUID", "Kill an instance's first process behind Nova's back.")
_fault("cut-off", "HOST", "Pull all of HOST's cables; its processes go on.")
_fault("kill-host", "HOST", "A power cut on HOST: its services and instances die at once.")
_fault("restore", "HOST", "Plug HOST in again and start its services, not its instances.")


@main.command()
@click.pass_obj
def down(lab: Lab) -> None:
    """End the lab; its logs and the cached trees stay."""
    _root()
    began = time.monotonic()
    running = lab.down()
    if running:
        click.echo(f"the lab {lab.paths.name!r} is down ({time.monotonic() - began:.1f} s)")
    else:
        click.echo(f"the lab {lab.paths.name!r} was not running; nothing of it is left")


@main.command()
@click.option("--cache", is_flag=True, help="Remove the cached trees too (all labs must be down).")
@click.pass_obj
def purge(lab: Lab, cache: bool) -> None:
    """End the lab and remove its folder."""
    _root()
    lab.purge()
    if cache:
        _need_all_down(lab)
        shutil.rmtree(lab.paths.cache, ignore_errors=False) if lab.paths.cache.exists() else None
    click.echo("purged")


def _need_all_down(lab: Lab) -> None:
    for folder in (lab.paths.state / "labs").glob("[a-z]*"):
        other = Lab(Paths.of(lab.paths.state, folder.name))
        if other.runtime.pid() is not None:
            raise LabError(
                f"the lab {folder.name!r} uses the cache and is running",
                f"'sriov-lb-lab --name {folder.name} down' first",
            )


if __name__ == "__main__":
    main()
