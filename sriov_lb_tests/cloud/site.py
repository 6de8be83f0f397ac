# SPDX-License-Identifier: Apache-2.0
"""Everything a load balancer under test stands on, made or adopted.

Each piece is made when it is first asked for and kept, so a run that needs no client boots
none. A piece that could not be made is not tried again: everybody who asks gets the same
error at once, instead of waiting for it once more.

Two ways to the same thing:

* :class:`AdminSite` follows Octavia's document on SR-IOV: host aggregate, private compute
  flavor, Octavia flavor, provider networks.
* :class:`AdoptedSite` is given what an administrator prepared, and makes only what a member
  of a project may make: ports, servers, load balancers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from openstack import exceptions as sdk

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import loadbalancers, networks, placement, servers
from sriov_lb_tests.cloud.connect import Clouds
from sriov_lb_tests.cloud.ledger import Ledger
from sriov_lb_tests.cloud.loadbalancers import LoadBalancers
from sriov_lb_tests.cloud.networks import Net
from sriov_lb_tests.cloud.servers import Guest, Key

T = TypeVar("T")

#: Roles of a guest's ports, in the order the guest gets them.
ACCESS, VIP, MEMBER = "access", "vip", "member"


@dataclass(frozen=True)
class NetSettings:
    """A provider network to be made. A CIDR may be "" for "none of that IP version"."""

    physical_network: str = ""
    network_type: str = "flat"
    segmentation_id: int = 0
    cidr_v4: str = ""
    cidr_v6: str = ""


@dataclass(frozen=True)
class AdoptSettings:
    """Ids of what exists; empty ones are made, or done without."""

    sriov_flavor_id: str = ""
    normal_flavor_id: str = ""
    vip_network_id: str = ""
    vip_subnet_ids: tuple[str, ...] = ()
    member_network_id: str = ""
    member_subnet_ids: tuple[str, ...] = ()
    client_ids: tuple[str, ...] = ()
    member_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What a site needs to know; plain data, so that any program can build one."""

    access_network: str
    guest_image: str
    guest_flavor: str
    key_folder: Path
    member_image: str = ""
    member_flavor: str = ""
    floating_network: str = ""
    vip: NetSettings = field(default_factory=NetSettings)
    member: NetSettings = field(default_factory=NetSettings)
    octavia_project: str = "service"
    hosts: tuple[str, ...] = ()
    aggregate_properties: Mapping[str, str] = field(default_factory=dict)
    flavor_properties: Mapping[str, str] = field(default_factory=dict)
    amphora_ram: int = 1024
    amphora_disk: int = 3
    amphora_vcpus: int = 1
    amphora_image_tag: str = ""
    topology: str = "SINGLE"
    allow_member_sriov: bool = False
    adopt: AdoptSettings = field(default_factory=AdoptSettings)
    lb_build_timeout: float = 300
    lb_change_timeout: float = 120
    server_build_timeout: float = 300
    delete_timeout: float = 300
    interval: float = 1.0


def once(make: Callable[[Any], T]) -> property:
    """A property made at the first look; a failure is kept too and raised again.

    The object has two dictionaries, ``_made`` and ``_failures``.
    """

    @functools.wraps(make)
    def look(self: Any) -> T:
        name = make.__name__
        if name in self._failures:
            raise self._failures[name].with_traceback(None)
        if name not in self._made:
            try:
                self._made[name] = make(self)
            except Exception as error:
                self._failures[name] = error
                raise
        return self._made[name]

    return property(look)


