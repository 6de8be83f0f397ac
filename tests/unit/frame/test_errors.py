# SPDX-License-Identifier: Apache-2.0
"""The error tree: drawn as it is, and every leaf tells the user what to do."""

import inspect
import re

import pytest

from sriov_lb_tests import errors

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, errors.SriovLbError)
}


def drawn():
    """(name, name of its parent) for each line of the diagram in the module's docstring."""
    stack = []
    for line in errors.__doc__.splitlines():
        found = re.match(r"^    ([│├└─ ]*)([A-Z]\w+)", line)
        if found:
            depth = len(found[1]) // 4
            del stack[depth:]
            yield found[2], stack[-1] if stack else None
            stack.append(found[2])


def test_the_diagram_is_the_tree():
    real = {
        (name, cls.__base__.__name__ if cls is not errors.SriovLbError else None)
        for name, cls in CLASSES.items()
    }
    assert set(drawn()) == real


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_says_what_the_user_should_do(name):
    cls = CLASSES[name]
    assert cls.__doc__
    assert "remedy" in vars(cls), "its own advice, not the parent's"
    assert cls.remedy.endswith(".")


def test_the_place_that_raises_may_advise_better():
    general = errors.ApiTooOld("Octavia speaks v2.27, v2.28 is needed.")
    better = errors.ApiTooOld("Octavia speaks v2.27.", remedy="Upgrade to 14.0.0.")
    assert (
        str(general) == f"Octavia speaks v2.27, v2.28 is needed. Remedy: {errors.ApiTooOld.remedy}"
    )
    assert str(better) == "Octavia speaks v2.27. Remedy: Upgrade to 14.0.0."
    assert errors.ApiTooOld.remedy != "Upgrade to 14.0.0."


def test_what_an_error_carries():
    assert errors.ResourceFault("m", fault="no valid host").fault == "no valid host"
    assert errors.LeftBehind("m", resources=["port a"]).resources == ("port a",)
    failed = errors.CommandFailed("m", argv=["nft"], status=1, stderr="no")
    assert (failed.argv, failed.status, failed.stdout, failed.stderr) == (("nft",), 1, "", "no")
    assert errors.UnknownExpression("m", expression={"fib": {}}).expression == {"fib": {}}


def test_a_problem_reads_as_one_sentence_with_name_value_expectation_and_remedy():
    wrong = errors.Problem("[sriov_lb] mode", "x", "admin or adopt", "Write mode = admin.")
    unset = errors.Problem("[sriov_lb] mode", "", "admin or adopt", "Write mode = admin.")
    assert str(wrong) == "[sriov_lb] mode is 'x'; expected admin or adopt. Write mode = admin."
    assert str(unset) == "[sriov_lb] mode is not set; expected admin or adopt. Write mode = admin."
    assert str(errors.InvalidConfiguration([wrong])).startswith("1 option is wrong or missing:\n")
