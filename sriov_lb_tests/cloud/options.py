# SPDX-License-Identifier: Apache-2.0
"""From the options of [sriov_lb], as attributes of anything, to the settings of a site."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sriov_lb_tests.cloud.site import AdoptSettings, NetSettings, Settings


def site_settings(group: Any, key_folder: Path) -> Settings:
    """What a site needs to know.

    :param group: ``CONF.sriov_lb``, checked.
    :param key_folder: where private keys of the run go.
    """
    floating = group.floating_network if group.guest_connect_method == "floating" else ""
    return Settings(
        access_network=group.access_network,
        guest_image=group.guest_image,
        guest_flavor=group.guest_flavor,
        member_image=group.member_image,
        member_flavor=group.member_flavor,
        floating_network=floating,
        key_folder=key_folder,
        vip=_net(group, "vip"),
        member=_net(group, "member"),
        octavia_project=group.octavia_project,
        hosts=tuple(group.sriov_hosts),
        aggregate_properties=_properties(group.aggregate_properties),
        flavor_properties=_properties(group.flavor_properties),
        amphora_ram=group.amphora_ram,
        amphora_disk=group.amphora_disk,
        amphora_vcpus=group.amphora_vcpus,
        amphora_image_tag=group.amphora_image_tag,
        topology=group.loadbalancer_topology,
        allow_member_sriov=group.allow_member_sriov,
        adopt=AdoptSettings(
            sriov_flavor_id=group.adopt_sriov_flavor_id,
            normal_flavor_id=group.adopt_normal_flavor_id,
            vip_network_id=group.adopt_vip_network_id,
            vip_subnet_ids=tuple(group.adopt_vip_subnet_ids),
            member_network_id=group.adopt_member_network_id,
            member_subnet_ids=tuple(group.adopt_member_subnet_ids),
            client_ids=tuple(group.adopt_client_ids),
            member_ids=tuple(group.adopt_member_ids),
        ),
        lb_build_timeout=group.lb_build_timeout,
        lb_change_timeout=group.lb_change_timeout,
        server_build_timeout=group.server_build_timeout,
        delete_timeout=group.delete_timeout,
        interval=group.check_interval,
    )


def _net(group: Any, side: str) -> NetSettings:
    return NetSettings(
        physical_network=getattr(group, f"{side}_physical_network"),
        network_type=getattr(group, f"{side}_network_type"),
        segmentation_id=getattr(group, f"{side}_segmentation_id"),
        cidr_v4=getattr(group, f"{side}_cidr_v4"),
        cidr_v6=getattr(group, f"{side}_cidr_v6"),
    )


def _properties(pairs: Iterable[str]) -> dict[str, str]:
    parted = (pair.partition("=") for pair in pairs)
    return {key.strip(): value.strip() for key, _, value in parted}
