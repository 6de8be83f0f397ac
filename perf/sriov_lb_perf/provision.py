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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openstack import exceptions as sdk
from oslo_config import cfg

from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.cloud import beside, connect, scenario, sweep
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
from sriov_lb_tests.cloud.twin import Deployment, Twins
from sriov_lb_tests.errors import CloudError, ResourceFault, SriovLbError
from sriov_lb_tests.wire import origin, serving
from sriov_lb_tests.wire.host import raise_interface
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
    needs: Collection[str] = (),
    sizes: Collection[int] = (),
    clients: int = 1,
    journals: Path | None = None,
    say: Callable[[str], None],
) -> Iterator[Pair]:
    """Both load balancers, ACTIVE and with their member, and clients; undone at the end.

    :param needs: what the profile's stages need beside a URL (``iperf3``, ``tls``, ``udp``,
        ``objects``); what the cloud cannot have of it is told with the targets.
    :param sizes: of the objects they ask for, bytes.
    :param clients: how many machines generate the load; each takes a VF.
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
        wanted = Wanted(frozenset(needs), tuple(sizes), clients)
        yield _built(site, group, wanted, stack, keys, say)


@dataclass(frozen=True)
class Wanted:
    """What a profile asks for; see :func:`twins`."""

    needs: frozenset[str] = frozenset()
    sizes: tuple[int, ...] = ()
    clients: int = 1


@dataclass(frozen=True)
class Served:
    """What there is beside the plain listener, on both load balancers or on neither.

    :param lacks: why something that was wanted is not there, by the name it has in a Target.
    """

    iperf3: bool = False
    tls: bool = False
    udp: bool = False
    objects: Mapping[int, str] = field(default_factory=dict)
    lacks: Mapping[str, str] = field(default_factory=dict)


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


def _built(site, group, wanted: Wanted, stack, keys: Path, say) -> Pair:
    """:func:`_build`, with Nova's refusal told as what it means here.

    :raises NoRoom: there is no host, or no VF free on any.
    """
    try:
        return _build(site, group, wanted, stack, keys, say)
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


def _build(site, group, wanted: Wanted, stack, keys: Path, say) -> Pair:
    several = "a client" if wanted.clients == 1 else f"{wanted.clients} clients"
    say(f"asking for both load balancers, {several} and a member")
    version = min(site.vip_net.subnets)
    asked = Twins.ask(site, versions=(version,), what="perf")
    clients = [site.ask_client("direct", number + 1) for number in range(wanted.clients)]
    member = site.ask_member(1, "vip")
    # The load balancers first: when one fails, Octavia removes the instance, and Nova's reason
    # with it, within seconds.
    both = asked.wait(site.lbs)
    say("both load balancers are ACTIVE")
    for guest in (*clients, member):
        site.await_guest(guest)
    say(f"{several} and the member are up; adding listeners and the member")
    user = group.member_user or group.guest_user
    server = _host(stack, group, member, user, keys)
    origin.start(server, member.name)
    for client in clients:
        host = _host(stack, group, client, group.guest_user, keys)
        raise_interface(host, client.mac(VIP), "port on the VIP network")
    bandwidth = "iperf3" in wanted.needs
    plain = scenario.listener_set("load-and-iperf3" if bandwidth else "load", {}, (version,))
    made = both.deploy(site.lbs, plain, [member], site.vip_net)
    served = _beside(site, group, wanted, made, member, server, keys, say)
    return Pair(
        reference=_target(site, group, both.normal, "normal", served),
        candidate=_target(site, group, both.sriov, "sriov", served),
        clients=tuple(_client(group, guest) for guest in clients),
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


def _beside(
    site, group: Any, wanted: Wanted, made: Sequence[Deployment], member: Guest,
    server: SshHost, keys: Path, say,
) -> Served:
    """Listeners and objects that only some stages ask for.

    What the cloud cannot have is left out with its reason, so that the other stages are measured;
    whether a stage may be left out is the profile's to say.
    """
    objects: dict[int, str] = {}
    lacks: dict[str, str] = {}
    if "objects" in wanted.needs:
        objects = serving.objects(server, wanted.sizes)
    if "tls" in wanted.needs:
        lacks["tls"] = beside.add_tls(site.lbs, made, group.tls_container_ref)
    if "udp" in wanted.needs:
        lacks["udp"] = _add_udp(site, group, made, member, server, keys)
    lacks = {what: why for what, why in lacks.items() if why}
    for why in lacks.values():
        say(f"left out: {why}")
    return Served(
        iperf3="iperf3" in wanted.needs,
        tls="tls" in wanted.needs and "tls" not in lacks,
        udp="udp" in wanted.needs and "udp" not in lacks,
        objects=objects,
        lacks=lacks,
    )  # fmt: skip


def _add_udp(
    site, group: Any, made: Sequence[Deployment], member: Guest, server: SshHost, keys: Path
) -> str:
    """A UDP listener on both, before an echo on the member; why not, if not."""
    why = _without_ip_vs(site, group, made, keys)
    if why:
        return why
    serving.echo(server)
    return beside.add_udp(site.lbs, made, member, site.vip_net)


def _without_ip_vs(site, group: Any, made: Sequence[Deployment], keys: Path) -> str:
    """Why no UDP listener can be had: the kernel of an amphora has no ip_vs. "" when all have it,
    and where nobody may look inside (then Octavia is asked for one)."""
    for deployment in made:
        for client in _inside(site, group, deployment.lb):
            try:
                with contextlib.closing(client.open(keys / "pins-amphorae")) as host:
                    there = Amphora(host).has_ip_vs()
            except SriovLbError as error:
                return f"no UDP listener was made: {error.message}"
            if not there:
                return (
                    "no UDP listener was made: the kernel of the amphora "
                    f"{client.where} has no ip_vs"
                )
    return ""


def _substrate(group: Any) -> str:
    known = ("hardware", "igb", "macvlan")
    return group.substrate if group.substrate in known else "unknown"


def _client(group: Any, guest: Guest) -> Client:
    """Where load is generated, for whoever runs engines there."""
    return Client(
        guest.name,
        "ssh",
        guest.floating_address or guest.addresses(ACCESS)[0],
        user=group.guest_user,
        key_file=str(guest.key.private_key) if guest.key else group.guest_key_file,
        jump=_jump(group) if group.guest_connect_method == "jump" else None,
    )


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


def _target(site, group: Any, lb, role: str, served: Served) -> Target:
    facts: dict[str, Any] = {"load balancer": lb.id, "flavor": lb.flavor_id}
    hosts = {}
    for amphora in _amphorae(site, lb):
        facts[f"amphora {amphora.role.lower()}"] = amphora.id
        facts["image"] = getattr(amphora, "image_id", None)
        hosts[amphora.id] = _compute_host(site, amphora)
    if any(hosts.values()):
        facts["host"] = ", ".join(str(host or "not told") for host in hosts.values())
    address = f"[{lb.vip_address}]" if ":" in lb.vip_address else lb.vip_address
    return Target(
        role,
        f"http://{address}/",
        large=origin.LARGE,
        iperf3=(lb.vip_address, origin.IPERF_PORT) if served.iperf3 else None,
        tls=f"https://{address}:{beside.TLS_PORT}/" if served.tls else None,
        udp=(lb.vip_address, serving.ECHO_PORT) if served.udp else None,
        objects=served.objects,
        lacks=served.lacks,
        facts=facts,
        amphorae=_inside(site, group, lb),
    )


def _inside(site, group: Any, lb) -> tuple[Client, ...]:
    """How the amphorae of a load balancer are reached, the master first; none where nobody may
    look inside."""
    if not group.amphora_ssh:
        return ()
    jump = _jump(group) if group.amphora_connect_method == "jump" else None
    return tuple(
        Client(
            amphora.role.lower(),
            "ssh",
            amphora.lb_network_ip,
            user=group.amphora_user,
            key_file=group.amphora_key_file,
            jump=jump,
        )
        for amphora in _amphorae(site, lb)
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
