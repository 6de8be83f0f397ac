# SPDX-License-Identifier: Apache-2.0
"""A VF that a load balancer had comes back when the load balancer goes."""

from __future__ import annotations

from tempest import config
from tempest.lib import decorators

from sriov_lb_tests.tests import base, exhaustion, scene
from sriov_lb_tests.tests.base import requirement

CONF = config.CONF


class TestVirtualFunctionsComeBack(base.SriovLbTest):
    """The virtual function of a deleted load balancer is free again, by Nova's own accounting.

    A host has few virtual functions and every load balancer takes one or two: a leak would
    stop a cloud within days. No API of Nova says how many are free; but when Nova refuses one
    more, none is, and whatever it grants after that is one that was given back.
    """

    def setUp(self) -> None:
        super().setUp()
        self.scene = scene.of(self.stage)

    def story(self) -> exhaustion.Story:
        story = self.scene.exhaustion
        self.keep("story.json", {k: str(v) for k, v in story.__dict__.items()})
        self.seen.update(host=story.host, slot=story.held)
        return story

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("f3a6d1c5-8b7e-4f9a-a2d4-1e6c7b8a9f17")
    @requirement(
        "PRV-006",
        "The VF of a deleted load balancer returns to the pool, by Nova's own accounting.",
        needs=("admin_mode", "disruptive"),
    )
    def test_returns_after_deletion(self) -> None:
        """Steps:

        1. Take VFs on the host of an SR-IOV load balancer's amphora until Nova refuses.
        2. Delete the load balancer; take one more VF; try to take yet another.

        Verify: the amphora's VF was not granted while it had it; it, and no other, is granted
        after the deletion; after that Nova refuses again.
        """
        story = self.story()
        self.assertNotIn(story.held, story.first_fill, "Granted while the amphora had it.")
        self.assertEqual(
            story.held,
            story.returned,
            f"After the deletion Nova was to grant {story.held} on {story.host}. {story.lost}",
        )
        self.assertIsNone(story.beyond, "Nova granted more VFs than the host had before.")

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("a7b8c9d0-1e2f-4a3b-8c4d-5e6f7a8b9c18")
    @requirement(
        "PRV-009",
        "A VF can be plugged and unplugged ten times in a row without a leak.",
        needs=("admin_mode", "disruptive"),
    )
    def test_ten_times_without_a_leak(self) -> None:
        """Steps:

        1. Take all VFs of a host until Nova refuses.
        2. In rounds, until ten have come back: each of a few instances unplugs one and plugs a
           new port, which needs a VF.

        Verify: in each round Nova grants the very VFs that were given back: there is no other.
        """
        story = self.story()
        self.assertEqual("", story.lost)
        self.assertGreaterEqual(sum(len(b) for b, _ in story.cycles), exhaustion.TIMES)
        for before, after in story.cycles:
            self.assertEqual(before, after, "Given back, and granted.")

    @decorators.attr(type="slow")
    @decorators.idempotent_id("b8c9d0e1-2f3a-4b4c-9d5e-6f7a8b9c0d19")
    @requirement(
        "PRV-006",
        "The VF of a deleted load balancer returns to the pool, by Nova's own accounting.",
        needs=("admin_mode", "disruptive", "slow"),
    )
    def test_ten_load_balancers_on_one_virtual_function(self) -> None:
        """Steps:

        1. Take all VFs of a host until Nova refuses, and give one back.
        2. Ten times: create an SR-IOV load balancer there, wait until it is ACTIVE, delete it.

        Verify: each becomes ACTIVE, on that one VF: there is no other.
        """
        slots = exhaustion.ten_load_balancers(self.scene)
        self.keep("slots.json", slots)
        self.assertEqual(exhaustion.TIMES, len(slots))
        self.assertEqual(1, len(set(slots)), f"They used {sorted(set(slots))}.")
