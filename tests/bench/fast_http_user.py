# SPDX-License-Identifier: Apache-2.0
"""locust's own fast client, for comparison: one greenlet a user, as many requests as it can."""

from locust import FastHttpUser, constant, task

BODY = b"member-1 " + b"x" * 55


class Visitor(FastHttpUser):
    """Looks at the status, as FastHttpUser does by itself."""

    wait_time = constant(0)

    @task
    def visit(self) -> None:
        self.client.get("/")


class Validator(FastHttpUser):
    """Compares the body as well, as the generator it stands beside does."""

    wait_time = constant(0)

    @task
    def visit(self) -> None:
        with self.client.get("/", catch_response=True) as response:
            if response.content != BODY:
                response.failure("another body")
