# SPDX-License-Identifier: Apache-2.0
"""SDK resources with the fields of SR-IOV, which openstacksdk's own classes drop.

openstacksdk keeps only the body attributes a class declares, so ``vip_vnic_type`` of a
load balancer and ``vnic_type`` of a member would be lost silently. Each class here adds
what is missing and inherits everything else.
"""

from __future__ import annotations

from openstack import resource
from openstack.load_balancer.v2 import load_balancer as sdk_load_balancer
from openstack.load_balancer.v2 import member as sdk_member


class LoadBalancer(sdk_load_balancer.LoadBalancer):
    """A load balancer, with the kind of port its VIP is on."""

    _query_mapping = resource.QueryParameters(
        "vip_vnic_type",
        **{
            key: value
            for key, value in sdk_load_balancer.LoadBalancer._query_mapping._mapping.items()
            if key not in ("limit", "marker")
        },
    )

    #: ``normal`` or ``direct``; read-only, follows from the flavor. API v2.28.
    vip_vnic_type = resource.Body("vip_vnic_type")


class Member(sdk_member.Member):
    """A pool member, with the kind of port the amphora reaches it through."""

    #: Ask for a VF towards the member; accepted at creation only. API v2.30.
    request_sriov = resource.Body("request_sriov", type=bool)
    #: ``normal`` or ``direct``; read-only. API v2.30.
    vnic_type = resource.Body("vnic_type")


class LoadBalancerStatus(resource.Resource):
    """The status tree of a load balancer: itself, listeners, pools, members, monitors."""

    resource_key = "statuses"
    base_path = "/lbaas/loadbalancers/%(lb_id)s/status"
    requires_id = False
    allow_fetch = True

    lb_id = resource.URI("lb_id")
    #: The tree as Octavia returns it.
    loadbalancer = resource.Body("loadbalancer", type=dict)
