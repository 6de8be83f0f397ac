# SPDX-License-Identifier: Apache-2.0
"""The database template: migrated schemas, made once per stack and copied at every start."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from sriov_lb_lab import database, files, programs, settings
from sriov_lb_lab.build.trees import Progress
from sriov_lb_lab.config import neutron, nova, octavia, small
from sriov_lb_lab.errors import LabError
from sriov_lb_lab.paths import Paths
from sriov_lb_lab.runtime import Runtime, wait_until

# What of a lab's folder the template keeps.
_KEPT = ("mysql", "keystone")


def etc(made: settings.Settings) -> dict[str, str]:
    """Every service's configuration files, relative to the lab's etc folder."""
    rendered: dict[str, str] = {}
    for module in (small, nova, neutron, octavia):
        rendered.update(module.files(made))
    rendered.update(programs.rabbitmq_files(made))
    return rendered


def ensure(state: Path, trees: dict[str, Path], octavia_version: str, progress: Progress) -> Path:
    """The template folder for a stack, made now if there is none.

    It holds ``mysql/``, ``keystone/`` and ``passwords.json`` (the database's own secrets; services
    reach it only inside a lab's network namespace).

    :raises LabError: a migration failed; its log stays in the scratch lab that the message names.
    """
    digest = hashlib.sha256(
        (trees["stack"].name + Path(database.__file__).read_text()).encode()
    ).hexdigest()[:12]
    target = state / "cache" / f"database-{octavia_version}-{digest}"
    if (target / "passwords.json").exists():
        return target
    with (state / "cache" / ".database.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / "passwords.json").exists():
            _make(state, trees, octavia_version, target, progress)
    return target


def _make(
    state: Path, trees: dict[str, Path], octavia_version: str, target: Path, progress: Progress
) -> None:
    progress("database", "migrating all schemas once (kept for later starts)")
    scratch = Paths.of(state, "t-" + target.name.rpartition("-")[2])
    runtime = Runtime(scratch)
    shutil.rmtree(scratch.lab, ignore_errors=True)
    made = settings.Settings(
        scratch.name, octavia_version, "none", {}, settings.connection_limit(20000)
    )
    files.write(scratch.lab / "etc", etc(made))
    files.write_one(scratch.lab / "settings.json", json.dumps(made.as_dict()))
    for folder in ("mysql", "keystone", "log"):
        (scratch.lab / folder).mkdir(parents=True, exist_ok=True)
    install = "/usr/bin/mariadb-install-db --no-defaults --user=root --skip-test-db "
    install += "--datadir=/var/lib/lab/mysql --auth-root-authentication-method=socket"
    try:
        runtime.start(trees["system"], trees["stack"], programs.storage(), [install.split()])
        wait_until(lambda: _accepts(runtime), 60, "MariaDB")
        runtime.run([f"{programs.BIN}/python", "-m", "sriov_lb_lab.database"], timeout=900)
        # A clean stop leaves data files that need no recovery.
        runtime.supervisor().stop("mariadb")
    except (LabError, subprocess.TimeoutExpired) as error:
        raise LabError(
            f"the databases could not be filled: {error}", f"look at the logs in {scratch.logs}"
        ) from error
    finally:
        runtime.stop()
    _keep(scratch.lab, target, made)


def _accepts(runtime: Runtime) -> bool:
    try:
        runtime.run(
            ["mariadb-admin", "--no-defaults", f"--socket={programs.MYSQL_SOCKET}", "ping"],
            timeout=10,
        )
    except LabError:
        return False
    return True


def _keep(source: Path, target: Path, made: settings.Settings) -> None:
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, mode=0o700)
    for name in _KEPT:
        (source / name).rename(scratch / name)
    files.write_one(scratch / "passwords.json", json.dumps(made.passwords))
    if target.exists():
        shutil.rmtree(target)
    scratch.rename(target)
    shutil.rmtree(source)
