# SPDX-License-Identifier: Apache-2.0
"""Does ``[sriov_lb]`` make sense? Asked once, before the first resource is made.

All problems are found in one go, because a user who corrects one option at a time loses a
morning. Nothing is asked of the cloud here: what only the cloud can know (does this id
exist, is the host alive) is checked by who uses it. The only look outside is at the files
and folders that options name.
"""

from __future__ import annotations

import ipaddress
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from types import SimpleNamespace

from oslo_config import cfg

from sriov_lb_tests import config
from sriov_lb_tests.errors import InvalidConfiguration, Problem

GROUP = config.sriov_lb_group.name

# The VIP, two amphorae, two clients, two members, a port to spare, network and broadcast.
FEWEST_ADDRESSES = 16


def check(group: object) -> None:
    """Raise if anything is wrong or missing.

    :param group: ``CONF.sriov_lb``, or any mapping or namespace with some of its options;
        an option that is absent has its default.
    :raises InvalidConfiguration: with every problem there is.
    """
    found = problems(group)
    if found:
        raise InvalidConfiguration(found)


def problems(group: object) -> list[Problem]:
    """Everything that is wrong with the group's values, in the order of the options."""
    values, found = _read(group)
    rules = [_run(values), _networks(values), _amphora(values), _amphora_access(values)]
    rules += [_guests(values), _credentials(values), _limits(values)]
    if values.mode == "adopt":
        rules.append(_adopt(values))
    elif values.mode == "admin":
        rules.append(_admin(values))
    known_bad = {problem.option for problem in found}
    for rule in rules:
        # A value that could not be read was replaced by its default: no second complaint.
        found += [problem for problem in rule if problem.option not in known_bad]
    order = {_name(option.name): rank for rank, option in enumerate(config.SriovLbGroup)}
    return sorted(found, key=lambda problem: order[problem.option])


def properties(pairs: Iterable[str]) -> dict[str, str]:
    """["a=b", "c:d=e"] as {"a": "b", "c:d": "e"}.

    :raises ValueError: an entry is not KEY=VALUE.
    """
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key.strip() and equals and value.strip()):
            raise ValueError(f"{pair!r} is not KEY=VALUE")
        found[key.strip()] = value.strip()
    return found


def example(name: str) -> str:
    """The example that the help of an option ends with."""
    return _OPTIONS[name].help.rpartition("Example: ")[2]


# --- reading the values ------------------------------------------------------------------

_OPTIONS = {option.name: option for option in config.SriovLbGroup}


class _Refused(str):
    """Why oslo.config would not hand out a value (it keeps the value to itself)."""

    def __repr__(self) -> str:
        return f"not valid ({self})"


def _read(group: object) -> tuple[SimpleNamespace, list[Problem]]:
    """The values, defaults where there is none or none that can be read, and the problems."""
    values, found = SimpleNamespace(), []
    for name, option in _OPTIONS.items():
        value = option.default
        try:
            if isinstance(group, Mapping):
                value = group.get(name, option.default)
            else:
                value = getattr(group, name, option.default)
            setattr(values, name, option.type(value) if value is not None else option.default)
        except (cfg.Error, ValueError) as error:
            shown = value
            if isinstance(error, cfg.Error):
                shown = _Refused(str(error).rpartition(" is not valid: ")[2])
            found.append(_problem(name, shown, _expected(option)))
            setattr(values, name, option.default)
    return values, found


def _expected(option: cfg.Opt) -> str:
    choices = getattr(option.type, "choices", None)
    if choices:
        return "one of " + ", ".join(choices)
    words = {
        cfg.BoolOpt: "true or false",
        cfg.PortOpt: "a TCP port",
        cfg.IntOpt: "a whole number",
        cfg.FloatOpt: "a number",
        cfg.ListOpt: "a list, separated by commas",
    }
    expected = words.get(type(option), "text")
    least = getattr(option.type, "min", None)
    return f"{expected}, at least {least}" if least is not None else expected


def _name(name: str) -> str:
    return f"[{GROUP}] {name}"


