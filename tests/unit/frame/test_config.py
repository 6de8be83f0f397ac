# SPDX-License-Identifier: Apache-2.0
"""Options: each explains itself, is light to import, and is in the sample."""

import pathlib
import re
import subprocess
import sys

import pytest
from oslo_config import generator

from sriov_lb_tests import config, config_check

OPTIONS = {option.name: option for option in config.SriovLbGroup}
SAMPLE = pathlib.Path(__file__).parents[3] / "etc" / "tempest.conf.sriov_lb.sample"


def test_names_are_unique_and_shallow():
    assert len(OPTIONS) == len(config.SriovLbGroup)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]+", name) for name in OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_help_says_what_why_and_gives_an_example_that_is_valid(name):
    option = OPTIONS[name]
    what, marker, example = option.help.rpartition("Example: ")
    assert marker and example and not example.endswith(".")
    assert len(what.split()) >= 5, what
    option.type(example)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_default_is_valid_for_its_own_type(name):
    option = OPTIONS[name]
    assert option.type(option.default) == option.default


def test_examples_alone_make_a_configuration_without_a_wrong_value():
    """What the user copies from the help must not be what the check complains about."""
    files = {name for name in OPTIONS if name.endswith("_file")}
    values = {
        name: option.type(config_check.example(name))
        for name, option in OPTIONS.items()
        if name not in files
    }
    wrong = [p for p in config_check.problems(values) if p.value]
    assert wrong == []


def test_the_sample_in_etc_is_what_the_generator_writes(tmp_path):
    written = tmp_path / "sample"
    generator.main(["--namespace", "sriov_lb_tests.config", "--output-file", str(written)])
    assert written.read_text() == SAMPLE.read_text(), "run: tox -e genconfig"


def test_every_option_is_in_the_sample():
    text = SAMPLE.read_text()
    missing = [name for name in OPTIONS if f"\n#{name} =" not in text]
    assert missing == []


def test_importing_the_options_pulls_in_nothing_heavy():
    heavy = {"scapy", "z3", "openstack", "paramiko", "numpy", "tempest", "requests", "locust"}
    code = (
        "import sys, sriov_lb_tests.config; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "oslo_config" in loaded
    assert heavy.isdisjoint(loaded)
