# SPDX-License-Identifier: Apache-2.0
"""Builds what is compared: an SR-IOV load balancer, its normal twin, a member and a client.

The options are those of the plugin, section [sriov_lb] of tempest.conf. Everything made is
journalled first and undone at the end; ``sriov-lb cleanup`` finishes the job of a run that died.
"""

from __future__ import annotations

import configparser
import contextlib
import importlib.metadata
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from oslo_config import cfg

from sriov_lb_tests.cloud import connect, sweep
from sriov_lb_tests.cloud import options as cloud_options
from sriov_lb_tests.cloud.connect import Clouds
from sriov_lb_tests.cloud.ledger import Ledger, new_run_id
from sriov_lb_tests.cloud.scenario import ListenerSet, ListenerSpec, PoolSpec
from sriov_lb_tests.cloud.servers import Guest
from sriov_lb_tests.cloud.site import (
    ACCESS,
    VIP,
    AdminSite,
    AdoptedSite,
)
from sriov_lb_tests.cloud.twin import Twins
from sriov_lb_tests.wire.ssh import SshHost

from . import errors
from .clients import Client
from .targets import Pair, Target

SECTION = "sriov_lb"
MEMBER_PORT, IPERF_PORT = 8000, 5201

#: nginx in the member: a small body that names the member, and a large object for goodput.
NGINX = """\
user root;
worker_processes auto;
pid /run/sriov-lb-perf.pid;
error_log /var/log/sriov-lb-perf.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; sendfile on; tcp_nopush on; default_type text/plain;
  keepalive_requests 1000000000;
  server {{ listen {port} backlog=8192 reuseport; listen [::]:{port} backlog=8192 reuseport;
    root /var/lib/sriov-lb-perf; }}
}}
"""

START = """\
set -e
command -v nginx >/dev/null || {{ echo "nginx is not installed"; exit 127; }}
mkdir -p /var/lib/sriov-lb-perf
printf '%s %s' {name} {filling} >/var/lib/sriov-lb-perf/index.html
truncate -s 50M /var/lib/sriov-lb-perf/large
cat >/run/sriov-lb-perf.conf
nginx -c /run/sriov-lb-perf.conf
if command -v iperf3 >/dev/null; then iperf3 --server --daemon --port {iperf}; fi
"""


def options(path: str | None):
    """The section [sriov_lb] of a tempest.conf, with the plugin's defaults.

    The plugin publishes its options by entry point (as for oslo-config-generator), which is how
    they get here without importing it.

    :raises BadTarget: no such file, an option it does not know, a value of the wrong type.
    """
    path = path or os.environ.get("TEMPEST_CONFIG")
    if not path:
        raise errors.BadTarget(
            "--from-cloud needs to know the cloud's networks and images.",
            remedy="Add --config-file TEMPEST_CONF (its section [sriov_lb] is read).",
        )
    if not Path(path).is_file():
        raise errors.BadTarget(f"--config-file {path}: there is no such file.")
    (entry,) = importlib.metadata.entry_points(
        group="oslo.config.opts", name="sriov_lb_tests.config"
    )
    conf = cfg.ConfigOpts()
    for group, listed in entry.load()():
        conf.register_opts(listed, group=group)
    try:
        conf(args=[], default_config_files=[path])
        found = {name: conf[SECTION][name] for name in conf[SECTION]}
    except (cfg.ConfigFileParseError, cfg.ConfigFileValueError, ValueError) as error:
        raise errors.BadTarget(f"--config-file {path}: {error}") from error
    return _Group(found), path


