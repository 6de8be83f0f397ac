# SPDX-License-Identifier: Apache-2.0
"""Fill the services' databases; run inside a lab that has MariaDB up and nothing else.

``python -m sriov_lb_lab.database`` reads /var/lib/lab/settings.json. Its result, MariaDB's data
folder and Keystone's key repositories, is kept as a template, because half a minute of migrations
on every start is half a minute too much.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sriov_lb_lab.paths import INSIDE_LAB
from sriov_lb_lab.programs import BIN, ETC, MYSQL_SOCKET
from sriov_lb_lab.settings import Settings

SCHEMAS = (
    "keystone", "glance", "placement", "nova_api", "nova_cell0", "nova", "neutron",
    "octavia", "octavia_persistence",
)  # fmt: skip


def main() -> None:
    """Create schemas and user, then migrate all services side by side."""
    settings = Settings.from_dict(json.loads((INSIDE_LAB / "settings.json").read_text()))
    _sql(_grants(settings))
    chains = _chains(settings)
    with ThreadPoolExecutor(len(chains)) as pool:
        for took, name in pool.map(_chain, chains.items()):
            print(f"{name}: {took:.1f} s", flush=True)


def _grants(settings: Settings) -> str:
    secret = settings.passwords["database"]
    lines = [f"CREATE DATABASE IF NOT EXISTS {schema} CHARACTER SET utf8mb4;" for schema in SCHEMAS]
    lines.append(f"CREATE OR REPLACE USER 'openstack'@'%' IDENTIFIED BY '{secret}';")
    lines.append("GRANT ALL PRIVILEGES ON *.* TO 'openstack'@'%';")
    return "\n".join(lines)


def _sql(text: str) -> None:
    subprocess.run(
        ["mariadb", "--no-defaults", f"--socket={MYSQL_SOCKET}"], input=text, text=True, check=True
    )


def _chains(settings: Settings) -> dict[str, list[list[str]]]:
    keystone = [f"{BIN}/keystone-manage", "--config-file", f"{ETC}/keystone/keystone.conf"]
    # Root owns the repositories, as it runs everything here.
    owner = ["--keystone-user", "root", "--keystone-group", "root"]
    nova = [f"{BIN}/nova-manage", "--config-file", f"{ETC}/nova/nova.conf"]
    return {
        "keystone": [
            [*keystone, "db_sync"],
            [*keystone, "fernet_setup", *owner],
            [*keystone, "credential_setup", *owner],
        ],
        "glance": [[f"{BIN}/glance-manage", "--config-file", f"{ETC}/glance/glance-api.conf",
                    "db_sync"]],
        "placement": [[f"{BIN}/placement-manage", "--config-file",
                       f"{ETC}/placement/placement.conf", "db", "sync"]],
        "nova": [
            [*nova, "api_db", "sync"],
            [*nova, "cell_v2", "map_cell0", "--database_connection",
             settings.database("nova_cell0")],
            [*nova, "db", "sync"],
            [*nova, "cell_v2", "create_cell", "--name", "cell1"],
        ],
        "neutron": [[f"{BIN}/neutron-db-manage", "--config-file", f"{ETC}/neutron/neutron.conf",
                     "--config-file", f"{ETC}/neutron/ml2_conf.ini", "upgrade", "head"]],
        "octavia": [[f"{BIN}/octavia-db-manage", "--config-file", f"{ETC}/octavia/octavia.conf",
                     "upgrade", "head"]],
    }  # fmt: skip


def _chain(item: tuple[str, list[list[str]]]) -> tuple[float, str]:
    name, commands = item
    began = time.monotonic()
    log = Path(INSIDE_LAB / "log" / f"database-{name}.log")
    with log.open("ab") as output:
        for argv in commands:
            done = subprocess.run(argv, stdout=output, stderr=output)
            if done.returncode:
                sys.exit(f"{' '.join(argv)} ended with {done.returncode}; see {log.name}")
    return time.monotonic() - began, name


if __name__ == "__main__":
    main()
