# SPDX-License-Identifier: Apache-2.0
"""Connections from Tempest's credentials, or from clouds.yaml where that is preferred.

They live as long as the process: what a class makes is shared with the next one, so it must
not belong to credentials that end with the class, as Tempest's usually do.
"""

from __future__ import annotations

from typing import Any

from openstack.connection import Connection
from tempest.common import credentials_factory

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import connect
from sriov_lb_tests.cloud.ledger import Ledger

#: Octavia's role for those who make load balancers.
OCTAVIA_ROLE = "load-balancer_member"


def administrator(conf: Any) -> Connection | None:
    """The administrator's connection, or None where none is needed and none is named.

    :raises ConfigurationError: the mode needs one.
    """
    group = conf.sriov_lb
    if group.admin_cloud:
        return connect.from_clouds_yaml(group.admin_cloud, clouds_file=group.clouds_file)
    if group.mode == "adopt" and (group.cloud or not conf.auth.use_dynamic_credentials):
        return None
    if not conf.auth.admin_password:
        raise errors.ConfigurationError(
            f"[sriov_lb] mode is {group.mode!r}, but there are no administrator credentials.",
            remedy="Set [auth] admin_* or [sriov_lb] admin_cloud; or mode = adopt with a cloud.",
        )
    # Not filled in: that asks Keystone, and says less when it refuses than our own asking does.
    given = credentials_factory.get_configured_admin_credentials(fill_in=False)
    return _connection(conf, given)


def member(conf: Any, admin: Connection | None, ledger: Ledger) -> tuple[Connection, Any]:
    """The member's connection, and the provider that must be cleared when all is over.

    :param ledger: users and projects that Tempest makes for us are recorded there first.
    """
    group = conf.sriov_lb
    if group.cloud:
        return connect.from_clouds_yaml(group.cloud, clouds_file=group.clouds_file), None
    name = ledger.name("tempest")
    provider = credentials_factory.get_credentials_provider(
        name=name,
        network_resources={"network": False, "subnet": False, "router": False, "dhcp": False},
    )
    if not conf.auth.use_dynamic_credentials:
        # Accounts of a file: nothing is made, they are only locked for us.
        if provider.is_role_available(OCTAVIA_ROLE):
            return _connection(conf, provider.get_creds_by_roles([OCTAVIA_ROLE])), provider
        return _connection(conf, provider.get_primary_creds()), provider
    if admin is None:
        raise errors.ConfigurationError(
            "Tempest is to make a project for the tests, but there is no administrator.",
            remedy="Set [auth] admin_*, or [sriov_lb] cloud, or [auth] test_accounts_file.",
        )
    wanted = (OCTAVIA_ROLE, "member", "Member")
    known = {role.name for role in admin.identity.roles()}
    roles = [role for role in wanted if role in known][:2]
    entry = ledger.intend("identity", name, "admin")
    credentials = provider.get_creds_by_roles(roles)
    ledger.made(entry, {"id": name})
    # The rest goes the ledger's way; the provider's own clearing would be the same again.
    return _connection(conf, credentials), None


def _connection(conf: Any, credentials: Any) -> Connection:
    """A connection with the credentials of one of Tempest's client managers."""
    given = getattr(credentials, "credentials", credentials)
    verify: bool | str = True
    if conf.identity.disable_ssl_certificate_validation:
        verify = False
    elif conf.identity.ca_certificates_file:
        verify = conf.identity.ca_certificates_file
    return connect.from_password(
        auth_url=conf.identity.uri_v3,
        username=given.username,
        password=given.password,
        project_name=given.project_name or given.tenant_name,
        user_domain_name=given.user_domain_name or conf.auth.default_credentials_domain_name,
        project_domain_name=given.project_domain_name
        or conf.auth.default_credentials_domain_name,
        region=conf.identity.region or None,
        verify=verify,
        interface=conf.identity.v3_endpoint_type.removesuffix("URL"),
    )