class _Group:
    """Options as attributes."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


def clouds(group: Any, path: str) -> Clouds:
    """The administrator's and the member's connection.

    By name from clouds.yaml ([sriov_lb] admin_cloud and cloud, or OS_CLOUD), else the
    administrator of tempest.conf for both.
    """
    name = group.admin_cloud or os.environ.get("OS_CLOUD", "")
    if name:
        admin = connect.from_clouds_yaml(name, clouds_file=_clouds_file(group))
    elif group.mode == "adopt" and group.cloud:
        admin = None
    else:
        admin = _configured_administrator(path)
    if not group.cloud:
        return Clouds(member=admin, admin=admin)
    return Clouds(
        member=connect.from_clouds_yaml(group.cloud, clouds_file=_clouds_file(group)), admin=admin
    )


def _clouds_file(group: Any) -> str:
    return group.clouds_file


def _configured_administrator(path: str):
    """From [auth] and [identity] of tempest.conf."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read(path, encoding="utf-8")
    auth = parser["auth"] if parser.has_section("auth") else {}
    identity = parser["identity"] if parser.has_section("identity") else {}
    missing = [key for key in ("admin_username", "admin_password") if not auth.get(key)]
    if missing or not identity.get("uri_v3"):
        raise errors.BadTarget(
            "There are no administrator credentials: OS_CLOUD and [sriov_lb] admin_cloud are not "
            f"set, and {path} lacks [auth] {', '.join(missing) or 'nothing'} / [identity] uri_v3.",
            remedy="Set one of them.",
        )
    domain = auth.get("admin_domain_name", "Default")
    return connect.from_password(
        auth_url=identity["uri_v3"],
        username=auth["admin_username"],
        password=auth["admin_password"],
        project_name=auth.get("admin_project_name", "admin"),
        user_domain_name=domain,
        project_domain_name=domain,
        region=identity.get("region") or None,
        verify=identity.get("ca_certificates_file") or True,
    )


def listeners(bandwidth: bool) -> ListenerSet:
    """What both load balancers get: a web listener, and a TCP one for iperf3 where wanted."""
    web = ListenerSpec("web", "HTTP", 80, None, "web")
    pool = PoolSpec("web", "HTTP", "ROUND_ROBIN", MEMBER_PORT, None)
    if not bandwidth:
        return ListenerSet("performance", (web,), (pool,))
    return ListenerSet(
        "performance",
        (web, ListenerSpec("iperf3", "TCP", IPERF_PORT, None, "iperf3")),
        # iperf3's control and data connections must meet at one member.
        (pool, PoolSpec("iperf3", "TCP", "SOURCE_IP", IPERF_PORT, None)),
    )


@contextlib.contextmanager
def twins(
    config_file: str | None,
    *,
    bandwidth: bool = False,
    journals: Path | None = None,
    say: Callable[[str], None],
) -> Iterator[Pair]:
    """Both load balancers, ACTIVE and with their member, and a client; undone at the end.

    :param bandwidth: with a TCP listener for iperf3.
    :param journals: where the journal goes when the configuration does not say.
    :raises SriovLbError: what the cloud or a guest could not do; what was made is undone.
    """
    group, path = options(config_file)
    connections = clouds(group, path)
    connect.require_services(connections.member)
    connect.require_octavia(connections.member)
    folder = Path(group.journal_dir or journals or Path(group.artifacts_dir) / "journal")
    with contextlib.ExitStack() as stack:
        keys = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sriov-lb-perf-")))
        ledger = Ledger(folder, new_run_id())
        stack.callback(ledger.close)
        stack.callback(_undo, ledger, connections, group, say)
        who = {"member": connect.identity(connections.member)}
        if connections.admin is not None:
            who["admin"] = connect.identity(connections.admin)
        ledger.describe(who)
        kind = AdminSite if group.mode == "admin" else AdoptedSite
        site = kind(cloud_options.site_settings(group, keys), connections, ledger)
        yield _build(site, group, bandwidth, stack, keys, say)


def _undo(ledger: Ledger, connections: Clouds, group: Any, say: Callable[[str], None]) -> None:
    if not ledger.open_entries:
        return
    say("taking away what was built")
    left = sweep.undo(
        ledger, connections, timeout=group.delete_timeout, interval=group.check_interval
    )
    for item in left:
        say(f"left behind: {item} (finish with: sriov-lb cleanup)")


