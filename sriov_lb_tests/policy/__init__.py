# SPDX-License-Identifier: Apache-2.0
"""Reasoning about firewalls: no network, no OpenStack, no Tempest.

* ``model``: what the API state of a load balancer promises, as an ordered list of clauses.
* ``ruleset``: what ``nft -j list ruleset`` says; anything unknown is an error that names it.
* ``evaluate``: the fate of one packet in a ruleset, with the rules that decided it.
* ``proof``: all packets at once (z3): where policy and ruleset disagree, with witnesses.
* ``render``: a ruleset on one screen.
* ``packet``: the headers all of these talk about.

::

    policy = Policy.of(load_balancer, listeners)
    ruleset = parse(json.loads(text))
    found = disagreements(policy, ruleset)
    assert not found, str(found)
"""
