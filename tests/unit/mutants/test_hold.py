# SPDX-License-Identifier: Apache-2.0
"""One fault, held for others to look."""

import click
import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.mutants.command import command

ARGUMENTS = ["--loadbalancer", "x", "--amphora-key", "k", "--yes", "--hold", "5"]


def where(function):
    return click.option("--amphora-key", default="")(function)


def opened(*_arguments, **_options):
    raise AssertionError("nothing may be opened")


@pytest.mark.parametrize("more", [[], ["--only", "port-stale", "--only", "ssh-open"]])
def test_it_has_to_be_one(more):
    with pytest.raises(errors.ConfigurationError, match="--hold puts one fault in"):
        command(opened, where).main([*ARGUMENTS, *more], standalone_mode=False)


def test_with_one_the_load_balancer_is_opened():
    arguments = [*ARGUMENTS, "--only", "port-stale"]
    with pytest.raises(AssertionError, match="nothing may be opened"):
        command(opened, where).main(arguments, standalone_mode=False)
