# SPDX-License-Identifier: Apache-2.0
"""Connections to the cloud, and the question whether this cloud can be tested at all.

Credentials come from ``clouds.yaml`` by name, or from whoever already has them (Tempest).
Two identities are told apart everywhere: ``member``, a plain user with Octavia's member
role, and ``admin``, who may be absent; what needs an administrator is then skipped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from keystoneauth1 import exceptions as ka
from keystoneauth1 import session as ka_session
from keystoneauth1.identity import v3
from openstack import exceptions as sdk
from openstack.config import OpenStackConfig
from openstack.connection import Connection

from sriov_lb_tests import errors

APP_NAME = "sriov-lb-tests"

#: The first Octavia API versions with what is tested here.
VIP_VERSION = (2, 28)
MEMBER_VERSION = (2, 30)

#: Catalogue type -> the name people know the service by.
SERVICES = {
    "compute": "Nova",
    "network": "Neutron",
    "image": "Glance",
    "load-balancer": "Octavia",
}


@dataclass(frozen=True)
class Clouds:
    """The connections of one run. ``admin`` is None where the tester is no administrator."""

    member: Connection
    admin: Connection | None = None

    def by(self, who: str) -> Connection:
        """The connection called ``who`` (``member`` or ``admin``).

        :raises AuthenticationFailed: there is no administrator.
        """
        if who == "member":
            return self.member
        if who == "admin" and self.admin is not None:
            return self.admin
        raise errors.AuthenticationFailed(
            f"This step needs the connection {who!r}, which was not given.",
            remedy="Give administrator credentials, or use adopt mode.",
        )

    @property
    def widest(self) -> Connection:
        """The connection that sees most: the administrator's if there is one."""
        return self.admin or self.member


def from_clouds_yaml(name: str, *, clouds_file: str = "") -> Connection:
    """The cloud ``name`` of clouds.yaml (searched where openstacksdk always does).

    :param clouds_file: read this file instead.
    :raises ConfigurationError: no such cloud, or its entry is incomplete.
    :raises AuthenticationFailed, ApiUnreachable, ServiceMissing: see :func:`authenticate`.
    """
    if clouds_file and not os.path.isfile(clouds_file):
        raise errors.ConfigurationError(
            f"The file {clouds_file!r} does not exist, so cloud {name!r} cannot be found in it.",
            remedy="Correct [sriov_lb] clouds_file (--clouds-file).",
        )
    try:
        # OS_CLIENT_CONFIG_FILE would come before a file that was named on purpose.
        loader = (
            OpenStackConfig(config_files=[clouds_file], load_envvars=False)
            if clouds_file
            else OpenStackConfig()
        )
        connection = Connection(
            config=loader.get_one(cloud=name, app_name=APP_NAME), app_name=APP_NAME
        )
    except (sdk.ConfigException, ka.MissingRequiredOptions, ka.NoMatchingPlugin) as error:
        raise errors.ConfigurationError(
            f"Cloud {name!r} cannot be used: {error}",
            remedy=(
                "Define it in clouds.yaml (./, ~/.config/openstack/, /etc/openstack/, or the file "
                "in OS_CLIENT_CONFIG_FILE); etc/clouds.yaml.sample shows one."
            ),
        ) from error
    authenticate(connection, f"cloud {name!r}")
    return connection


def from_password(
    *,
    auth_url: str,
    username: str,
    password: str,
    project_name: str,
    user_domain_name: str,
    project_domain_name: str,
    region: str | None = None,
    verify: bool | str = True,
    interface: str = "public",
) -> Connection:
    """A connection from credentials that somebody else manages, such as Tempest.

    :param verify: True, False, or the path of a CA bundle.
    """
    auth = v3.Password(
        auth_url=auth_url,
        username=username,
        password=password,
        project_name=project_name,
        user_domain_name=user_domain_name,
        project_domain_name=project_domain_name,
    )
    session = ka_session.Session(auth=auth, verify=verify, app_name=APP_NAME)
    connection = Connection(
        session=session, region_name=region, interface=interface, app_name=APP_NAME
    )
    authenticate(connection, f"user {username!r} of project {project_name!r}")
    return connection


def authenticate(connection: Connection, whose: str) -> None:
    """Get a token, or say which of the things that can be wrong is.

    :param whose: names the credentials in the message.
    """
    with translated(whose, str(getattr(connection.session.auth, "auth_url", "") or "")):
        connection.authorize()


