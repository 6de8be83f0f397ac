# SPDX-License-Identifier: Apache-2.0
"""The command ``sriov-lb audit``; heavy libraries are imported when it runs."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click

from sriov_lb_tests import errors


def where_options(command):
    """Options of every command that looks at a load balancer somebody else made."""
    for option in reversed(
        [
            click.option("--cloud", envvar="OS_CLOUD", default="",
                         help="Entry of clouds.yaml that sees the load balancer. Default: "
                         "OS_CLOUD."),
            click.option("--admin-cloud", default="",
                         help="Entry that sees amphorae too (they are hidden from members)."),
            click.option("--clouds-file", default="", help="The clouds.yaml to read."),
            click.option("--amphora-key", default="",
                         help="Private key for ssh to the amphorae (Octavia's amp_ssh_key_name)."),
            click.option("--amphora-user", default="ubuntu", show_default=True,
                         help="The amphora image's user; needs sudo."),
            click.option("--jump", default="", metavar="USER@HOST[:PORT]",
                         help="Go there first to reach the management network."),
            click.option("--jump-key", default="",
                         help="Private key for --jump. Default: --amphora-key."),
            click.option("--vantage", default="", metavar="USER@HOST[:PORT]",
                         help="A host on the VIP's network from which probes are sent."),
            click.option("--vantage-key", default="", help="Private key for --vantage."),
            click.option("--vantage-jump", is_flag=True, help="Reach --vantage through --jump."),
            click.option("--interface", default="",
                         help="Its interface on the VIP's network, such as ens4."),
            click.option("--link", "links", multiple=True, metavar="CIDR",
                         help="Probes may pretend to be a free host of this network (repeat). Only "
                         "if the vantage's port has no port security. Default: own addresses."),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


@click.command()
@click.argument("load_balancer", required=False, metavar="LOADBALANCER")
@where_options
@click.option("--next-hop", default=None, help="Router to the VIP, if it is not on the link.")
@click.option("--count", is_flag=True,
              help="Count packets in the amphorae while they are sent: more can be told. Adds a "
              "table of ours there for some seconds.")  # fmt: skip
@click.option("--json", "json_file", type=click.Path(path_type=Path), default=None,
              help="Write the result as JSON; `-` to standard output.")  # fmt: skip
@click.option("--junit", type=click.Path(path_type=Path), default=None,
              help="Write the result as JUnit XML.")  # fmt: skip
@click.option("--artifacts", type=click.Path(path_type=Path), default=None,
              help="Folder for captures. Default: a temporary one, gone at the end.")  # fmt: skip
@click.option("--schema", is_flag=True, help="Print the JSON Schema of --json and end.")
def audit(load_balancer, schema, json_file, junit, **options) -> None:
    """Does LOADBALANCER (id or name) do what its API state says?

    Compares the API's promise with the rules in each amphora, where ssh is possible
    (--amphora-key), and with what packets do, where a host on the VIP's network is given
    (--vantage). Reads and sends probes, and changes nothing. Ends with status 0 clean,
    1 disagreement, 2 could not tell.
    """
    from sriov_lb_tests.audit import report

    if schema:
        click.echo(json.dumps(report.schema(), indent=2))
        return
    if not load_balancer:
        raise errors.ConfigurationError(
            "LOADBALANCER is missing; expected its id or name.",
            remedy="`openstack loadbalancer list` shows them.",
        )
    from rich.console import Console

    for option, path in (("--json", json_file), ("--junit", junit)):
        _check_writable(option, path)
    with ExitStack() as stack:
        found = look_at(load_balancer, stack, **options)
    if json_file is not None:
        text = json.dumps(report.to_json(found), indent=1) + "\n"
        _write("--json", json_file, text)
    if junit is not None:
        _write("--junit", junit, report.junit(found))
    if json_file is None or str(json_file) != "-":
        console = Console()
        report.render(found, console if console.is_terminal else Console(width=140))
    sys.exit(found.status)


def _check_writable(option: str, path: Path | None) -> None:
    """Before anything is asked: an audit whose result cannot be written down takes as long."""
    if path is None or str(path) == "-":
        return
    # By os.path: a Path raises where we may not even look.
    if os.path.isdir(path):
        raise _unwritable(option, path, "it is a folder")
    if not os.path.isdir(path.parent):
        raise _unwritable(option, path, f"there is no folder {path.parent}")
    if not os.access(path if os.path.exists(path) else path.parent, os.W_OK):
        raise _unwritable(option, path, "permission denied")


def _unwritable(option: str, path: Path, why: str | None) -> errors.ConfigurationError:
    return errors.ConfigurationError(
        f"{option} {path} cannot be written: {why}.",
        remedy=f"Name a file that can be written, in a folder that exists, with {option}.",
    )


def _write(option: str, path: Path, text: str) -> None:
    if str(path) == "-":
        click.echo(text, nl=False)
        return
    try:
        path.write_text(text)
    except OSError as error:
        raise _unwritable(option, path, error.strerror) from error


def look_at(name, stack: ExitStack, *, count: bool, next_hop, artifacts, **options):
    """Every check that the options allow."""
    from sriov_lb_tests.audit import checks, places

    if not options["amphora_key"] and not options["vantage"]:
        raise errors.ConfigurationError(
            "Neither --amphora-key nor --vantage is given: there is nothing to compare with.",
            remedy="Give a key for the amphorae, a host on the VIP's network, or both.",
        )
    kept = artifacts is not None
    if not kept:
        folder = tempfile.TemporaryDirectory(prefix="sriov-lb-audit-")
        artifacts = Path(stack.enter_context(folder))
    opened = open_all(name, stack, artifacts, next_hop=next_hop, **options)
    found = checks.Audit(
        describe(opened.subject), started=time.strftime("%Y-%m-%dT%H:%M:%S%z"), notes=opened.notes
    )
    rulesets = []
    for seat in opened.seats:
        kernel, disk = checks.inside(opened.subject, seat)
        rulesets.append(kernel)
        found.checks += [kernel, disk]
    closed = [checks.closed(one) for one in opened.closed]
    found.checks += closed
    if options["amphora_key"] and not found.checks:
        found.checks.append(
            checks.nowhere(
                f"{opened.hidden}; name one that does with --admin-cloud"
                if opened.hidden
                else "the load balancer has no amphora in use"
            )
        )
    if opened.vantage is not None:
        seats = opened.seats if count else []
        known = [*rulesets, *closed]
        found.checks.append(
            checks.wire(opened.subject, opened.vantage, opened.reach, seats, known)
        )
    found.changed = places.changed(opened.user, opened.subject)
    if found.changed:
        found.notes.append(found.changed)
    if not kept:
        found.forget_captures(artifacts)
    return found


class Opened:
    """What the options lead to."""

    def __init__(self) -> None:
        self.user = self.subject = self.vantage = self.reach = self.jump = None
        self.seats, self.closed, self.notes, self.hidden = [], [], [], ""


def open_all(
    name: str,
    stack: ExitStack,
    artifacts: Path,
    *,
    cloud: str,
    admin_cloud: str,
    clouds_file: str,
    amphora_key: str,
    amphora_user: str,
    jump: str,
    jump_key: str,
    vantage: str,
    vantage_key: str,
    vantage_jump: bool,
    interface: str,
    links,
    next_hop=None,
) -> Opened:
    """API objects, amphorae and vantage; what is wrong with the options is said before any login.

    :raises SriovLbError: one sentence that names the option, and what to do.
    """
    from sriov_lb_tests.audit import places
    from sriov_lb_tests.wire.ssh import Pins

    login = _checked(cloud, amphora_key, vantage, vantage_key, interface)
    made, pins, way = Opened(), Pins(), None
    made.jump = places.jump_login(jump, jump_key, amphora_key or vantage_key)
    if made.jump is not None:
        way = made.jump.host(f"jump host {made.jump.address}", pins=pins)
        stack.callback(way.close)
    made.user, admin = places.connections(cloud, admin_cloud, clouds_file)
    lb = places.find(made.user, cloud, name)
    made.subject, made.hidden = places.subject(made.user, admin, lb)
    if amphora_key:
        made.seats, made.closed = places.seats(
            made.subject, amphora_user, amphora_key, stack, jump=way, pins=pins
        )
    if login is not None:
        made.vantage = places.vantage(
            login, interface, stack, artifacts, jump=way if vantage_jump else None, pins=pins,
            next_hop=next_hop,
        )  # fmt: skip
        made.reach = places.reach(
            made.vantage, made.subject, made.user, links, made.notes.append
        )
    return made


def _checked(cloud: str, amphora_key: str, vantage: str, vantage_key: str, interface: str):
    """The vantage's login; None without ``--vantage``.

    :raises ConfigurationError: an option is missing, or names what is not there.
    """
    from sriov_lb_tests.audit import places

    if not cloud:
        raise errors.ConfigurationError(
            "--cloud is missing and OS_CLOUD is not set; expected an entry of clouds.yaml.",
            remedy="Name the entry with --cloud; etc/clouds.yaml.sample shows one.",
        )
    if amphora_key:
        places.check_key("--amphora-key", amphora_key)
    if not vantage:
        return None
    login = places.Login.of("--vantage", vantage, vantage_key, "--vantage-key")
    if not interface:
        raise errors.ConfigurationError(
            f"--vantage {vantage} is given without --interface.",
            remedy="Name its interface on the VIP's network, such as --interface ens4.",
        )
    return login


def describe(subject) -> dict:
    """The load balancer, for the report."""
    lb, policy = subject.load_balancer, subject.policy()
    return {
        "id": lb["id"],
        "name": lb.get("name") or "",
        "vips": list(policy.vips),
        "provisioning_status": lb["provisioning_status"],
        "amphorae": [entry["id"] for entry in subject.amphorae],
        "listeners": [
            {
                "name": one.name,
                "protocol": one.kind,
                "port": one.port,
                "allowed_cidrs": list(one.cidrs),
                "served": one.served,
            }
            for one in policy.listeners
        ],
    }
