# SPDX-License-Identifier: Apache-2.0
"""Root file systems of Debian, made with mmdebstrap."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import platform
import shlex
import subprocess
from collections.abc import Sequence

from sriov_lb_lab.build import sources
from sriov_lb_lab.build.steps import Runner
from sriov_lb_lab.errors import BuildError

#: What a tree can do without: nobody reads manuals in it, and its messages are English.
EXCLUDED = (
    "/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*",
    "/usr/share/lintian/*", "/usr/share/linda/*", "/usr/share/groff/*",
    "/usr/share/bash-completion/*", "/usr/share/common-licenses/*",
)
INCLUDED = ("/usr/share/doc/*/copyright",)


@dataclasses.dataclass(frozen=True)
class Archive:
    """Where packages come from.

    :ivar kind: ``host``, ``default`` or ``option``: whose choice it was.
    :ivar lines: entries for ``sources.list``; none for mmdebstrap's own default.
    :ivar apt_options: transport settings of the host.
    """

    kind: str
    lines: tuple[str, ...]
    apt_options: tuple[str, ...] = ()


def packages_of(folder: pathlib.Path) -> tuple[str, ...]:
    """Read ``packages.txt`` of an element folder: one package per line, ``#`` begins a comment."""
    text = (folder / "packages.txt").read_text(encoding="utf-8")
    words = (line.split("#", 1)[0].strip() for line in text.splitlines())
    return tuple(sorted({word for word in words if word}))


def host_archive(mirror: str | None, release: dict[str, str],
                 etc_apt: pathlib.Path = pathlib.Path("/etc/apt")) -> Archive:
    """Choose the archive: the option, or the host's own where it is bookworm, or the default."""
    done = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)
    options = sources.carried_apt_options(done.stdout) if done.returncode == 0 else ()
    if mirror is not None:
        return Archive("option", sources.mirror_lines(mirror), options)
    if release.get("VERSION_CODENAME") == sources.SUITE and release.get("ID") == "debian":
        lines = sources.host_lines(read_host_entries(etc_apt))
        if lines:
            return Archive("host", lines, options)
    return Archive("default", (), options)


def read_host_entries(etc_apt: pathlib.Path) -> list[sources.Entry]:
    """Every archive that the host's apt uses."""
    entries: list[sources.Entry] = []
    files = [etc_apt / "sources.list"]
    if (etc_apt / "sources.list.d").is_dir():
        files += sorted((etc_apt / "sources.list.d").iterdir())
    for path in files:
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".list":
            entries += sources.parse_one_line(text)
        elif path.suffix == ".sources":
            entries += sources.parse_deb822(text)
    resolved = (sources.resolve_mirror_list(
        entry, lambda name: pathlib.Path(name).read_text(encoding="utf-8")) for entry in entries)
    return [entry for entry in resolved if entry is not None]


def argv(root: pathlib.Path, packages: Sequence[str], archive: Archive,
         apt_cache: pathlib.Path) -> list[str]:
    """The mmdebstrap command for one tree.

    Packages are kept in ``apt_cache`` and taken from it again by hard link (apt checks them against
    the archive's index, so a damaged one is fetched anew).
    """
    cache = shlex.quote(str(apt_cache))
    keep = (
        f'for f in "$1"/var/cache/apt/archives/*.deb; do [ -e "$f" ] || continue; '
        f'n={cache}/"${{f##*/}}"; [ -e "$n" ] || '
        f'{{ cp --link "$f" "$n" 2>/dev/null || '
        f'{{ cp "$f" "$n.$$" && mv "$n.$$" "$n"; }}; }}; done'
    )
    give = (
        f'mkdir -p "$1"/var/cache/apt/archives/partial; for f in {cache}/*.deb; do '
        f'[ -e "$f" ] || continue; cp --link "$f" "$1"/var/cache/apt/archives/ 2>/dev/null '
        f'|| cp "$f" "$1"/var/cache/apt/archives/; done'
    )
    # Neither services nor their maintainer scripts' starts belong into a build.
    silence = (r'f="$1"/usr/sbin/policy-rc.d; mkdir -p "${f%/*}"; '
               r'printf "#!/bin/sh\nexit 101\n" > "$f"; chmod 755 "$f"')
    settle = " && ".join((
        'rm -f "$1"/usr/sbin/policy-rc.d',
        'rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/apt/sources.list.d/*',
        # A finished tree never installs anything again.
        ': > "$1"/etc/apt/sources.list',
        # Regular files, so that a build can mount the host's over them.
        'rm -f "$1"/etc/resolv.conf && echo "nameserver 127.0.0.1" > "$1"/etc/resolv.conf',
        'printf "127.0.0.1 localhost\\n::1 localhost ip6-localhost ip6-loopback\\n" '
        '> "$1"/etc/hosts',
        'chmod 644 "$1"/etc/hosts "$1"/etc/resolv.conf',
        'rm -f "$1"/etc/hostname "$1"/var/lib/dbus/machine-id',
        ': > "$1"/etc/machine-id',
        'rm -rf "$1"/var/log/*.log "$1"/var/log/apt/* "$1"/var/cache/debconf/*-old',
    ))
    command = [
        "mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory",
        "--skip=essential/unlink",
        f"--keyring={sources.KEYRING}",
        f"--include={','.join(packages)}",
        '--aptopt=Apt::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        # Unprivileged helpers of apt could not read the key in somebody's home folder.
        '--aptopt=APT::Sandbox::User "root"',
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={path}" for path in EXCLUDED),
        *(f"--dpkgopt=path-include={path}" for path in INCLUDED),
        *(f"--aptopt={option}" for option in archive.apt_options),
        f"--setup-hook={give}",
        f"--essential-hook={silence}",
        f"--customize-hook={keep}",
        f"--customize-hook={settle}",
        sources.SUITE, str(root),
    ]
    return command + list(archive.lines)


def bootstrap(runner: Runner, name: str, root: pathlib.Path, packages: Sequence[str],
              archive: Archive, apt_cache: pathlib.Path) -> None:
    """Make a root tree in an empty folder.

    :raises BuildError: if mmdebstrap fails.
    """
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    # A host's Python settings make maintainer scripts behave differently.
    for variable in [key for key in environment if key.startswith(("PYTHON", "PIP_"))]:
        del environment[variable]
    try:
        runner.isolated(argv(root, packages, archive, apt_cache), log=name,
                        what=f"installing Debian packages for {name}", environment=environment)
    except BuildError:
        harvest(root, apt_cache)
        raise


def harvest(root: pathlib.Path, apt_cache: pathlib.Path) -> None:
    """Keep the packages that arrived before a failure (apt names a file when it is complete)."""
    for path in (root / "var/cache/apt/archives").glob("*.deb"):
        if not (apt_cache / path.name).exists():
            path.rename(apt_cache / path.name)


def machine() -> str:
    """The processor architecture that trees made here run on."""
    return platform.machine()
