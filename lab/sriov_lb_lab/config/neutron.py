# SPDX-License-Identifier: Apache-2.0
"""Neutron: the server's files, and each simulated host's agents."""

from __future__ import annotations

from sriov_lb_lab.config import ini
from sriov_lb_lab.paths import INSIDE_LAB, INSIDE_STACK
from sriov_lb_lab.settings import HOSTS, PHYSNETS, Host, Settings


def files(settings: Settings) -> dict[str, str]:
    """neutron/{neutron,ml2_conf}.* and
    neutron-HOST/{neutron.conf,openvswitch_agent.ini,sriov_agent.ini}."""
    rendered = {
        "neutron/neutron.conf": ini.render(_server(settings)),
        "neutron/ml2_conf.ini": ini.render(_ml2()),
    }
    for host in HOSTS:
        folder = f"neutron-{host.name}"
        rendered[f"{folder}/neutron.conf"] = ini.render(_agent(settings, host))
        rendered[f"{folder}/openvswitch_agent.ini"] = ini.render(_openvswitch(host))
        if host.sriov:
            rendered[f"{folder}/sriov_agent.ini"] = ini.render(_sriov(host))
    return rendered


def _common(settings: Settings) -> dict[str, dict[str, object]]:
    return {
        "DEFAULT": {**ini.logging(), "transport_url": settings.transport_url},
        # Everything here is root already; without this oslo.privsep calls sudo.
        "agent": {"root_helper": "env", "report_interval": 10},
        "privsep": {"helper_command": f"{INSIDE_STACK}/bin/privsep-helper"},
        "oslo_messaging_rabbit": ini.messaging(),
    }


def _server(settings: Settings) -> dict[str, dict[str, object]]:
    sections = _common(settings)
    sections["DEFAULT"].update(
        {
            "host": "controller",
            "core_plugin": "ml2",
            "service_plugins": "",
            "auth_strategy": "keystone",
            "api_paste_config": f"{INSIDE_STACK}/etc/neutron/api-paste.ini",
            "state_path": f"{INSIDE_LAB}/neutron",
            "notify_nova_on_port_status_changes": True,
            "notify_nova_on_port_data_changes": True,
            # An agent that has not reported for this long (seconds) is dead; a killed host
            # should show within a test's patience.
            "agent_down_time": 30,
            "api_workers": 1,
            "rpc_workers": 1,
            "rpc_state_report_workers": 0,
            "dhcp_agent_notification": False,
            # No DHCP agent, so nobody would ever clear a provisioning block.
            "send_events_interval": 0,
        }
    )
    return {
        **sections,
        "database": ini.database(settings.database("neutron")),
        "keystone_authtoken": ini.token_validation(settings, "neutron"),
        "nova": ini.credentials(settings, "nova"),
        "placement": ini.credentials(settings, "placement"),
        "oslo_concurrency": {"lock_path": f"{INSIDE_LAB}/neutron/locks"},
        "quotas": {
            "quota_port": 1000,
            "quota_network": 200,
            "quota_subnet": 400,
            "quota_security_group": 500,
            "quota_security_group_rule": 5000,
        },
    }


def _ml2() -> dict[str, dict[str, object]]:
    return {
        "ml2": {
            "type_drivers": "flat,vlan",
            "tenant_network_types": "vlan",
            "mechanism_drivers": "openvswitch,sriovnicswitch",
            "extension_drivers": "port_security",
        },
        "ml2_type_flat": {"flat_networks": "*"},
        "ml2_type_vlan": {
            "network_vlan_ranges": ",".join(f"{net.name}:100:3999" for net in PHYSNETS if net.vlan)
        },
        "securitygroup": {"enable_security_group": True},
    }


def _agent(settings: Settings, host: Host) -> dict[str, dict[str, object]]:
    sections = _common(settings)
    state = f"{INSIDE_LAB}/hosts/{host.name}/neutron"
    sections["DEFAULT"].update({"host": host.name, "state_path": state})
    sections["oslo_concurrency"] = {"lock_path": f"{state}/locks"}
    return sections


def _openvswitch(host: Host) -> dict[str, dict[str, object]]:
    return {
        "ovs": {
            "ovsdb_connection": host.ovsdb,
            # No kernel module needed: the switch runs in its own process.
            "datapath_type": "netdev",
            "bridge_mappings": ",".join(f"{net.name}:br-{net.name}" for net in PHYSNETS),
            "local_ip": host.address,
        },
        "securitygroup": {"firewall_driver": "openvswitch", "enable_security_group": True},
    }


def _sriov(host: Host) -> dict[str, dict[str, object]]:
    return {
        "sriov_nic": {
            "physical_device_mappings": ",".join(
                f"{pf['physnet']}:{pf['device']}" for pf in host.pfs()
            ),
        },
        "agent": {"polling_interval": 1},
        "securitygroup": {"firewall_driver": "noop"},
    }
