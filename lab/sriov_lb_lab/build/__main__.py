# SPDX-License-Identifier: Apache-2.0
"""``python -m sriov_lb_lab.build``: make the trees and nothing else."""

from __future__ import annotations

import json
import pathlib
import sys
import time

import click

from sriov_lb_lab.build import host, trees, versions
from sriov_lb_lab.errors import LabError


@click.command()
@click.option("--cache", type=click.Path(path_type=pathlib.Path), show_default=True,
              default=pathlib.Path("/var/lib/sriov-lb-lab/cache"), help="Where the trees go.")
@click.option("--octavia", default=versions.DEFAULT_OCTAVIA, show_default=True,
              help="Octavia's release.")
@click.option("--mirror", help="Debian mirror to use instead of this machine's.")
@click.option("--install-packages", is_flag=True,
              help="Install what this machine lacks for building, after saying what.")
def main(cache: pathlib.Path, octavia: str, mirror: str | None, install_packages: bool) -> None:
    """Make the trees of a lab that are missing, and say where they are."""
    begin = time.monotonic()

    def progress(step: str, message: str) -> None:
        click.echo(f"{time.monotonic() - begin:7.1f} s  {step:<12}  {message}", err=True)

    try:
        if install_packages:
            host.require_root()
            host.install_packages(host.missing_packages(), progress)
        made = trees.ensure(cache, octavia, mirror=mirror, progress=progress)
    except LabError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    click.echo(json.dumps({tree: str(getattr(made, tree)) for tree in made.digests}, indent=2))


if __name__ == "__main__":
    main()