def _build(site, group, bandwidth: bool, stack, keys: Path, say) -> Pair:
    say("asking for both load balancers, a client and a member")
    asked = Twins.ask(site, versions=(4,), what="perf")
    client = site.ask_client("direct")
    member = site.ask_member(1, "vip")
    for guest in (client, member):
        site.await_guest(guest)
    say("client and member are up")
    user = group.member_user or group.guest_user
    _serve(_host(stack, group, member, user, keys), member.name)
    _raise_interface(_host(stack, group, client, group.guest_user, keys), client)
    both = asked.wait(site.lbs)
    say("both load balancers are ACTIVE; adding listeners and the member")
    wanted = listeners(bandwidth)
    both.deploy(site.lbs, wanted, [member], site.vip_net)
    address = client.floating_address or client.addresses(ACCESS)[0]
    key = str(client.key.private_key) if client.key else group.guest_key_file
    return Pair(
        reference=_target(site, both.normal, "normal", bandwidth),
        candidate=_target(site, both.sriov, "sriov", bandwidth),
        clients=(
            Client(
                client.name,
                "ssh",
                address,
                user=group.guest_user,
                key_file=key,
            ),
        ),
        substrate=_substrate(group),
        facts={
            "topology": group.loadbalancer_topology,
            "octavia_release": str(getattr(group, "octavia_release", "") or "not told"),
            "member": member.name,
            "client_port": "direct",
            "member_port": "normal, on the VIP network",
        },
    )


def _substrate(group: Any) -> str:
    known = ("hardware", "igb", "macvlan")
    return group.substrate if group.substrate in known else "unknown"


def _host(stack, group: Any, guest: Guest, user: str, keys: Path) -> SshHost:
    """ssh to a guest; ends with the stack."""
    if group.guest_connect_method == "jump":
        jump = SshHost(
            group.jump_host,
            port=group.jump_port,
            user=group.jump_user,
            key_file=group.jump_key_file,
            name=f"jump host {group.jump_host}",
        )
        stack.callback(jump.close)
    else:
        jump = None
    address = guest.floating_address or guest.addresses(ACCESS)[0]
    host = SshHost(
        address,
        user=user,
        key_file=str(guest.key.private_key) if guest.key else group.guest_key_file,
        jump=jump,
        pins=keys / f"pins-{guest.id}",
        pin_name=guest.id,
        name=f"{guest.name} ({address})",
        deadline=group.ssh_timeout,
    )
    stack.callback(host.close)
    return host


def _serve(host: SshHost, name: str) -> None:
    """Start nginx (and iperf3 where there is one) in the member.

    :raises CommandFailed: nginx is missing or does not start.
    """
    script = START.format(name=shlex.quote(name[-20:]), filling="x" * 43, iperf=IPERF_PORT)
    host.run(
        ["sh", "-c", script],
        input=NGINX.format(port=MEMBER_PORT).encode(),
        root=True,
        timeout=60,
    )


def _raise_interface(host: SshHost, client: Guest) -> None:
    """The client's interface on the VIP network is up, whatever its image does."""
    mac = client.mac(VIP)
    found = [i.name for i in host.interfaces().values() if i.mac.lower() == mac.lower()]
    if not found:
        raise errors.ClientFailed(
            f"The client {client.name} has no interface with the MAC {mac} of its port on the VIP "
            f"network; it has {', '.join(sorted(host.interfaces()))}."
        )
    host.run(["ip", "link", "set", found[0], "up"], root=True)


def _target(site, lb, role: str, bandwidth: bool) -> Target:
    facts: dict[str, Any] = {"load balancer": lb.id, "flavor": lb.flavor_id}
    for amphora in site.lbs.amphorae(lb.id):
        facts[f"amphora {amphora.role.lower()}"] = amphora.id
        facts["image"] = getattr(amphora, "image_id", None)
    return Target(
        role,
        f"http://{lb.vip_address}/",
        large="/large",
        iperf3=(lb.vip_address, IPERF_PORT) if bandwidth else None,
        facts=facts,
    )