class Site:
    """The pieces that both modes make in the same way."""

    def __init__(self, settings: Settings, clouds: Clouds, ledger: Ledger) -> None:
        self.settings = settings
        self.clouds = clouds
        self.ledger = ledger
        self.lbs = LoadBalancers(
            clouds,
            ledger,
            timeout=settings.lb_build_timeout,
            change_timeout=settings.lb_change_timeout,
            interval=settings.interval,
        )
        self._made: dict[str, Any] = {}
        self._failures: dict[str, Exception] = {}
        self._members: list[Guest] = []

    # --- what the two modes differ in ---

    vip_net: Any
    member_net: Any
    sriov_flavor_id: Any
    normal_flavor_id: Any

    @property
    def port_by(self) -> str:
        """Who makes the guests' ports."""
        return "member"

    # --- networks that are there already ---

    def _existing(self, side: str) -> Net | None:
        """The network of a side (``vip``, ``member``) that the settings name, if they do."""
        network_id = getattr(self.settings.adopt, f"{side}_network_id")
        if not network_id:
            return None
        subnet_ids = getattr(self.settings.adopt, f"{side}_subnet_ids")
        option = f"[sriov_lb] adopt_{side}_network_id"
        subs = f"[sriov_lb] adopt_{side}_subnet_ids"
        net = networks.adopt(self.clouds.member, network_id, option)
        if subnet_ids:
            net.subnets = {}
            for subnet_id in subnet_ids:
                try:
                    subnet = self.clouds.member.network.get_subnet(subnet_id)
                except sdk.NotFoundException as error:
                    raise errors.ResourceMissing(
                        f"Subnet {subnet_id!r} ({subs}) does not exist or is not visible."
                    ) from error
                if subnet.network_id != net.id:
                    raise errors.ResourceMissing(
                        f"Subnet {subnet_id} ({subs}) is not on network {net.id} ({option})."
                    )
                net.subnets.setdefault(subnet.ip_version, subnet)
        return net

    # --- before anything is made ---

    def require(self) -> None:
        """Look up everything that must be there already; nothing is made.

        :raises NotPrepared: with all that is missing, by option.
        """
        missing = []
        for look in self._looks():
            try:
                look()
            except errors.SriovLbError as error:
                missing.append(error)
        if missing:
            raise errors.NotPrepared(missing)

    def _looks(self) -> Iterator[Callable[[], Any]]:
        wanted = self.settings
        if wanted.access_network:
            yield lambda: self.access_net
        if wanted.guest_image:
            yield lambda: self.guest_image
        if wanted.guest_flavor:
            yield lambda: self.guest_flavor
        if wanted.member_image:
            yield lambda: self.member_image
        if wanted.member_flavor:
            yield lambda: self.member_flavor
        for side in ("vip", "member"):
            yield functools.partial(self._existing, side)

    # --- guests ---

    @once
    def access_net(self) -> Net:
        """The network that guests are reached on."""
        name = self.settings.access_network
        found = self.clouds.member.network.find_network(name, ignore_missing=True)
        if found is None:
            raise errors.ResourceMissing(
                f"Network {name!r} ([sriov_lb] access_network) does not exist or is not visible."
            )
        return networks.adopt(self.clouds.member, found.id, "[sriov_lb] access_network")

    @once
    def key(self) -> Key:
        return servers.create_key(self.clouds.member, self.ledger, self.settings.key_folder)

    @once
    def security_group(self) -> Any:
        return networks.create_security_group(self.clouds.member, self.ledger, networks.OPEN)

    @once
    def guest_image(self) -> Any:
        return placement.find_image(
            self.clouds.member, self.settings.guest_image, "[sriov_lb] guest_image"
        )

    @once
    def guest_flavor(self) -> Any:
        return placement.find_flavor(
            self.clouds.member, self.settings.guest_flavor, "[sriov_lb] guest_flavor"
        )

    @once
    def member_image(self) -> Any:
        name = self.settings.member_image
        if not name:
            return self.guest_image
        return placement.find_image(self.clouds.member, name, "[sriov_lb] member_image")

    @once
    def member_flavor(self) -> Any:
        name = self.settings.member_flavor
        if not name:
            return self.guest_flavor
        return placement.find_flavor(self.clouds.member, name, "[sriov_lb] member_flavor")

    def ask_client(self, vnic_type: str = "direct", number: int = 1) -> Guest:
        """Ask for a client with that kind of port on the VIP network; does not wait.

        Its port has two addresses of each IP version: one to be allowed, one to be denied.

        :param number: 1 for the first, whose names have none.
        """
        name = "client" if number == 1 else f"client{number}"
        access = self._access_port(f"{name}-access")
        direct = vnic_type == "direct"
        request = {
            "versions": (4, 6),
            "vnic_type": vnic_type,
            "addresses_each": 2,
            "what": f"{name}-{vnic_type}",
        }
        try:
            # Crafted sources and MACs must get past the port.
            vip = networks.create_port(
                self.clouds.member, self.ledger, self.vip_net, port_security=False, **request
            )
        except sdk.ForbiddenException:
            # Not the owner of the network: its own addresses are all it may send from.
            vip = networks.create_port(
                self.clouds.member,
                self.ledger,
                self.vip_net,
                security_groups=None if direct else [self.security_group],
                **request,
            )
        return self._boot(
            {ACCESS: access, VIP: vip}, self.guest_image, self.guest_flavor, f"{name}-{vnic_type}"
        )

    def ask_member(
        self, number: int, place: str = "own", *, port_security: bool | None = None
    ) -> Guest:
        """Ask for a member server, on the member network or (``vip``) the VIP's.

        :param port_security: False for one that sends crafted frames.
        """
        access = self._access_port(f"member{number}-access")
        port = networks.create_port(
            self.clouds.member,
            self.ledger,
            self.vip_net if place == "vip" else self.member_net,
            port_security=port_security,
            security_groups=[self.security_group],
            what=f"member{number}-{place}",
        )
        return self._boot(
            {ACCESS: access, MEMBER: port},
            self.member_image,
            self.member_flavor,
            f"member{number}",
        )

    def await_guest(self, guest: Guest) -> Guest:
        """Wait until a guest is ACTIVE, and give it its floating address if it needs one."""
        servers.await_active(
            self.clouds.member, guest, timeout=self.settings.server_build_timeout
        )
        if self.settings.floating_network and guest.floating_address is None:
            external = self.clouds.member.network.find_network(
                self.settings.floating_network, ignore_missing=True
            )
            if external is None:
                raise errors.ResourceMissing(
                    f"Network {self.settings.floating_network!r} ([sriov_lb] floating_network) "
                    "does not exist or is not visible."
                )
            guest.floating_address = servers.create_floating_address(
                self.clouds.member, self.ledger, external, guest.ports[ACCESS]
            )
        return guest

    def ask_guest(self, ports: Mapping[str, Any], what: str) -> Guest:
        """Ask for a guest of the member's image with these ports, by role, besides the one it is
        reached on; does not wait."""
        return self._boot(
            {ACCESS: self._access_port(f"{what}-access"), **ports},
            self.member_image,
            self.member_flavor,
            what,
        )

    def _access_port(self, what: str) -> Any:
        return networks.create_port(
            self.clouds.member,
            self.ledger,
            self.access_net,
            versions=(4,) if 4 in self.access_net.subnets else (6,),
            security_groups=[self.security_group],
            what=what,
        )

    def _boot(self, ports: dict[str, Any], image: Any, flavor: Any, what: str) -> Guest:
        guest = servers.boot(
            self.clouds.member,
            self.ledger,
            image=image,
            flavor=flavor,
            ports=ports,
            key=self.key,
            what=what,
        )
        guest.nets = {ACCESS: self.access_net, VIP: self.vip_net}
        return guest

    # --- load balancers ---

    def ask_load_balancer(
        self,
        kind: str = "sriov",
        *,
        versions: tuple[int, ...] = (4,),
        what: str | None = None,
        flavor_id: str | None = None,
        additional_subnet_ids: Sequence[str] = (),
        **attributes: Any,
    ) -> Any:
        """Ask for a load balancer; does not wait.

        :param kind: ``sriov`` or ``normal``.
        :param versions: IP versions of its VIPs, the first is the VIP.
        :param flavor_id: another Octavia flavor than that of its kind.
        :param additional_subnet_ids: more VIPs, on further subnets of the VIP network.
        """
        subnets = [self.vip_net.subnet(version).id for version in versions]
        if flavor_id is None:
            flavor_id = self.sriov_flavor_id if kind == "sriov" else self.normal_flavor_id
        return self.lbs.create(
            subnet_id=subnets[0],
            flavor_id=flavor_id,
            additional_subnet_ids=[*subnets[1:], *additional_subnet_ids],
            what=what or kind,
            **attributes,
        )

    def flavor_of(self, kind: str, *, topology: str, member_sriov: bool = False) -> str:
        """The Octavia flavor with that topology, with or without VFs towards the members.

        :raises ResourceMissing: nobody prepared one.
        """
        raise errors.ResourceMissing(
            f"There is no {kind} flavor with topology {topology}"
            f"{' and VFs towards the members' if member_sriov else ''}.",
            remedy="Run in administrator mode, which makes the flavors it needs.",
        )


