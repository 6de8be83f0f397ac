# SPDX-License-Identifier: Apache-2.0
"""The page about the policy and the code name the same clauses."""

import importlib.util
import pathlib
import re

import pytest

from sriov_lb_tests.policy import model

ROOT = pathlib.Path(__file__).parents[3]
SOURCE = pathlib.Path(model.__file__).read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The generated part of doc/source/policy.rst, and the example it is made from."""
    spec = importlib.util.spec_from_file_location("_doc_conf", ROOT / "doc" / "source" / "conf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    conf.HERE = tmp_path_factory.mktemp("doc")
    conf._clauses_of_the_policy(None)
    return (conf.HERE / "_generated" / "policy.rst").read_text(), conf._example()


def test_every_clause_that_code_can_write_is_in_the_document(page):
    text, _ = page
    plain = re.findall(r'self\.add\(\s*"([^"]+)"', SOURCE)
    patterns = re.findall(r'self\.add\(\s*f"([^"]+)"', SOURCE)
    assert len(plain) >= 9 and len(patterns) >= 2
    for name in (*plain, model.DEFAULT.name):
        assert f"* - {name}\n" in text, name
    for pattern in patterns:
        wanted = re.sub(r"\\\{.*?\\\}", ".+", re.escape(pattern))
        assert re.search(rf"\* - {wanted}\n", text), pattern


def test_the_document_has_nothing_else(page):
    text, example = page
    named = re.findall(r"^   \* - (.+)$", text, re.MULTILINE)[1:]
    assert named == [clause.name for clause in example.clauses]


def test_every_clause_has_a_reason_and_a_source(page):
    for clause in page[1].clauses:
        assert clause.reason and clause.source, clause.name
        assert "no promise" not in clause.source, clause.name


def test_the_order_of_the_page_is_the_order_of_decision(page):
    names = [clause.name for clause in page[1].clauses]
    assert names[-1] == model.DEFAULT.name and names[0].startswith("listener")
    assert len(set(names)) == len(names)


def test_listeners_of_one_name_are_told_apart():
    def listener(port):
        return {"name": "web", "protocol": "TCP", "protocol_port": port}

    policy = model.Policy.of({"vip_address": "192.0.2.1"}, [listener(80), listener(81)])
    names = [clause.name for clause in policy.clauses]
    assert "listener web (TCP 80)" in names and "listener web (TCP 81)" in names
    assert len(set(names)) == len(names)
