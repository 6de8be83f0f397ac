# SPDX-License-Identifier: Apache-2.0
"""Carries the host's way to a package index into a chroot, for as long as a build lasts.

Where a machine fetches Python packages from is the business of whoever runs it: an index of the
company, a proxy, a certificate authority, a folder of wheels.  All of it reaches the chroot as
environment variables and bind mounts, so nothing of it stays in a tree.
"""

from __future__ import annotations

import ast
import configparser
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import unquote, urlsplit

#: Options that say where packages come from and how to get there.  Others of the host (a target
#: folder, constraints, "never outside a venv") are about its own installations.
CARRIED = frozenset({
    "index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "cert", "client-cert",
    "proxy", "timeout", "default-timeout", "retries",
})
_LISTS = frozenset({"extra-index-url", "find-links", "trusted-host"})
_LOCATIONS = frozenset({"index-url", "extra-index-url", "find-links"})
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy")
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
#: Where files of the host appear inside the chroot (a tmpfs while the build runs).
INSIDE = pathlib.PurePosixPath("/run/lab-build")


@dataclasses.dataclass(frozen=True)
class PipSettings:
    """What a chroot needs to reach the host's package index.

    :ivar environment: variables for the processes inside.
    :ivar binds: pairs (path on the host, path inside), to be mounted read-only.
    :ivar skipped: one sentence for each setting of the host that could not be carried.
    """

    environment: dict[str, str]
    binds: tuple[tuple[pathlib.Path, pathlib.PurePosixPath], ...]
    skipped: tuple[str, ...]


def parse_config_list(text: str) -> dict[str, str]:
    """Read what ``pip config list`` prints into option -> value, environment over files.

    Lines are ``section.option='value'``; section ``:env:`` is the environment.  ``[install]`` and
    ``[download]`` win over ``[global]`` as they do in pip for the commands used here.
    """
    rank = {"global": 0, "download": 1, "install": 2, ":env:": 3}
    found: dict[str, tuple[int, str]] = {}
    for line in text.splitlines():
        match = re.match(r"^(?P<section>:env:|[\w-]+)\.(?P<option>[\w.-]+)=(?P<value>.*)$",
                         line.strip())
        if match is None or match["section"] not in rank:
            continue
        option = match["option"].lstrip(".").replace("_", "-").lower()
        try:
            value = str(ast.literal_eval(match["value"]))
        except (SyntaxError, ValueError):
            value = match["value"]
        if option not in found or rank[match["section"]] >= found[option][0]:
            found[option] = (rank[match["section"]], value)
    return {option: value for option, (_, value) in found.items()}


def from_files(paths: Iterable[pathlib.Path], environ: Mapping[str, str]) -> dict[str, str]:
    """The same as :func:`parse_config_list` on a host without pip: read its files directly."""
    lines = []
    for path in paths:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (OSError, configparser.Error):
            # A file that pip could not read either says nothing about where packages come from.
            continue
        lines.extend(f"{section}.{option}={value!r}"
                     for section in parser.sections() for option, value in parser.items(section))
    lines.extend(f":env:.{name[4:].lower()}={value!r}"
                 for name, value in environ.items() if name.startswith("PIP_"))
    return parse_config_list("\n".join(lines))


def carry(
    options: Mapping[str, str],
    environ: Mapping[str, str],
    exists: Callable[[str], bool] = os.path.exists,
    home: str | None = None,
) -> PipSettings:
    """Decide what goes into the chroot.

    :param options: pip's options of the host, as :func:`parse_config_list` gives them.
    :param environ: the host's environment.
    :param exists: tells whether a path is there.
    :param home: home folder whose ``.netrc`` holds credentials of an index, if it is there.
    """
    environment: dict[str, str] = {}
    binds: dict[str, pathlib.PurePosixPath] = {}
    skipped: list[str] = []

    def inside(path: str) -> str | None:
        if not exists(path):
            return None
        return str(binds.setdefault(path, INSIDE / f"host-{len(binds)}" / pathlib.Path(path).name))

    for option in sorted(CARRIED & options.keys()):
        value = options[option]
        kept = []
        for part in value.split() if option in _LISTS else [value.strip()]:
            path = None
            if option in ("cert", "client-cert") or (
                    option in _LOCATIONS and not urlsplit(part).scheme):
                path = os.path.expanduser(part)
            elif option in _LOCATIONS and urlsplit(part).scheme == "file":
                path = unquote(urlsplit(part).path)
            if path is None:
                kept.append(part)
                continue
            path = path.rstrip("/")
            there = None
            if option in ("index-url", "extra-index-url"):
                # An index in a folder points at its files relatively, mostly beside itself.
                parent, _, name = path.rpartition("/")
                above = inside(parent) if exists(path) else None
                there = None if above is None else f"{above}/{name}"
            else:
                there = inside(path)
            if there is None:
                skipped.append(f"pip's {option} names {part}, which does not exist here")
            else:
                kept.append(f"file://{there}" if part.startswith("file:") else there)
        if kept:
            environment["PIP_" + option.upper().replace("-", "_")] = " ".join(kept)

    for name in _PROXIES:
        for spelling in (name, name.upper()):
            if environ.get(spelling):
                environment[spelling] = environ[spelling]
    for name in _BUNDLES:
        path = environ.get(name, "")
        if not path:
            continue
        there = inside(path)
        if there is None:
            skipped.append(f"{name} names {path}, which does not exist here")
        else:
            environment[name] = there
    if home and exists(f"{home}/.netrc"):
        environment["NETRC"] = str(inside(f"{home}/.netrc"))
    return PipSettings(
        environment,
        tuple((pathlib.Path(outer), inner) for outer, inner in binds.items()),
        tuple(skipped),
    )


def of_host(environ: Mapping[str, str] | None = None) -> PipSettings:
    """Read this machine's settings, with pip where it has one and from pip's files where not."""
    environ = os.environ if environ is None else environ
    home = os.path.expanduser("~")
    for python in dict.fromkeys((sys.executable, "/usr/bin/python3")):
        done = subprocess.run(
            [python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False,
            env={**environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        )
        if done.returncode == 0:
            return carry(parse_config_list(done.stdout), environ, home=home)
    files = [pathlib.Path("/etc/pip.conf"), pathlib.Path(home, ".pip/pip.conf"),
             pathlib.Path(home, ".config/pip/pip.conf")]
    if environ.get("PIP_CONFIG_FILE"):
        files.append(pathlib.Path(environ["PIP_CONFIG_FILE"]))
    return carry(from_files(files, environ), environ, home=home)
