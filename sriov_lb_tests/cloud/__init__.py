# SPDX-License-Identifier: Apache-2.0
"""The cloud as the tests need it, through openstacksdk and nothing else.

=================  ===========================================================
``connect``        connections, and the question whether the cloud can do this
``ledger``         everything that is made is on disk before it is asked for
``kinds``          how each kind of resource is found again and taken away
``sweep``          finish the job of a run that died; prove that nothing is left
``awaiting``       wait for a condition, with a deadline and a reason
``faults``         why a load balancer is in ERROR, as far as the APIs can tell
``resources``      what the SDK's own classes do not know yet (SR-IOV fields)
``placement``      host aggregates and private compute flavors
``networks``       provider networks, subnets, security groups, ports
``servers``        guests and their key pairs
``loadbalancers``  Octavia flavors, load balancers and what hangs on them
``accounting``     which virtual functions are free, by the services' own books
``scenario``       topologies and listener sets, from YAML
``site``           all of it together: administrator mode and adopt mode
``twin``           an SR-IOV load balancer and its equal on a normal port
=================  ===========================================================

Nothing here knows Tempest, packets or the lab.
"""
