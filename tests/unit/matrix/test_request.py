# SPDX-License-Identifier: Apache-2.0
"""A request without an answer, and one that nobody could make."""

from types import SimpleNamespace

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.tests.matrix import request
from sriov_lb_tests.wire.vantage import Vantage


class Agent:
    """Gets no answer, ever.

    :param closed: because it is gone itself.
    """

    def __init__(self, closed):
        self.closed, self.paths = closed, []

    def call(self, op, body, *, path, **options):
        self.paths.append(path)
        raise errors.AgentFailed("timed out")


def ask(agent, protocol="HTTP"):
    vantage = object.__new__(Vantage)
    vantage.agent = agent
    client = SimpleNamespace(vantage=vantage)
    return request.through(
        client, protocol, "203.0.113.9", 8100, "203.0.113.5", "m1", patience=0.0
    )


def test_a_listener_that_does_not_answer():
    assert ask(Agent(closed=False)) == (
        "HTTP from 203.0.113.5 to 203.0.113.9 port 8100 got no answer: timed out"
    )


def test_without_an_agent_nothing_is_said_of_the_listener():
    with pytest.raises(errors.AgentFailed):
        ask(Agent(closed=True))


@pytest.mark.parametrize(("protocol", "path"), [("PROXY", "/"), ("PROMETHEUS", "/metrics")])
def test_what_is_asked_for(protocol, path):
    agent = Agent(closed=False)
    ask(agent, protocol)
    assert agent.paths == [path]
