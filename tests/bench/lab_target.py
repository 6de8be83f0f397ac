# SPDX-License-Identifier: Apache-2.0
"""Builds an SR-IOV load balancer in a lab, tells what it is, and takes it away.

    sriov-lb-lab exec -- python tests/bench/lab_target.py TEMPEST_CONF FOLDER

prints one line of JSON when it can be swept from the client's instance (``server``, its
``interface``, the ``vip``, the ``open`` ports), and ends, with all it made, when its standard input
does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sriov_lb_perf import provision
from sriov_lb_tests.cloud import connect, sweep
from sriov_lb_tests.cloud import options as cloud_options
from sriov_lb_tests.cloud.ledger import Ledger, new_run_id
from sriov_lb_tests.cloud.site import ACCESS, VIP, AdminSite
from sriov_lb_tests.wire.host import raise_interface
from sriov_lb_tests.wire.ssh import SshHost

OPEN = (80, 443, 8080)
#: A listener that the client may not reach: documentation addresses (RFC 5737) that are nobody's.
DENIED, ALLOWED_CIDR = 8081, "192.0.2.0/25"


def main(config: str, folder: Path) -> None:
    group, path = provision.options(config)
    clouds = provision.clouds(group, path)
    ledger = Ledger(folder / "journal", new_run_id())
    ledger.describe(
        {"member": connect.identity(clouds.member), "admin": connect.identity(clouds.admin)}
    )
    try:
        site = AdminSite(cloud_options.site_settings(group, folder), clouds, ledger)
        site.require()
        print(json.dumps(build(site, group, folder)), flush=True)
        sys.stdin.read()
    finally:
        left = sweep.undo(ledger, clouds, timeout=group.delete_timeout, interval=1)
    if left:
        sys.exit(f"left behind: {', '.join(map(str, left))}")


def build(site: AdminSite, group, folder: Path) -> dict[str, object]:
    lb = site.ask_load_balancer("sriov", versions=(4,), what="bench",
                                flavor_id=site.flavor_of("sriov", topology="SINGLE"))  # fmt: skip
    client = site.ask_client("direct")
    lb = site.lbs.wait(lb.id)
    site.await_guest(client)
    for port in OPEN:
        site.lbs.create_listener(lb, protocol="TCP", port=port, what=f"open-{port}")
    site.lbs.create_listener(
        lb, protocol="TCP", port=DENIED, allowed_cidrs=[ALLOWED_CIDR], what="denied"
    )
    return {
        "server": client.id,
        "interface": raised(group, client, folder),
        "address": client.addresses(ACCESS)[0],
        "user": group.guest_user,
        "key": str(client.key.private_key),
        "vip": lb.vip_address,
        "open": OPEN,
    }


def raised(group, client, folder: Path) -> str:
    """The client's interface on the VIP network, up."""
    with SshHost(
        client.addresses(ACCESS)[0], user=group.guest_user, key_file=str(client.key.private_key),
        pins=folder / "pins", pin_name=client.id, deadline=group.ssh_timeout,
    ) as host:  # fmt: skip
        return raise_interface(host, client.mac(VIP), "port on the VIP network")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