@contextmanager
def translated(whose: str, endpoint: str = "") -> Iterator[None]:
    """Turn keystoneauth's and openstacksdk's connection errors into ours."""
    at = f" at {endpoint}" if endpoint else ""
    try:
        yield
    except (ka.Unauthorized, ka.AuthorizationFailure, ka.MissingAuthMethods) as error:
        raise errors.AuthenticationFailed(
            f"Keystone{at} refused the credentials of {whose}: {error}"
        ) from error
    except (ka.EmptyCatalog, ka.EndpointNotFound, sdk.EndpointNotFound) as error:
        raise errors.ServiceMissing(
            f"The catalogue{at} lacks an endpoint that {whose} needs: {error}"
        ) from error
    except (ka.ConnectionError, ka.DiscoveryFailure, sdk.ServiceDiscoveryException) as error:
        raise errors.ApiUnreachable(f"No usable answer{at} for {whose}: {error}") from error
    except sdk.SDKException as error:
        # openstacksdk's authorize() wraps what keystoneauth says.
        text = str(error)
        if "401" in text or "requires authentication" in text:
            raise errors.AuthenticationFailed(
                f"Keystone{at} refused the credentials of {whose}: {text}"
            ) from error
        raise errors.ApiUnreachable(f"No usable answer{at} for {whose}: {text}") from error


def endpoint(connection: Connection, service: str) -> str:
    """Where a service is: what clouds.yaml says comes before the catalogue; "" if nowhere."""
    config = connection.config
    return (
        config.get_endpoint(service)
        or connection.session.get_endpoint(
            service_type=service,
            region_name=config.get_region_name(service),
            interface=config.get_interface(service),
        )
        or ""
    )


def require_services(connection: Connection, services: Iterable[str] = SERVICES) -> None:
    """Check that the catalogue has every service, and name all that are missing at once.

    :raises ServiceMissing: one or more are not there.
    """
    missing = []
    for service in services:
        try:
            found = endpoint(connection, service)
        except (ka.EmptyCatalog, ka.EndpointNotFound):
            found = ""
        if not found:
            missing.append(f"{SERVICES.get(service, service)} ({service})")
    if missing:
        region = connection.config.get_region_name() or "any region"
        raise errors.ServiceMissing(
            f"The service catalogue has no endpoint in {region} for: {', '.join(missing)}."
        )


def octavia_version(connection: Connection) -> tuple[int, int]:
    """The newest version that the load balancing API announces, such as ``(2, 30)``.

    Octavia has no microversions: each minor version is an entry of its root document.

    :raises ServiceMissing, ApiUnreachable: the service is not there or does not answer.
    """
    with translated("the load balancing API"):
        found_at = endpoint(connection, "load-balancer")
        if not found_at:
            raise errors.ServiceMissing(
                "The service catalogue has no endpoint for Octavia (load-balancer)."
            )
        root = re.sub(r"/v2(\.\d+)?/?$", "", found_at.rstrip("/")) + "/"
        response = connection.session.get(
            root, headers={"Accept": "application/json"}, authenticated=False
        )
    try:
        ids = [version["id"] for version in response.json()["versions"]]
    except (ValueError, KeyError, TypeError) as error:
        raise errors.ApiUnreachable(
            f"{root} does not answer with Octavia's version document, but {response.text[:120]!r}."
        ) from error
    found = [
        (int(match[1]), int(match[2]))
        for match in (re.fullmatch(r"v(\d+)\.(\d+)", name) for name in ids)
        if match
    ]
    if not found:
        raise errors.ApiUnreachable(f"{root} announces no version of the form vX.Y: {ids}.")
    return max(found)


def require_octavia(
    connection: Connection, minimum: tuple[int, int] = VIP_VERSION, what: str = "SR-IOV VIPs"
) -> tuple[int, int]:
    """Check that Octavia is new enough for ``what``, and return its version.

    :raises ApiTooOld: it is not.
    """
    version = octavia_version(connection)
    if version < minimum:
        raise errors.ApiTooOld(
            f"{what} need Octavia API v{minimum[0]}.{minimum[1]} or newer; this cloud announces "
            f"v{version[0]}.{version[1]}."
        )
    return version


def identity(connection: Connection) -> dict[str, str]:
    """Who a connection is, without any secret: for the journal."""
    return {
        "cloud": str(getattr(connection.config, "name", "") or ""),
        "auth_url": str(getattr(connection.session.auth, "auth_url", "") or ""),
        "project_id": str(connection.current_project_id or ""),
        "user_id": str(connection.current_user_id or ""),
    }
