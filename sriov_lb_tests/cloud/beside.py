# SPDX-License-Identifier: Apache-2.0
"""Listeners that only some load needs, on both twins or on neither: the twins are to stay equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from openstack import exceptions as sdk

from sriov_lb_tests.cloud import scenario
from sriov_lb_tests.cloud.loadbalancers import LoadBalancers
from sriov_lb_tests.cloud.networks import Net
from sriov_lb_tests.cloud.servers import Guest
from sriov_lb_tests.cloud.twin import Deployment, deploy
from sriov_lb_tests.errors import CloudError

#: The port of TERMINATED_HTTPS listeners.
TLS_PORT = 443


def add_tls(lbs: LoadBalancers, made: Sequence[Deployment], certificate: str) -> str:
    """A TERMINATED_HTTPS listener before the pool ``web``.

    :param certificate: reference of a container that Octavia may read.
    :return: why there is none; "" when both have it.
    """
    if not certificate:
        return (
            "no TERMINATED_HTTPS listener was made: [sriov_lb] tls_container_ref names no "
            "certificate"
        )

    def add(deployment: Deployment) -> None:
        lbs.create_listener(
            deployment.lb,
            protocol="TERMINATED_HTTPS",
            port=TLS_PORT,
            default_pool_id=deployment.pools["web"].id,
            what="listener-tls",
            default_tls_container_ref=certificate,
        )

    return _on_both(lbs, made, add, "TERMINATED_HTTPS", TLS_PORT)


def add_udp(lbs: LoadBalancers, made: Sequence[Deployment], member: Guest, net: Net) -> str:
    """A UDP listener before an echo on the member; why there is none, "" when both have it."""
    wanted = scenario.listener_set("echo", {}, (min(net.subnets),))

    def add(deployment: Deployment) -> None:
        deploy(lbs, deployment.lb, wanted, [member], net)

    return _on_both(lbs, made, add, "UDP", wanted.listener("echo").port)


def _on_both(
    lbs: LoadBalancers,
    made: Sequence[Deployment],
    add: Callable[[Deployment], None],
    protocol: str,
    port: int,
) -> str:
    """
    :raises CloudError: what was made could not be taken away again.
    """
    try:
        for deployment in made:
            add(deployment)
    except (CloudError, sdk.HttpException) as error:
        for deployment in made:
            for listener in lbs.listeners(deployment.lb):
                if listener.protocol_port == port:
                    lbs.delete_listener(deployment.lb, listener)
        return f"no {protocol} listener could be made ({getattr(error, 'message', error)})"
    return ""
