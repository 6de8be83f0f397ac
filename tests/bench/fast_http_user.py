# SPDX-License-Identifier: Apache-2.0
"""locust's own fast client, for comparison: one greenlet a user, as many requests as it can."""

from locust import FastHttpUser, constant, task


class Visitor(FastHttpUser):
    wait_time = constant(0)

    @task
    def visit(self) -> None:
        self.client.get("/")
