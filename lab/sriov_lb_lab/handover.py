# SPDX-License-Identifier: Apache-2.0
"""What the lab hands to its users: clouds.yaml, tempest.conf, lab.json, the shims for ``exec``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from sriov_lb_lab import files
from sriov_lb_lab.config import ini, octavia
from sriov_lb_lab.errors import StateError
from sriov_lb_lab.paths import INSIDE_STACK, Paths
from sriov_lb_lab.settings import BOOTSTRAP_IDS, HOSTS, PHYSNETS, SECRETS, Settings

GUEST_USER = "debian"


def write(paths: Paths, settings: Settings, extra: Path | None) -> None:
    """Write everything.

    :param extra: an INI file whose sections are appended to tempest.conf, with ``${...}`` replaced
        by the lab's facts; how somebody's Tempest plugin gets its options without the lab knowing
        them.
    :raises StateError: the extra file names a fact that does not exist.
    """
    described = facts(paths, settings)
    files.write_one(paths.facts, json.dumps(described, indent=1) + "\n")
    files.write_one(paths.clouds_yaml, yaml.safe_dump(_clouds(settings), sort_keys=False))
    text = ini.render(_tempest(paths, settings))
    kept = paths.lab / "tempest-extra.conf"
    if extra and extra != kept:
        files.write_one(kept, extra.read_text())
    if kept.exists():
        # Also when a later ``up`` of the running lab does not name it again.
        text += "\n" + _substituted(kept, described)
    files.write_one(paths.tempest_conf, text)
    (paths.lab / "tempest" / "locks").mkdir(parents=True, exist_ok=True)
    files.write_one(paths.tools / "openstack", _shim(paths, "openstack"), mode=0o700)


def facts(paths: Paths, settings: Settings) -> dict[str, object]:
    """Everything a user of the lab may want to know, flat and JSON-able."""
    return {
        "name": settings.name,
        "state": str(paths.state),
        "lab": str(paths.lab),
        "octavia": settings.octavia,
        "substrate": settings.substrate,
        "ip_vs": kernel_has_ip_vs(),
        "tls_container_ref": octavia.WEB_CERTIFICATE,
        "trees": settings.trees,
        "clouds_yaml": str(paths.clouds_yaml),
        "tempest_conf": str(paths.tempest_conf),
        "sriov_hosts": ",".join(host.name for host in HOSTS if host.sriov),
        "other_hosts": ",".join(host.name for host in HOSTS if not host.sriov),
        "sriov_physical_networks": ",".join(net.name for net in PHYSNETS if net.sriov),
        "guest_user": GUEST_USER,
        "amphora_user": GUEST_USER,
        "amphora_key": str(paths.keys / "octavia_ssh_key"),
        "controller_management_address": _address("mgmt"),
        "controller_access_address": _address("access"),
        **{f"id_{key}": value for key, value in settings.ids.items()},
    }


def kernel_has_ip_vs() -> bool:
    """Whether UDP and SCTP listeners can work: amphorae share this machine's kernel.

    The lab loads no modules on the host; who wants these listeners runs ``modprobe ip_vs`` first.
    """
    return Path("/proc/net/ip_vs").exists()


def _address(physnet: str) -> str:
    return next(net.controller for net in PHYSNETS if net.name == physnet).split("/")[0]


def _clouds(settings: Settings) -> dict[str, object]:
    def cloud(user: str, password: str, project: str) -> dict[str, object]:
        return {
            "auth": {
                "auth_url": ini.KEYSTONE, "username": user, "password": password,
                "project_name": project, "user_domain_name": "Default",
                "project_domain_name": "Default",
            },
            "region_name": ini.REGION,
            "identity_api_version": 3,
        }  # fmt: skip

    return {
        "clouds": {
            "lab-admin": cloud("admin", settings.passwords["admin"], "admin"),
            "lab-member": cloud("lab-member", settings.passwords["member"], "lab-member"),
            "lab-octavia": cloud("octavia", settings.passwords["octavia"], "service"),
        }
    }


def _tempest(paths: Paths, settings: Settings) -> dict[str, dict[str, object]]:
    ids = settings.ids
    return {
        "DEFAULT": {"log_dir": str(paths.lab / "tempest"), "log_file": "tempest.log"},
        "auth": {
            "use_dynamic_credentials": True,
            "create_isolated_networks": False,
            "admin_username": "admin",
            "admin_password": settings.passwords["admin"],
            "admin_project_name": "admin",
            "admin_domain_name": "Default",
            "tempest_roles": "member,load-balancer_member",
        },
        "identity": {
            "auth_version": "v3",
            "uri_v3": ini.KEYSTONE,
            "region": ini.REGION,
            "v3_endpoint_type": "public",
        },
        "oslo_concurrency": {"lock_path": str(paths.lab / "tempest" / "locks")},
        "service_available": {
            "nova": True, "neutron": True, "glance": True, "placement": True, "octavia": True,
            "cinder": False, "swift": False, "horizon": False,
        },
        "compute": {
            "image_ref": ids["image_guest"],
            "image_ref_alt": ids["image_guest"],
            "flavor_ref": ids["flavor_guest"],
            "flavor_ref_alt": ids["flavor_guest"],
            "fixed_network_name": "access",
            "min_compute_nodes": len(HOSTS),
        },
        "network": {
            "project_networks_reachable": True,
            "shared_physical_network": True,
        },
        "validation": {
            "connect_method": "fixed",
            "image_ssh_user": GUEST_USER,
            "run_validation": True,
            "network_for_ssh": "access",
        },
        "load_balancer": {
            "octavia_svc_username": "octavia",
            "amphora_ssh_user": GUEST_USER,
            "amphora_ssh_key": str(paths.keys / "octavia_ssh_key"),
            "enabled_provider_drivers": "amphora:The Octavia Amphora driver",
            "RBAC_test_type": "keystone_default_roles",
        },
    }  # fmt: skip


def check_extra(extra: Path) -> None:
    """Find out before anything is started whether the file can be used.

    :raises StateError: it cannot be read or names a fact that no lab has.
    """
    blank = Settings("lab", "0", "none", {}, 1000, {name: "" for name in SECRETS}, _blank_ids())
    _substituted(extra, facts(Paths.of("/", "lab"), blank))


def _blank_ids() -> dict[str, str]:
    return {name: "" for name in BOOTSTRAP_IDS}


def _substituted(extra: Path, described: dict[str, object]) -> str:
    """The file's text with each ``${fact}`` replaced; a lone ``$`` is nothing special."""

    def value(match: re.Match[str]) -> str:
        try:
            return str(described[match[1]])
        except KeyError as error:
            raise StateError(
                f"--tempest-extra {extra}: ${{{match[1]}}} is not a fact of the lab",
                "the facts are: " + ", ".join(sorted(described)),
            ) from error

    try:
        text = extra.read_text()
    except OSError as error:
        raise StateError(
            f"--tempest-extra {extra}: {error.strerror}", "name a readable file"
        ) from error
    return re.sub(r"\$\{([a-z_0-9]+)\}", value, text)


def _shim(paths: Paths, name: str) -> str:
    # The stack's interpreter needs the lab's own root; clouds.yaml is carried in by its contents'
    # path.
    stack = f"{INSIDE_STACK}/bin/{name}"
    inside = paths.inside(paths.clouds_yaml)
    return f"""#!/bin/sh
# Runs the lab's own `{name}`: this machine need not have one.
root=/proc/1/root
[ -x "$root{stack}" ] || {{ echo "{name}: not inside 'sriov-lb-lab exec'" >&2; exit 1; }}
exec env OS_CLIENT_CONFIG_FILE={inside} LANG=C.UTF-8 chroot "$root" {stack} "$@"
"""