def _problem(name: str, value: object, expected: str, remedy: str = "") -> Problem:
    remedy = remedy or f"Write for example: {name} = {example(name)}"
    return Problem(_name(name), value, expected, remedy)


def _missing(values: SimpleNamespace, names: Iterable[str], why: str) -> Iterator[Problem]:
    for name in names:
        if not getattr(values, name):
            yield _problem(name, None, f"a value, {why}")


# --- rules, one function per room of config.py ---------------------------------------------


def _run(values: SimpleNamespace) -> Iterator[Problem]:
    if values.run_id and not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,14}[a-z0-9])?", values.run_id):
        yield _problem(
            "run_id",
            values.run_id,
            "lower-case letters, digits and inner dashes, at most 16: it becomes part of names",
        )
    for name in ("artifacts_dir", "journal_dir"):
        fault = _folder_fault(getattr(values, name))
        if fault:
            yield _problem(
                name, getattr(values, name), "a folder that can be written or made", fault
            )
    if not values.artifacts_dir:
        yield _problem("artifacts_dir", None, "a folder, because every verdict needs its evidence")
    if values.octavia_release and not re.match(r"\d+\.\d+\.\d+", values.octavia_release):
        yield _problem("octavia_release", values.octavia_release, "a release such as 16.0.0")
    yield from _files(values, ["known_defects_file"])


def _credentials(values: SimpleNamespace) -> Iterator[Problem]:
    yield from _files(values, ["clouds_file"])
    if values.mode == "admin" and values.cloud and not values.admin_cloud:
        yield _problem(
            "admin_cloud",
            None,
            "a value, because `cloud` is set and administrator mode needs an administrator",
        )
    if not values.octavia_project and values.mode == "admin":
        yield _problem("octavia_project", None, "the project that Octavia's amphorae belong to")


def _networks(values: SimpleNamespace) -> Iterator[Problem]:
    if values.mode != "admin":
        return
    for side in ("vip", "member"):
        yield from _segment(values, side)
        v4 = _subnet(values, f"{side}_cidr_v4", 4)
        v6 = _subnet(values, f"{side}_cidr_v6", 6)
        yield from v4
        yield from v6
        if not getattr(values, f"{side}_cidr_v4") and not getattr(values, f"{side}_cidr_v6"):
            yield _problem(f"{side}_cidr_v4", None, f"a subnet here or in {side}_cidr_v6")
    for family in ("v4", "v6"):
        vip, member = (_parsed(getattr(values, f"{side}_cidr_{family}")) for side in _SIDES)
        if vip and member and vip.version == member.version and vip.overlaps(member):
            yield _problem(
                f"member_cidr_{family}",
                str(member),
                f"a subnet apart from vip_cidr_{family} ({vip})",
                "With overlapping subnets the amphora cannot tell client from member.",
            )
    yield from _same_segment(values)


_SIDES = ("vip", "member")


def _segment(values: SimpleNamespace, side: str) -> Iterator[Problem]:
    name = f"{side}_segmentation_id"
    kind, number = getattr(values, f"{side}_network_type"), getattr(values, name)
    if kind == "vlan" and not 1 <= number <= 4094:
        yield _problem(name, number, f"1 to 4094, because {side}_network_type is vlan")
    if kind == "flat" and number != 0:
        yield _problem(
            name,
            number,
            f"0, because {side}_network_type is flat",
            f"Write {side}_network_type = vlan, or leave {name} out.",
        )


def _same_segment(values: SimpleNamespace) -> Iterator[Problem]:
    """Two provider networks cannot be one segment of one physical network."""
    segments = [
        tuple(getattr(values, f"{side}_{part}") for part in _SEGMENT_PARTS) for side in _SIDES
    ]
    if segments[0] == segments[1] and values.vip_physical_network:
        yield _problem(
            "member_physical_network",
            values.member_physical_network,
            "another segment than the VIP's: Neutron makes one network per segment",
            "Name another physical network, or use two VLANs (network_type, segmentation_id).",
        )


