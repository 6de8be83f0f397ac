# SPDX-License-Identifier: Apache-2.0
"""What Tempest loads through its entry point ``tempest.test_plugins``.

Tempest loads every installed plugin in every run, so nothing here may be slow or fail: no
network, no scapy, no SDK.
"""

import os

from tempest.test_discover import plugins

from sriov_lb_tests import config


class SriovLbTempestPlugin(plugins.TempestPlugin):
    """Tests of SR-IOV load balancers.

    No service client is registered: the tests talk to the cloud through openstacksdk, and
    ``load-balancer`` belongs to octavia-tempest-plugin where that is installed.
    """

    def load_tests(self):
        """Return (folder of the tests, folder their names start from)."""
        package = os.path.dirname(os.path.abspath(__file__))
        return os.path.join(package, "tests"), os.path.dirname(package)

    def register_opts(self, conf):
        """Register the group [sriov_lb] on Tempest's configuration."""
        for group, options in config.list_opts():
            conf.register_group(group)
            conf.register_opts(options, group=group)

    def get_opt_lists(self):
        """Return [(name of the group, its options)] for Tempest's own sample."""
        return [(group.name, options) for group, options in config.list_opts()]