class AdminSite(Site):
    """A site made as Octavia's document on SR-IOV says, by an administrator."""

    @once
    def hosts(self) -> list[str]:
        """The hosts that go into the aggregate."""
        admin = self.clouds.by("admin")
        if not self.settings.hosts:
            return placement.sriov_hosts(admin, self.settings.vip.physical_network)
        placement.require_hosts(admin, self.settings.hosts)
        return sorted(self.settings.hosts)

    def _looks(self) -> Iterator[Callable[[], Any]]:
        yield from super()._looks()
        yield lambda: self.hosts
        yield lambda: self.octavia_project_id
        if self.settings.amphora_image_tag:
            yield lambda: self.amphora_image

    @once
    def amphora_image(self) -> Any:
        """The image that Octavia boots amphorae from, as far as its tag is told."""
        return placement.require_tagged_image(
            self.clouds.by("admin"), self.settings.amphora_image_tag
        )

    @once
    def aggregate(self) -> Any:
        return placement.create_aggregate(
            self.clouds.by("admin"), self.ledger, self.hosts, self.settings.aggregate_properties
        )

    @once
    def octavia_project_id(self) -> str:
        return placement.octavia_project(self.clouds.by("admin"), self.settings.octavia_project)

    @once
    def compute_flavor(self) -> Any:
        """The private compute flavor whose properties lead to the aggregate."""
        _ = self.aggregate
        return self.make_compute_flavor(self.settings.aggregate_properties, "amphora")

    def make_compute_flavor(self, properties: Mapping[str, str], what: str) -> Any:
        """A compute flavor of the amphora's size that only Octavia may use."""
        return placement.create_compute_flavor(
            self.clouds.by("admin"),
            self.ledger,
            project_id=self.octavia_project_id,
            properties={**self.settings.flavor_properties, **properties},
            ram=self.settings.amphora_ram,
            disk=self.settings.amphora_disk,
            vcpus=self.settings.amphora_vcpus,
            what=what,
        )

    def flavor_of(self, kind: str, *, topology: str, member_sriov: bool = False) -> str:
        name = f"{kind}-{'pair' if topology == 'ACTIVE_STANDBY' else 'single'}"
        name += "-members" if member_sriov else ""
        key = f"flavor {name}"
        if key not in self._made:
            data = self.flavor_data(
                self.compute_flavor.id,
                sriov=kind == "sriov",
                topology=topology,
                member_sriov=member_sriov,
            )
            self._made[key] = loadbalancers.create_flavor(
                self.clouds.by("admin"), self.ledger, data, what=name
            ).id
        return self._made[key]

    def flavor_data(
        self,
        compute_flavor_id: str,
        *,
        sriov: bool,
        topology: str = "",
        member_sriov: bool | None = None,
    ) -> dict[str, Any]:
        """A flavor profile; the twins' differ in ``sriov_vip`` and in nothing else."""
        data: dict[str, Any] = {
            "compute_flavor": compute_flavor_id,
            "loadbalancer_topology": topology or self.settings.topology,
            "sriov_vip": sriov,
        }
        if self.settings.allow_member_sriov if member_sriov is None else member_sriov:
            data["allow_member_sriov"] = True
        return data

    @once
    def sriov_flavor_id(self) -> str:
        return loadbalancers.create_flavor(
            self.clouds.by("admin"),
            self.ledger,
            self.flavor_data(self.compute_flavor.id, sriov=True),
            what="sriov",
            description="A load balancer whose VIP is on a virtual function.",
        ).id

    @once
    def normal_flavor_id(self) -> str:
        return loadbalancers.create_flavor(
            self.clouds.by("admin"),
            self.ledger,
            self.flavor_data(self.compute_flavor.id, sriov=False),
            what="normal",
            description="The same load balancer on a virtual port.",
        ).id

    def flavor_for_hosts(self, hosts: list[str], what: str) -> str:
        """An Octavia flavor whose amphorae go to these hosts alone; with none, nowhere.

        The same three steps as for all hosts, with a property that only this aggregate has.
        """
        admin = self.clouds.by("admin")
        properties = {f"sriov-lb-{what}": self.ledger.run_id}
        placement.create_aggregate(admin, self.ledger, hosts, properties, what=what)
        flavor = self.make_compute_flavor(properties, what)
        return loadbalancers.create_flavor(
            admin, self.ledger, self.flavor_data(flavor.id, sriov=True), what=what
        ).id

    @once
    def vip_net(self) -> Net:
        return self._existing("vip") or self._net(self.settings.vip, "vip")

    @once
    def member_net(self) -> Net:
        return self._existing("member") or self._net(self.settings.member, "member")

    def _net(self, wanted: NetSettings, what: str) -> Net:
        admin = self.clouds.by("admin")
        project = str(self.clouds.member.current_project_id)
        net = Net(
            networks.create_provider_network(
                admin,
                self.ledger,
                project_id=project,
                physical_network=wanted.physical_network,
                network_type=wanted.network_type,
                segmentation_id=wanted.segmentation_id,
                what=what,
            )
        )
        for version, cidr in ((4, wanted.cidr_v4), (6, wanted.cidr_v6)):
            if cidr:
                net.subnets[version] = networks.create_subnet(
                    admin, self.ledger, net.network, cidr, by="admin", project_id=project, what=what
                )
        return net


