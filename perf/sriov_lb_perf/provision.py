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
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from openstack import exceptions as sdk
from oslo_config import cfg

from sriov_lb_tests.cloud import connect, scenario, sweep
from sriov_lb_tests.cloud import options as cloud_options
from sriov_lb_tests.cloud.connect import Clouds
from sriov_lb_tests.cloud.ledger import Ledger, new_run_id
from sriov_lb_tests.cloud.servers import Guest
from sriov_lb_tests.cloud.site import (
    ACCESS,
    VIP,
    AdminSite,
    AdoptedSite,
)
from sriov_lb_tests.cloud.twin import Twins
from sriov_lb_tests.errors import CloudError, ResourceFault
from sriov_lb_tests.wire import origin
from sriov_lb_tests.wire.ssh import SshHost

from . import errors
from .clients import Client
from .targets import Pair, Target

SECTION = "sriov_lb"


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
        site.require()
        yield _built(site, group, bandwidth, stack, keys, say)


def _undo(ledger: Ledger, connections: Clouds, group: Any, say: Callable[[str], None]) -> None:
    if not ledger.open_entries:
        return
    say("taking away what was built")
    left = sweep.undo(
        ledger, connections, timeout=group.delete_timeout, interval=group.check_interval
    )
    for item in left:
        say(f"left behind: {item} (finish with: sriov-lb cleanup)")


#: Nova's words when no host has what an instance asks for, a free VF among it.
NO_HOST = (
    "No valid host", "NoValidHost", "Insufficient compute resources", "claim PCI device",
    "attach_interface",
)  # fmt: skip


def _built(site, group, bandwidth: bool, stack, keys: Path, say) -> Pair:
    """:func:`_build`, with Nova's refusal told as what it means here.

    :raises NoRoom: there is no host, or no VF free on any.
    """
    try:
        return _build(site, group, bandwidth, stack, keys, say)
    except CloudError as error:
        if any(words in str(error) for words in NO_HOST):
            raise errors.NoRoom(
                f"The cloud has no room for the comparison. {error.message}"
            ) from error
        if isinstance(error, ResourceFault) and not error.fault:
            raise errors.NoRoom(
                "Something could not be built and nobody says why; most often no host has a VF "
                f"free. {error.message}"
            ) from error
        raise


def _build(site, group, bandwidth: bool, stack, keys: Path, say) -> Pair:
    say("asking for both load balancers, a client and a member")
    version = min(site.vip_net.subnets)
    asked = Twins.ask(site, versions=(version,), what="perf")
    client = site.ask_client("direct")
    member = site.ask_member(1, "vip")
    # The load balancers first: when one fails, Octavia removes the instance, and Nova's reason
    # with it, within seconds.
    both = asked.wait(site.lbs)
    say("both load balancers are ACTIVE")
    for guest in (client, member):
        site.await_guest(guest)
    say("client and member are up; adding listeners and the member")
    user = group.member_user or group.guest_user
    origin.start(_host(stack, group, member, user, keys), member.name)
    _raise_interface(_host(stack, group, client, group.guest_user, keys), client)
    wanted = scenario.listener_set("load-and-iperf3" if bandwidth else "load", {}, (version,))
    both.deploy(site.lbs, wanted, [member], site.vip_net)
    through = _jump(group)
    address = client.floating_address or client.addresses(ACCESS)[0]
    key = str(client.key.private_key) if client.key else group.guest_key_file
    return Pair(
        reference=_target(site, group, both.normal, "normal", bandwidth),
        candidate=_target(site, group, both.sriov, "sriov", bandwidth),
        clients=(
            Client(
                client.name,
                "ssh",
                address,
                user=group.guest_user,
                key_file=key,
                jump=through if group.guest_connect_method == "jump" else None,
            ),
        ),
        substrate=_substrate(group),
        facts={
            "topology": group.loadbalancer_topology,
            "octavia_release": str(getattr(group, "octavia_release", "") or "not told"),
            "amphora_flavor": f"{group.amphora_vcpus} vCPU, {group.amphora_ram} MiB"
            if group.mode == "admin"
            else "of the adopted flavors",
            "member": member.name,
            "client_port": "direct",
            "member_port": "normal, on the VIP network",
        },
    )


def _substrate(group: Any) -> str:
    known = ("hardware", "igb", "macvlan")
    return group.substrate if group.substrate in known else "unknown"


def _jump(group: Any) -> Client | None:
    """The ssh proxy, where one is configured."""
    if not group.jump_host:
        return None
    return Client(
        group.jump_host,
        "ssh",
        group.jump_host,
        user=group.jump_user,
        port=group.jump_port,
        key_file=group.jump_key_file,
    )


def _host(stack, group: Any, guest: Guest, user: str, keys: Path) -> SshHost:
    """ssh to a guest; ends with the stack."""
    jump = None
    if group.guest_connect_method == "jump":
        jump = SshHost(
            group.jump_host,
            port=group.jump_port,
            user=group.jump_user,
            key_file=group.jump_key_file,
            name=f"jump host {group.jump_host}",
        )
        stack.callback(jump.close)
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


def _target(site, group: Any, lb, role: str, bandwidth: bool) -> Target:
    facts: dict[str, Any] = {"load balancer": lb.id, "flavor": lb.flavor_id}
    amphorae = _amphorae(site, lb)
    hosts = {}
    for amphora in amphorae:
        facts[f"amphora {amphora.role.lower()}"] = amphora.id
        facts["image"] = getattr(amphora, "image_id", None)
        hosts[amphora.id] = _compute_host(site, amphora)
    if any(hosts.values()):
        facts["host"] = ", ".join(str(host or "not told") for host in hosts.values())
    inside = ()
    if group.amphora_ssh:
        jump = _jump(group) if group.amphora_connect_method == "jump" else None
        inside = tuple(
            Client(
                amphora.role.lower(),
                "ssh",
                amphora.lb_network_ip,
                user=group.amphora_user,
                key_file=group.amphora_key_file,
                jump=jump,
            )
            for amphora in amphorae
        )
    address = f"[{lb.vip_address}]" if ":" in lb.vip_address else lb.vip_address
    return Target(
        role,
        f"http://{address}/",
        large=origin.LARGE,
        iperf3=(lb.vip_address, origin.IPERF_PORT) if bandwidth else None,
        facts=facts,
        amphorae=inside,
    )


def _amphorae(site, lb) -> list[Any]:
    """The amphorae of a load balancer, the master first; none where only an administrator may
    see them and there is none."""
    if site.clouds.admin is None:
        return []
    return sorted(site.lbs.amphorae(lb.id), key=lambda a: a.role == "BACKUP")


def _compute_host(site, amphora) -> str | None:
    """The hypervisor's host an amphora is on, as Nova tells an administrator."""
    try:
        return site.clouds.admin.compute.get_server(amphora.compute_id).compute_host
    except sdk.SDKException:
        return None
