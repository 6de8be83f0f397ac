# SPDX-License-Identifier: Apache-2.0
"""Keystone, Placement and Glance: the three that need little configuration."""

from __future__ import annotations

from sriov_lb_lab.config import ini
from sriov_lb_lab.paths import INSIDE_LAB, INSIDE_STACK
from sriov_lb_lab.settings import Settings


def files(settings: Settings) -> dict[str, str]:
    """keystone.conf, placement.conf, glance-api.conf."""
    return {
        "keystone/keystone.conf": ini.render(_keystone(settings)),
        "placement/placement.conf": ini.render(_placement(settings)),
        "glance/glance-api.conf": ini.render(_glance(settings)),
    }


def _keystone(settings: Settings) -> dict[str, dict[str, object]]:
    return {
        "DEFAULT": ini.logging(),
        "database": ini.database(settings.database("keystone")),
        "cache": {"enabled": True, "backend": "dogpile.cache.memory"},
        "token": {"provider": "fernet"},
        "fernet_tokens": {"key_repository": f"{INSIDE_LAB}/keystone/fernet-keys"},
        "fernet_receipts": {"key_repository": f"{INSIDE_LAB}/keystone/fernet-keys"},
        "credential": {"key_repository": f"{INSIDE_LAB}/keystone/credential-keys"},
    }


def _placement(settings: Settings) -> dict[str, dict[str, object]]:
    return {
        "DEFAULT": ini.logging(),
        "placement_database": ini.database(settings.database("placement")),
        "api": {"auth_strategy": "keystone"},
        "keystone_authtoken": ini.token_validation(settings, "placement"),
    }


def _glance(settings: Settings) -> dict[str, dict[str, object]]:
    data = f"{INSIDE_LAB}/glance"
    return {
        "DEFAULT": {**ini.logging(), "enabled_backends": "fs:file"},
        "database": ini.database(settings.database("glance")),
        "keystone_authtoken": ini.token_validation(settings, "glance"),
        "paste_deploy": {
            "flavor": "keystone",
            "config_file": f"{INSIDE_STACK}/etc/glance/glance-api-paste.ini",
        },
        "glance_store": {"default_backend": "fs"},
        "fs": {"filesystem_store_datadir": f"{data}/images"},
        "os_glance_staging_store": {"filesystem_store_datadir": f"{data}/staging"},
        "os_glance_tasks_store": {"filesystem_store_datadir": f"{data}/tasks"},
        "oslo_concurrency": {"lock_path": f"{data}/locks"},
    }
