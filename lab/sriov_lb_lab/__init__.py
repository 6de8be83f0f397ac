# SPDX-License-Identifier: Apache-2.0
"""A genuine OpenStack with SR-IOV load balancers on one machine.

The lab imports nothing of the plugin, and nothing of the plugin imports the lab: what it hands over
is a ``clouds.yaml``, a ``tempest.conf`` and a running cloud.
"""
