# SPDX-License-Identifier: Apache-2.0
"""From what the user wrote to API objects, amphorae and the vantage. Messages name the option."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openstack import exceptions as sdk

from sriov_lb_tests import errors
from sriov_lb_tests.agreement import Reach, Seat, Subject
from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.cloud import connect, resources
from sriov_lb_tests.wire.ssh import Pins, SshHost
from sriov_lb_tests.wire.vantage import Vantage

#: Seconds for the first ssh connection: whoever is asked is up, or is not.
PATIENCE = 15.0


@dataclass(frozen=True)
class Login:
    """``[ssh://]user@host[:port]`` and the key for it."""

    user: str
    address: str
    port: int
    key: str

    @classmethod
    def of(cls, option: str, text: str, key: str, key_option: str) -> Login:
        """:raises ConfigurationError: it is not of that form, or the key is not there."""
        found = re.fullmatch(
            r"(?:ssh://)?([^@/\s]+)@(\[[0-9a-fA-F:.]+\]|[^:@/\s]+)(?::(\d+))?/?", text
        )
        if found is None:
            raise errors.ConfigurationError(
                f"{option} is {text!r}; expected USER@HOST or ssh://USER@HOST:PORT.",
                remedy=f"Write it like {option} debian@198.51.100.7.",
            )
        check_key(key_option, key)
        return cls(found[1], found[2].strip("[]"), int(found[3] or 22), key)

    def host(self, name: str, jump: SshHost | None = None, pins: Pins | None = None) -> SshHost:
        return SshHost(
            self.address,
            user=self.user,
            key_file=self.key,
            port=self.port,
            jump=jump,
            pins=pins,
            name=name,
            deadline=PATIENCE,
        )


def check_key(option: str, key: str) -> None:
    """:raises ConfigurationError: there is no such file."""
    if not key or not Path(key).is_file():
        raise errors.ConfigurationError(
            f"{option} is {key!r}; expected the file of a private key.",
            remedy=f"Name a file that exists with {option}.",
        )


def connections(cloud: str, admin_cloud: str, clouds_file: str) -> tuple[Any, Any]:
    """The cloud as its user and as who sees amphorae (the same without ``--admin-cloud``).

    :raises ConfigurationError, AuthenticationFailed, ApiUnreachable: naming the option.
    """
    found = []
    for option, name in (("--cloud", cloud), ("--admin-cloud", admin_cloud)):
        if not name:
            continue
        try:
            found.append(connect.from_clouds_yaml(name, clouds_file=clouds_file))
        except errors.SriovLbError as error:
            remedy = error.remedy.replace("[sriov_lb] clouds_file (--clouds-file)", "--clouds-file")
            raise type(error)(f"{option} {name}: {error.message}", remedy=remedy) from error
    return found[0], found[-1]


def find(connection: Any, cloud: str, name_or_id: str) -> Any:
    """The load balancer.

    :raises ResourceMissing: none of that name, or several.
    """
    api = connection.load_balancer
    with connect.translated(f"cloud {cloud!r}"):
        try:
            return resources.LoadBalancer.new(id=name_or_id).fetch(api)
        except (sdk.NotFoundException, sdk.BadRequestException, sdk.ForbiddenException):
            found = list(resources.LoadBalancer.list(api, name=name_or_id))
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(one.id for one in found)
        raise errors.ResourceMissing(
            f"{len(found)} load balancers of cloud {cloud!r} are called {name_or_id!r}: {ids}.",
            remedy="Name one by its id.",
        )
    raise errors.ResourceMissing(
        f"Cloud {cloud!r} (--cloud) shows no load balancer with the id or name {name_or_id!r}.",
        remedy="`openstack loadbalancer list` with the same cloud shows those that there are.",
    )


def subject(user: Any, admin: Any, lb: Any) -> tuple[Subject, str]:
    """API objects of a load balancer, and why its amphorae are not among them ("" if they are).

    :raises ConfigurationError: it has no SR-IOV VIP.
    :raises StuckPending: it is being changed right now.
    """
    if lb.vip_vnic_type != "direct":
        raise errors.ConfigurationError(
            f"Load balancer {lb.name} ({lb.id}) has a VIP of type {lb.vip_vnic_type or 'normal'}: "
            "security groups guard it, not rules in its amphorae.",
            remedy="Name a load balancer whose flavor has sriov_vip.",
        )
    if lb.provisioning_status.startswith("PENDING"):
        raise errors.StuckPending(
            f"Load balancer {lb.name} ({lb.id}) is {lb.provisioning_status}: what holds now may "
            "not hold in a second.",
            remedy="Repeat when it is ACTIVE.",
        )
    api = user.load_balancer
    with connect.translated("the load balancing API"):
        listeners = list(api.listeners(load_balancer_id=lb.id))
        pools = list(api.pools(loadbalancer_id=lb.id))
    hidden = ""
    try:
        amphorae = [
            one
            for one in admin.load_balancer.amphorae(loadbalancer_id=lb.id)
            if one.status == "ALLOCATED"
        ]
    except sdk.HttpException as error:
        amphorae = []
        hidden = f"the API does not show amphorae to this cloud's user ({error.message or error})"
    return Subject.of(lb, listeners, pools, amphorae, subnets(user, lb)), hidden


def changed(user: Any, before: Subject) -> str:
    """What became different since ``before`` was read, as a sentence; "" when nothing did.

    :raises SriovLbError: the API cannot be asked any more.
    """
    api, name = user.load_balancer, before.name
    with connect.translated("the load balancing API"):
        lb = api.get_load_balancer(before.load_balancer["id"])
        listeners = list(api.listeners(load_balancer_id=lb.id))
    now = Subject.of(lb, listeners)

    def said(on: Subject) -> list[Any]:
        keys = ("admin_state_up", "allowed_cidrs", "protocol", "protocol_port",
                "provisioning_status")  # fmt: skip
        rows = [(one["id"], *(one.get(key) for key in keys)) for one in on.listeners]
        vips = [on.load_balancer.get(key) for key in ("admin_state_up", "vip_address")]
        return [vips, sorted(map(repr, rows))]

    if str(lb.provisioning_status).startswith("PENDING"):
        return f"load balancer {name} is {lb.provisioning_status} now. Repeat when it is ACTIVE."
    if said(now) != said(before):
        return f"load balancer {name} or a listener of it was changed meanwhile. Repeat the audit."
    return ""


def subnets(user: Any, lb: Any) -> list[str]:
    """CIDRs of the VIPs' subnets, as far as Neutron shows them: without them it is not known that
    nobody sends from their broadcast addresses."""
    found = []
    for wanted in (lb.vip_subnet_id, *(v.get("subnet_id") for v in lb.additional_vips or ())):
        if wanted:
            try:
                found.append(user.network.get_subnet(wanted).cidr)
            except sdk.SDKException:
                continue
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Closed:
    """An amphora that could not be entered, and why."""

    id: str
    why: str


def seats(
    on: Subject,
    user: str,
    key: str,
    stack: ExitStack,
    *,
    jump: SshHost | None = None,
    pins: Pins | None = None,
) -> tuple[list[Seat], list[Closed]]:
    """Amphorae by ssh at their management addresses."""
    check_key("--amphora-key", key)
    opened: list[Seat] = []
    closed: list[Closed] = []
    for entry in on.amphorae:
        address = entry.get("lb_network_ip") or ""
        name = f"amphora {entry['id']} ({address})"
        host = SshHost(
            address, user=user, key_file=key, jump=jump, pins=pins, pin_name=entry["id"],
            name=name, deadline=PATIENCE,
        )  # fmt: skip
        stack.callback(host.close)
        try:
            host.run(["true"], root=True)
        except errors.GuestError as error:
            closed.append(
                Closed(
                    entry["id"],
                    f"{error.message} Check --amphora-key {key}, --amphora-user {user}"
                    + (", --jump." if jump else ", and whether --jump is needed."),
                )
            )
            continue
        opened.append(Seat.of(entry, Amphora(host)))
    return opened, closed


def vantage(
    login: Login,
    interface: str,
    stack: ExitStack,
    artefacts: Path,
    *,
    jump: SshHost | None = None,
    pins: Pins | None = None,
    next_hop: str | None = None,
) -> Vantage:
    """The place where probes leave.

    :raises ConfigurationError: it cannot be used; names the options.
    """
    host = login.host(f"vantage {login.user}@{login.address}", jump, pins)
    stack.callback(host.close)
    try:
        made = Vantage(host, interface, artefacts=artefacts, next_hop=next_hop)
    except errors.GuestError as error:
        raise errors.ConfigurationError(
            f"--vantage {login.user}@{login.address}: {error.message}",
            remedy=f"Check the address, --vantage-key {login.key} and --jump; its user needs sudo "
            "without a password, and it needs python3 3.8 or newer.",
        ) from error
    except errors.WireError as error:
        raise errors.ConfigurationError(
            f"--interface {interface} on --vantage {login.user}@{login.address}: {error.message}",
            remedy="Name the interface that is on the VIP's network.",
        ) from error
    stack.callback(made.close)
    return made


def jump_login(text: str, key: str, fallback: str) -> Login | None:
    return Login.of("--jump", text, key or fallback, "--jump-key") if text else None


def reach(
    made: Vantage, on: Subject, user: Any, links: Sequence[str], say: Callable[[str], None]
) -> Reach:
    """From which sources may be sent. Nobody else's address is ever pretended.

    :raises ConfigurationError: a link is no network.
    """
    for text in links:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise errors.ConfigurationError(
                f"--link {text}: {error}.", remedy="Write a network like --link 192.0.2.0/24."
            ) from error
    taken: set[str] = set()
    vip_port = on.load_balancer.get("vip_network_id")
    if links and vip_port:
        try:
            for port in user.network.ports(network_id=vip_port):
                taken |= {fixed["ip_address"] for fixed in port.fixed_ips}
        except sdk.SDKException as error:
            say(f"Neutron does not say which addresses are taken ({error}): none is pretended.")
            links = ()
    known = [ipaddress.ip_network(text) for text in on.subnets]

    def within(text: str) -> bool:
        link = ipaddress.ip_network(text)
        return any(link.version == one.version and link.subnet_of(one) for one in known)

    beyond = [text for text in links if known and not within(text)]
    for text in beyond:
        say(
            f"--link {text} is not within a subnet of the VIPs ({', '.join(on.subnets)}): no host "
            "of it is pretended, as answers to it may not come back."
        )
    found = Reach.of(made, on, [text for text in links if text not in beyond], taken)
    # The vantage's own port is among them, and its addresses are its own.
    return replace(found, taken=found.taken - set(found.own))
