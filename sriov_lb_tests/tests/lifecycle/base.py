# SPDX-License-Identifier: Apache-2.0
"""What the lifecycle classes share."""

from __future__ import annotations

from typing import Any

from tempest import config

from sriov_lb_tests.tests import base, scene
from sriov_lb_tests.tests.changes import Changes
from sriov_lb_tests.tests.own import Own

CONF = config.CONF


class LifecycleTest(Changes, base.SriovLbTest):
    """One load balancer for the class; a test that breaks it does not hand it on."""

    WHAT = "life"
    TOPOLOGY = "SINGLE"

    own: Own

    @classmethod
    def resource_setup(cls) -> None:
        super().resource_setup()
        try:
            cls.stage.take_back()
            # It asks which subnets the VIP network has, and the first to ask makes that.
            cls.own = Own(scene.of(cls.stage), cls.WHAT, cls.TOPOLOGY)
        except Exception as error:
            cls._record_all(error)
            raise

    @classmethod
    def resource_cleanup(cls) -> None:
        if hasattr(cls, "own"):
            cls.own.close()
        super().resource_cleanup()

    def setUp(self) -> None:
        super().setUp()
        self.begin()
        self.lbs = self.own.lbs
        #: Set when a failure leaves the load balancer as it found it.
        self.harmless = False

    def in_use(self, wanted: int, kind: str) -> list[Any]:
        """The amphorae that the API has in use for the load balancer; fails if not so many.

        :param kind: what a load balancer with so many is, after "is".
        """
        found = self.lbs.amphorae(self.own.bare.id)
        if len(found) != wanted:
            names = ", ".join(one.id for one in found) or "none"
            self.fail(
                f"Load balancer {self.own.bare.id} is {kind} and has {len(found)} in use by the "
                f"API: {names}."
            )
        return found

    def possible(self) -> None:
        """Skip when nobody prepared a flavor of this topology."""
        group = CONF.sriov_lb
        if group.mode != "admin" and group.loadbalancer_topology != self.TOPOLOGY:
            raise self.skipException(
                f"The flavor that was prepared is for {group.loadbalancer_topology}, and this is "
                f"about {self.TOPOLOGY}."
            )

    def ready(self) -> Any:
        """The load balancer with the listener ``web`` and no other; evidence of any failure."""
        self.possible()
        self.own.tidy()
        lb = self.own.lb
        self.involved = {"lb": lb}
        return lb

    def _collect(self) -> None:
        # First: without evidence, too, nobody is to get what a test failed on.
        if not self.harmless:
            self.own.damage("a test failed on it")
        super()._collect()
