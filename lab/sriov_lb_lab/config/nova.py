# SPDX-License-Identifier: Apache-2.0
"""Nova: the control plane's file, and one for each simulated host's nova-compute."""

from __future__ import annotations

import json

from sriov_lb_lab.config import ini
from sriov_lb_lab.paths import INSIDE_LAB
from sriov_lb_lab.settings import CONTROLLER, HOSTS, Host, Settings

# ComputeCapabilitiesFilter, on by default in Nova, is left out on purpose: it compares every
# extra spec without a scope with what hosts report, and Octavia's guide writes its aggregate
# properties without a scope ("public-sriov=true"), so that with it on no host would ever match.
FILTERS = (
    "ComputeFilter",
    "ImagePropertiesFilter",
    "ServerGroupAntiAffinityFilter",
    "ServerGroupAffinityFilter",
    "AggregateInstanceExtraSpecsFilter",
    "PciPassthroughFilter",
)


def files(settings: Settings) -> dict[str, str]:
    """nova/nova.conf and nova-HOST/nova.conf."""
    rendered = {"nova/nova.conf": ini.render(_control(settings))}
    for host in HOSTS:
        rendered[f"nova-{host.name}/nova.conf"] = ini.render(_compute(settings, host))
    return rendered


def _common(settings: Settings) -> dict[str, dict[str, object]]:
    return {
        "DEFAULT": {
            **ini.logging(),
            "transport_url": settings.transport_url,
            "state_path": f"{INSIDE_LAB}/nova",
        },
        "service_user": {**ini.credentials(settings, "nova"), "send_service_user_token": True},
        "placement": ini.credentials(settings, "placement"),
        "neutron": ini.credentials(settings, "neutron"),
        "glance": {"api_servers": f"http://{CONTROLLER}:9292"},
        "cinder": {**ini.credentials(settings, "nova"), "catalog_info": "volumev3::publicURL"},
        "oslo_concurrency": {"lock_path": f"{INSIDE_LAB}/nova/locks"},
        "oslo_messaging_rabbit": ini.messaging(),
        "pci": {"alias": []},
    }


def _control(settings: Settings) -> dict[str, dict[str, object]]:
    sections = _common(settings)
    sections["DEFAULT"].update(
        {
            "my_ip": CONTROLLER,
            "host": "controller",
            "metadata_workers": 1,
            "osapi_compute_workers": 1,
        }
    )
    return {
        **sections,
        "api_database": ini.database(settings.database("nova_api")),
        "database": ini.database(settings.database("nova")),
        "api": {"auth_strategy": "keystone"},
        "keystone_authtoken": ini.token_validation(settings, "nova"),
        "conductor": {"workers": 1},
        "scheduler": {"workers": 1, "discover_hosts_in_cells_interval": 3},
        "filter_scheduler": {
            "enabled_filters": ",".join(FILTERS),
            "available_filters": "nova.scheduler.filters.all_filters",
        },
        "quota": {"instances": 100, "cores": 200, "ram": 204800},
    }


def _compute(settings: Settings, host: Host) -> dict[str, dict[str, object]]:
    sections = _common(settings)
    state = f"{INSIDE_LAB}/hosts/{host.name}"
    sections["DEFAULT"].update(
        {
            "host": host.name,
            "my_ip": host.address,
            "compute_driver": "sriov_lb_lab.ContainerDriver",
            "state_path": f"{state}/nova",
            "instances_path": f"{INSIDE_LAB}/instances/{host.name}",
            "cpu_allocation_ratio": 64.0,
            "ram_allocation_ratio": 8.0,
            "disk_allocation_ratio": 8.0,
            "reserved_host_memory_mb": 0,
            "vif_plugging_timeout": 60,
            "vif_plugging_is_fatal": True,
            "sync_power_state_interval": 20,
            "resize_confirm_window": 0,
        }
    )
    sections["oslo_concurrency"] = {"lock_path": f"{state}/locks"}
    sections["vnc"] = {"enabled": False}
    sections["pci"] = {
        "device_spec": [
            json.dumps(
                {
                    "vendor_id": pf["vendor_id"],
                    "product_id": pf["vf_product_id"],
                    "address": vf["address"],
                    "physical_network": pf["physnet"],
                }
            )
            for pf in host.pfs()
            for vf in pf["vfs"]
        ]
    }
    return sections