class AdoptedSite(Site):
    """A site that an administrator prepared."""

    def _looks(self) -> Iterator[Callable[[], Any]]:
        yield from super()._looks()
        yield lambda: self.sriov_flavor_id
        yield lambda: self.normal_flavor_id
        # Those that exist are only looked at.
        for number in range(1, len(self.settings.adopt.client_ids) + 1):
            yield functools.partial(self.ask_client, number=number)
        for number in range(1, len(self.settings.adopt.member_ids) + 1):
            yield functools.partial(self.ask_member, number)

    @once
    def vip_net(self) -> Net:
        found = self._existing("vip")
        assert found is not None, "the check of the options asks for adopt_vip_network_id"
        return found

    @once
    def member_net(self) -> Net:
        return self._existing("member") or self.vip_net

    @once
    def sriov_flavor_id(self) -> str:
        return self._flavor(
            self.settings.adopt.sriov_flavor_id, "[sriov_lb] adopt_sriov_flavor_id"
        )

    @once
    def normal_flavor_id(self) -> str | None:
        wanted = self.settings.adopt.normal_flavor_id
        return self._flavor(wanted, "[sriov_lb] adopt_normal_flavor_id") if wanted else None

    def ask_client(self, vnic_type: str = "direct", number: int = 1) -> Guest:
        ids = self.settings.adopt.client_ids
        if not ids:
            return super().ask_client(vnic_type, number)
        if number > len(ids):
            raise errors.ResourceMissing(
                f"Client {number} is wanted; [sriov_lb] adopt_client_ids names {len(ids)}.",
                remedy="Name as many servers as clients are wanted, or none.",
            )
        guest = self._adopt_guest(ids[number - 1], "[sriov_lb] adopt_client_ids")
        if VIP not in guest.ports:
            raise errors.ResourceMissing(
                f"Server {guest.name} ({guest.id}, [sriov_lb] adopt_client_ids) has no port on "
                f"the VIP network {self.vip_net.id}.",
                remedy="Attach one, or name another server.",
            )
        has = guest.ports[VIP].binding_vnic_type
        if has != vnic_type:
            raise errors.ResourceMissing(
                f"A client on a {vnic_type} port is wanted, and the port of server {guest.name} "
                f"({guest.id}, [sriov_lb] adopt_client_ids) on the VIP network is "
                f"{has or 'of a type that is not told'}.",
                remedy="Name a server with such a port, or none: then one is made.",
            )
        for version in self.vip_net.subnets:
            found = guest.addresses(VIP, version)
            if len(found) < 2:
                raise errors.ResourceMissing(
                    f"The port of server {guest.name} ({guest.id}, [sriov_lb] adopt_client_ids) on "
                    f"the VIP network has {len(found)} IPv{version} addresses; two are needed, one "
                    "that a listener allows and one that it does not.",
                    remedy="openstack port set --fixed-ip subnet=SUBNET PORT",
                )
        return guest

    def ask_member(
        self, number: int, place: str = "own", *, port_security: bool | None = None
    ) -> Guest:
        ids = self.settings.adopt.member_ids
        if not ids:
            return super().ask_member(number, place, port_security=port_security)
        if number > len(ids):
            raise errors.ResourceMissing(
                f"Member {number} is needed; [sriov_lb] adopt_member_ids names {len(ids)}.",
                remedy="Name as many servers as the tests need (2), or none.",
            )
        guest = self._adopt_guest(ids[number - 1], "[sriov_lb] adopt_member_ids")
        if MEMBER not in guest.ports:
            raise errors.ResourceMissing(
                f"Server {guest.name} ({guest.id}, [sriov_lb] adopt_member_ids) has no port on "
                f"the member network {self.member_net.id}."
            )
        return guest

    def await_guest(self, guest: Guest) -> Guest:
        if self.ledger.find("server", guest.id) is None:
            return guest  # adopted: it runs already
        return super().await_guest(guest)

    def _adopt_guest(self, server_id: str, option: str) -> Guest:
        nets = {ACCESS: self.access_net, VIP: self.vip_net, MEMBER: self.member_net}
        guest = servers.adopt(self.clouds.member, server_id, nets, option)
        if ACCESS not in guest.ports:
            raise errors.ResourceMissing(
                f"Server {guest.name} ({server_id}, {option}) has no port on the network of "
                f"[sriov_lb] access_network, {self.access_net.id}: nobody reaches it by ssh.",
                remedy="Attach one, or name another server or network.",
            )
        return guest

    def _flavor(self, flavor_id: str, option: str) -> str:
        try:
            flavor = self.clouds.member.load_balancer.get_flavor(flavor_id)
        except sdk.NotFoundException as error:
            raise errors.ResourceMissing(
                f"Octavia flavor {flavor_id!r} ({option}) does not exist."
            ) from error
        if not flavor.is_enabled:
            raise errors.ResourceMissing(
                f"Octavia flavor {flavor.name} ({flavor_id}, {option}) is not enabled.",
                remedy="openstack loadbalancer flavor set --enable FLAVOR",
            )
        return flavor.id
