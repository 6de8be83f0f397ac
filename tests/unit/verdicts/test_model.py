# SPDX-License-Identifier: Apache-2.0
from sriov_lb_tests.verdicts.model import Broken, KnownDefect, NotEnforced, Result, Verdict


def test_what_tempest_sees_as_a_failure():
    broken = {verdict for verdict in Verdict if verdict.broken}
    assert broken == {Verdict.FAIL, Verdict.KNOWN_DEFECT, Verdict.NOT_ENFORCED}
    assert issubclass(KnownDefect, AssertionError) and issubclass(NotEnforced, Broken)


def test_every_verdict_has_a_meaning_and_failures_rank_worst():
    assert all(verdict.meaning.endswith(".") for verdict in Verdict)
    assert max(Verdict, key=lambda v: v.rank) is Verdict.FAIL
    assert min(Verdict, key=lambda v: v.rank) is Verdict.PASS


def test_a_result_survives_json():
    result = Result("ENF-1", "s", Verdict.SKIPPED, "t", "r", ["a"], {"k": 1}, "D", 1.0, 2.0, 3)
    data = result.to_json()
    assert data["verdict"] == "SKIPPED"
    assert Result.from_json(data | {"of a later version": 1}) == result
