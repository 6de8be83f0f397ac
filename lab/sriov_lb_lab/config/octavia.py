# SPDX-License-Identifier: Apache-2.0
"""Octavia: one file for its API, worker, health manager and housekeeping."""

from __future__ import annotations

from sriov_lb_lab.config import ini
from sriov_lb_lab.paths import INSIDE_LAB
from sriov_lb_lab.settings import PHYSNETS, Settings

CERTIFICATES = f"{INSIDE_LAB}/octavia/certs"
#: Where users' certificates are, and the name by which a listener refers to the one there is.
WEB_CERTIFICATES = f"{INSIDE_LAB}/octavia/tls"
WEB_CERTIFICATE = "lab-web"
AMPHORA_TAG = "amphora"
KEYPAIR = "octavia-ssh-key"


def files(settings: Settings) -> dict[str, str]:
    """octavia/octavia.conf; complete once ``settings.ids`` is."""
    return {"octavia/octavia.conf": ini.render(_sections(settings))}


def _sections(settings: Settings) -> dict[str, dict[str, object]]:
    mgmt = next(net for net in PHYSNETS if net.name == "mgmt").controller.split("/")[0]
    ids = settings.ids
    return {
        "DEFAULT": {**ini.logging(), "transport_url": settings.transport_url},
        "api_settings": {
            "auth_strategy": "keystone",
            "enabled_provider_drivers": "amphora:The Octavia Amphora driver,"
            "octavia:Deprecated alias of the Octavia Amphora driver",
            "default_provider_driver": "amphora",
            "allow_tls_terminated_listeners": True,
        },
        "database": ini.database(settings.database("octavia")),
        "keystone_authtoken": ini.token_validation(settings, "octavia"),
        "service_auth": ini.credentials(settings, "octavia"),
        "oslo_messaging": {"topic": "octavia_prov"},
        "oslo_messaging_rabbit": ini.messaging(),
        "certificates": {
            "cert_generator": "local_cert_generator",
            # No Barbican in the lab: TERMINATED_HTTPS listeners name a file.
            "cert_manager": "local_cert_manager",
            "storage_path": WEB_CERTIFICATES,
            "ca_certificate": f"{CERTIFICATES}/server_ca.cert.pem",
            "ca_private_key": f"{CERTIFICATES}/server_ca.key.pem",
            "ca_private_key_passphrase": settings.passwords["ca_passphrase"],
            "server_certs_key_passphrase": settings.passwords["server_key_passphrase"],
        },
        "haproxy_amphora": {
            "client_cert": f"{CERTIFICATES}/client.cert-and-key.pem",
            "server_ca": f"{CERTIFICATES}/server_ca.cert.pem",
            "connection_retry_interval": 1,
            "connection_max_retries": 120,
            "active_connection_retry_interval": 1,
            "active_connection_max_retries": 15,
            # haproxy's share of this machine's descriptors; a larger figure would stop it.
            "default_connection_limit": settings.connection_limit,
        },
        "health_manager": {
            "bind_ip": mgmt,
            "bind_port": 5555,
            "controller_ip_port_list": f"{mgmt}:5555",
            "heartbeat_key": settings.passwords["heartbeat"],
            "heartbeat_interval": 5,
            "heartbeat_timeout": 60,
            "health_update_threads": 1,
            "stats_update_threads": 1,
            "failover_threads": 2,
        },
        "controller_worker": {
            "workers": 1,
            "client_ca": f"{CERTIFICATES}/client_ca.cert.pem",
            "amp_image_tag": AMPHORA_TAG,
            "amp_image_owner_id": ids.get("project_service", ""),
            "amp_flavor_id": ids.get("flavor_amphora", ""),
            "amp_boot_network_list": ids.get("network_mgmt", ""),
            "amp_secgroup_list": ids.get("security_group_mgmt", ""),
            "amp_ssh_key_name": KEYPAIR,
            "amp_active_retries": 100,
            "amp_active_wait_sec": 1,
            "amphora_driver": "amphora_haproxy_rest_driver",
            "compute_driver": "compute_nova_driver",
            "network_driver": "allowed_address_pairs_driver",
            "image_driver": "image_glance_driver",
        },
        # Soft: a failover boots the replacement before it deletes the old amphora, so that the
        # strict policy would want a third host with VFs.
        "nova": {"enable_anti_affinity": True, "anti_affinity_policy": "soft-anti-affinity"},
        "networking": {"port_detach_timeout": 120},
        "house_keeping": {"cleanup_interval": 30, "cert_interval": 3600},
        "driver_agent": {
            "status_socket_path": "/run/lab/octavia/status.sock",
            "stats_socket_path": "/run/lab/octavia/stats.sock",
            "get_socket_path": "/run/lab/octavia/get.sock",
        },
    }