_SEGMENT_PARTS = ("physical_network", "network_type", "segmentation_id")


def _parsed(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _subnet(values: SimpleNamespace, name: str, version: int) -> list[Problem]:
    text = getattr(values, name)
    if not text:
        return []
    kind = f"an IPv{version} subnet in CIDR notation"
    network = _parsed(text)
    if network is None:
        try:
            loose = ipaddress.ip_network(text, strict=False)
        except ValueError:
            return [_problem(name, text, kind)]
        return [_problem(name, text, kind, f"It has host bits set; did you mean {loose}?")]
    if network.version != version:
        other = name[:-1] + str(network.version)
        return [_problem(name, text, kind, f"IPv{network.version} belongs into {other}.")]
    if network.num_addresses < FEWEST_ADDRESSES:
        longest = network.max_prefixlen - (FEWEST_ADDRESSES.bit_length() - 1)
        return [
            _problem(
                name,
                text,
                f"a subnet of {FEWEST_ADDRESSES} addresses or more",
                f"Amphorae, clients, members and VIPs share it: use /{longest} or shorter.",
            )
        ]
    if network.is_multicast or network.is_loopback or network.is_link_local:
        return [_problem(name, text, f"{kind} that hosts can have addresses of")]
    return []


def _admin(values: SimpleNamespace) -> Iterator[Problem]:
    yield from _missing(
        values,
        ["vip_physical_network", "member_physical_network"],
        "because mode is admin and the provider networks are made for the run",
    )
    yield from _missing(
        values, ["guest_image", "guest_flavor", "access_network"], "to make clients and members"
    )


def _amphora(values: SimpleNamespace) -> Iterator[Problem]:
    if values.mode != "admin":
        return
    duplicated = sorted({h for h in values.sriov_hosts if values.sriov_hosts.count(h) > 1})
    if duplicated:
        yield _problem(
            "sriov_hosts",
            ",".join(values.sriov_hosts),
            "each host once",
            f"Remove the second {', '.join(duplicated)}.",
        )
    for name in ("aggregate_properties", "flavor_properties"):
        pairs = getattr(values, name)
        try:
            found = properties(pairs)
        except ValueError as error:
            yield _problem(name, ",".join(pairs), f"pairs KEY=VALUE; {error}")
            continue
        if name == "aggregate_properties":
            yield from _aggregate(found)
    if not values.amphora_image_tag:
        yield _problem("amphora_image_tag", None, "Octavia's amp_image_tag")


def _aggregate(found: Mapping[str, str]) -> Iterator[Problem]:
    if not found:
        yield _problem(
            "aggregate_properties",
            None,
            "at least one pair, or nothing sends the amphora to a host with VFs",
        )
    for key in found:
        if ":" in key:
            yield _problem(
                "aggregate_properties",
                key,
                "keys without a scope",
                "Nova compares an aggregate's plain key; a scope such as "
                "aggregate_instance_extra_specs: belongs into flavor_properties.",
            )


def _amphora_access(values: SimpleNamespace) -> Iterator[Problem]:
    if not values.amphora_ssh:
        return
    yield from _missing(values, ["amphora_user", "amphora_key_file"], "because amphora_ssh is true")
    yield from _files(values, ["amphora_key_file"])
    if values.amphora_connect_method == "jump":
        yield from _jump(values, "amphora_connect_method")
    if values.mode == "adopt" and values.cloud and not values.admin_cloud:
        yield _problem(
            "admin_cloud",
            None,
            "a value, because amphora_ssh is true and only an administrator may read the "
            "addresses of amphorae",
            "Write for example: admin_cloud = admin. Or write: amphora_ssh = false",
        )


def _guests(values: SimpleNamespace) -> Iterator[Problem]:
    if not values.guest_user:
        yield _problem("guest_user", None, "the user that guest_image injects keys for")
    if values.guest_connect_method == "floating":
        yield from _missing(
            values, ["floating_network"], "because guest_connect_method is floating"
        )
    if values.guest_connect_method == "jump" and not (
        values.amphora_ssh and values.amphora_connect_method == "jump"
    ):
        yield from _jump(values, "guest_connect_method")
    yield from _files(values, ["guest_key_file"])


def _jump(values: SimpleNamespace, option: str) -> Iterator[Problem]:
    yield from _missing(
        values, ["jump_host", "jump_user", "jump_key_file"], f"because {option} is jump"
    )
    yield from _files(values, ["jump_key_file"])


def _adopt(values: SimpleNamespace) -> Iterator[Problem]:
    why = "because mode is adopt"
    needed = ["adopt_sriov_flavor_id", "adopt_vip_network_id", "adopt_vip_subnet_ids"]
    yield from _missing(values, needed, why)
    for name, option in _OPTIONS.items():
        if not re.fullmatch(r"adopt_\w+_ids?", name):
            continue
        value = getattr(values, name)
        for text in value if isinstance(option, cfg.ListOpt) else [value]:
            if text and not _is_uuid(text):
                yield _problem(
                    name, text, "an id (UUID), not a name", "`openstack ... list` shows ids."
                )
    if values.adopt_sriov_flavor_id and (
        values.adopt_sriov_flavor_id == values.adopt_normal_flavor_id
    ):
        yield _problem(
            "adopt_normal_flavor_id",
            values.adopt_normal_flavor_id,
            "another flavor than adopt_sriov_flavor_id",
            "The normal twin is what the SR-IOV load balancer is compared with.",
        )
    clients = values.adopt_client_ids
    if clients or values.adopt_member_ids:
        yield from _missing(
            values, ["guest_key_file"], "because adopted guests have their keys already"
        )
    yield from _missing(values, ["access_network"], "because guests are reached on it")
    if not clients or not values.adopt_member_ids:
        lacking = "members" if clients else "clients"
        yield from _missing(
            values,
            ["guest_image", "guest_flavor"],
            f"because no {lacking} are adopted and so some must be made",
        )


def _limits(values: SimpleNamespace) -> Iterator[Problem]:
    shortest = min(values.lb_build_timeout, values.lb_change_timeout, values.delete_timeout)
    if values.check_interval >= shortest:
        yield _problem(
            "check_interval",
            values.check_interval,
            f"less than the shortest timeout that is waited for ({shortest} s)",
        )
    if not values.performance_profile and values.performance:
        yield _problem("performance_profile", None, "a value, because performance is true")
    elif values.performance:
        yield from _profile(values.performance_profile)


def _profile(name: str) -> Iterator[Problem]:
    """As sriov-lb-perf takes it; that is not asked, because it may not be installed."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        if not os.path.isfile(name):
            yield _problem("performance_profile", name, "a file that exists")
        return
    folder = resources.files("sriov_lb_tests").joinpath("scenarios", "profiles")
    known = sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".yaml"))
    if name not in known:
        yield _problem("performance_profile", name, f"one of {', '.join(known)}, or a YAML file")


# --- files and folders ------------------------------------------------------------------------


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _files(values: SimpleNamespace, names: Iterable[str]) -> Iterator[Problem]:
    for name in names:
        path = getattr(values, name)
        if path:
            fault = _file_fault(path)
            if fault:
                yield _problem(name, path, "a file that can be read", fault)


def _file_fault(path: str) -> str:
    """Why the file cannot be read, as a sentence; "" if it can."""
    expanded = os.path.expanduser(path)
    if os.path.isdir(expanded):
        return "It is a folder: name the file."
    if not os.path.exists(expanded):
        return f"No such file, seen from {os.getcwd()}."
    if not os.access(expanded, os.R_OK):
        return "It exists, but this user may not read it."
    return ""


def _folder_fault(path: str) -> str:
    """Why the folder can neither be written nor made, as a sentence; "" if it can."""
    if not path:
        return ""
    nearest = os.path.abspath(os.path.expanduser(path))
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)
    if not os.path.isdir(nearest):
        return f"{nearest} is not a folder."
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"This user may not write into {nearest}."
    return ""
