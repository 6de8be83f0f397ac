# SPDX-License-Identifier: Apache-2.0
"""The verdicts on file: what a selection of tests concludes about a release of Octavia.

A defect of Octavia makes its test fail, and that is right; so that a gate can be green all the
same, it compares a run with the verdicts on file. A new failure and a failure that is gone both
differ from them, and so does a test that did not run; only a person changes the file.

One line for each test: ``REQUIREMENT Class.method: VERDICT``, with the ids of the defects behind a
KNOWN_DEFECT. Each listener of the matrix has a requirement, and so a line, of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from sriov_lb_tests import errors
from sriov_lb_tests.verdicts.model import Result, Verdict

Table = dict[str, str]

#: Verdicts with which a test does not pass.
UNWELL = {verdict for verdict in Verdict if verdict.broken} | {
    Verdict.INCONCLUSIVE,
    Verdict.ERROR,
}

_HEAD = """\
# SPDX-License-Identifier: Apache-2.0
# What a run concluded about Octavia {release}, a line for each test; made with
# `sriov-lb verdicts --record`. A new failure and a failure that is gone both break the comparison
# until a person changes this file, with a reason in the commit.
"""


def of(results: Iterable[Result]) -> Table:
    """The verdict of each test of a run; of one that was run again, the last."""
    table = {}
    for result in results:
        test = ".".join(result.test.split(".")[-2:])
        words = (result.verdict.value, *sorted(filter(None, (result.defect or "").split(", "))))
        table[f"{result.requirement} {test}"] = " ".join(words)
    return dict(sorted(table.items()))


def text(table: Mapping[str, str], release: str = "") -> str:
    """A table as it stands in a file."""
    lines = "".join(f"{test}: {said}\n" for test, said in sorted(table.items()))
    return _HEAD.format(release=release or "of an unknown release") + lines


def read(path: Path) -> Table:
    """The table in a file.

    :raises ConfigurationError: it cannot be read, or holds something else.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise errors.ConfigurationError(
            f"The verdicts on file {path} cannot be read: {error}",
            remedy="`sriov-lb verdicts FOLDER --record` prints such a file.",
        ) from error
    known = {verdict.value for verdict in Verdict}
    lines = data.items() if isinstance(data, dict) else [(path, "no table")]
    wrong = [f"{test}: {said}" for test, said in lines if str(said).split(" ")[0] not in known]
    if wrong:
        raise errors.ConfigurationError(
            f"{path} holds what is no verdict: {'; '.join(wrong)}.",
            remedy="A line is `REQUIREMENT Class.method: VERDICT`, with the ids of known defects.",
        )
    return data


def failures(table: Mapping[str, str]) -> list[str]:
    """The tests that do not pass; a run with any of them ends with a status other than 0."""
    return [test for test, said in table.items() if Verdict(said.split(" ")[0]) in UNWELL]


def differences(
    on_file: Mapping[str, str], found: Mapping[str, str], reasons: Mapping[str, str] | None = None
) -> list[str]:
    """In what a run differs from the file, a sentence each, new failures first; [] in nothing.

    :param reasons: of the run's verdicts, by test.
    """
    new, gone, other = [], [], []
    was, now = set(failures(on_file)), set(failures(found))
    for test in sorted(on_file.keys() | found.keys()):
        old, fresh = on_file.get(test), found.get(test)
        if old == fresh:
            continue
        if fresh is None:
            other.append(f"{test} did not run; on file it is {old}.")
        elif test in now:
            why = " ".join((reasons or {}).get(test, "").split())
            on = f"on file it is {old}" if old else "it is not on file"
            new.append(f"{test} is {fresh}; {on}. {why}".rstrip())
        elif test in was:
            gone.append(f"{test} is {fresh}, a failure that is gone: on file it is {old}.")
        else:
            on = f"on file it is {old}" if old else "it is not on file"
            other.append(f"{test} is {fresh}; {on}.")
    return new + gone + other


def reasons(results: Iterable[Result]) -> dict[str, str]:
    """Why each test has its verdict, by the names of the table."""
    return {next(iter(of([result]))): result.reason for result in results}
