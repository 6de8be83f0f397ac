# SPDX-License-Identifier: Apache-2.0
"""oslo.config files from plain dictionaries, and the sections that every service shares."""

from __future__ import annotations

from collections.abc import Mapping

from sriov_lb_lab.settings import CONTROLLER, Settings

REGION = "RegionOne"
KEYSTONE = f"http://{CONTROLLER}:5000/v3"


def render(sections: Mapping[str, Mapping[str, object]]) -> str:
    """An INI file; booleans in oslo's spelling, lists of values as repeated options."""
    lines: list[str] = []
    for section, options in sections.items():
        lines.append(f"[{section}]")
        for option, value in options.items():
            for one in value if isinstance(value, (list, tuple)) else (value,):
                text = str(one).lower() if isinstance(one, bool) else str(one)
                lines.append(f"{option} = {text}")
        lines.append("")
    return "\n".join(lines)


def credentials(settings: Settings, user: str) -> dict[str, object]:
    """keystoneauth options of a service user."""
    return {
        "auth_type": "password",
        "auth_url": KEYSTONE,
        "project_domain_name": "Default",
        "user_domain_name": "Default",
        "project_name": "service",
        "username": user,
        "password": settings.passwords[user],
        "region_name": REGION,
    }


def token_validation(settings: Settings, user: str) -> dict[str, object]:
    """The section [keystone_authtoken]."""
    return {
        **credentials(settings, user),
        "www_authenticate_uri": KEYSTONE,
        # No memcached here; the middleware's own per-process cache is deprecated but does.
        "service_token_roles": "service",
        "service_token_roles_required": True,
    }


def logging() -> dict[str, object]:
    """Options of [DEFAULT] that send the log to standard error, where the supervisor keeps it."""
    return {
        "use_stderr": True,
        "logging_context_format_string": "%(asctime)s.%(msecs)03d %(levelname)s %(name)s "
        "[%(request_id)s] %(instance)s%(message)s",
        "logging_default_format_string": "%(asctime)s.%(msecs)03d %(levelname)s %(name)s "
        "%(instance)s%(message)s",
        "logging_exception_prefix": "%(asctime)s.%(msecs)03d TRACE %(name)s %(instance)s",
    }


def messaging() -> dict[str, object]:
    """The section [oslo_messaging_rabbit]: services start before the broker, so ask often."""
    return {"rabbit_retry_interval": 1}


def database(connection: str) -> dict[str, object]:
    """A database section with a pool that a small service needs."""
    return {"connection": connection, "max_pool_size": 5, "max_overflow": 20}
