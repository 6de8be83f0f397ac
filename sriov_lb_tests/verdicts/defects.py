# SPDX-License-Identifier: Apache-2.0
"""The registry of known defects.

A defect is recognised by what it does, because Octavia's API does not tell its release: the
operation that failed, the state it left, that the same operation works on the normal twin,
and the words of the failure. Where the release is known all the same, it must be one of the
defect's. A failure that matches is still a failure; it only has a name.

A failure may hold several findings, and a defect that is known excuses none but its own: each
finding is asked for, and only if each has a name the failure has one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from sriov_lb_tests import errors


@dataclass(frozen=True)
class Signature:
    """What a defect looks like; an empty part matches everything.

    :param operations: what was being done, such as ``listener-create``.
    :param sriov: the state that it left on the SR-IOV load balancer.
    :param normal: the state that the same operation left on the normal twin.
    :param requirements: ids or beginnings of ids.
    :param row: searched in what a matrix says of its load balancer, in a test of one.
    :param message: searched in the finding's sentence: its first line, what follows is evidence.
    :param explains: searched in other findings of the same failure, which are this defect's doing
        where one of them is the defect itself: they look alike whatever is behind them.
    """

    operations: tuple[str, ...]
    sriov: str | None
    normal: str | None
    requirements: tuple[str, ...]
    message: re.Pattern[str] | None
    explains: re.Pattern[str] | None = None
    row: re.Pattern[str] | None = None

    def matches(self, requirement: str, message: str, seen: Mapping[str, Any]) -> bool:
        if self.requirements and not requirement.startswith(self.requirements):
            return False
        if self.operations and seen.get("operation") not in self.operations:
            return False
        if self.sriov is not None and seen.get("sriov") != self.sriov:
            return False
        if self.normal is not None and seen.get("normal") != self.normal:
            return False
        if self.row is not None and "row" in seen and not self.row.search(seen["row"]):
            return False
        return self.message is None or self.message.search(_sentence(message)) is not None


@dataclass(frozen=True)
class Defect:
    """A defect of Octavia that is known.

    :param releases: each a version, or a range ``A..B`` that holds both its ends.
    :param normal_vips: normal VIPs have it.
    """

    id: str
    title: str
    releases: tuple[str, ...]
    upstream: str
    means: str
    signature: Signature
    normal_vips: bool = False

    def affects(self, release: str) -> bool:
        """Whether a release of Octavia is one of this defect's."""
        version = _version(release)
        for entry in self.releases:
            low, _, high = entry.partition("..")
            if _version(low) <= version <= _version(high or low):
                return True
        return False

    def explains(self, finding: str) -> bool:
        """Whether a finding may be this defect's doing, where another one is the defect itself."""
        pattern = self.signature.explains
        return pattern is not None and pattern.search(_sentence(finding)) is not None

    def sentence(self, release: str = "") -> str:
        """What a failed test says instead of blaming the environment."""
        where = f" (Octavia {release})" if release else ""
        return (
            f"Known defect {self.id}{where}: {self.title} {self.means} Releases: "
            f"{', '.join(self.releases)}. Upstream: {self.upstream}"
        )


@dataclass(frozen=True)
class Judgement:
    """The findings of a failure told apart.

    :param named: the defect of each finding that has one.
    :param unknown: findings that no known defect explains.
    """

    named: Mapping[str, Defect]
    unknown: tuple[str, ...]

    @property
    def known(self) -> bool:
        """Whether every finding has a name."""
        return bool(self.named) and not self.unknown

    @property
    def defects(self) -> tuple[Defect, ...]:
        """Each defect once, in the order of the findings."""
        return tuple({defect.id: defect for defect in self.named.values()}.values())

    @property
    def ids(self) -> str:
        """As they stand in results."""
        return ", ".join(sorted(defect.id for defect in self.defects))

    def __str__(self) -> str:
        """What nobody knows yet first, then what is known besides."""
        lines = list(self.unknown)
        lines += [
            f"Known besides, {defect.id}: {_sentence(text)}"
            for text, defect in self.named.items()
        ]
        return "\n".join(lines)


class Registry:
    """All known defects."""

    def __init__(self, defects: Iterable[Defect]) -> None:
        self.defects = tuple(defects)

    def match(
        self, requirement: str, message: str, seen: Mapping[str, Any], release: str = ""
    ) -> Defect | None:
        """The defect that a failure shows, if it is a known one.

        :param seen: observations: ``operation``, ``sriov``, ``normal``.
        :param release: of Octavia where known; a defect of other releases is no match.
        """
        for defect in self.defects:
            if release and not defect.affects(release):
                continue
            if defect.signature.matches(requirement, message, seen):
                return defect
        return None

    def judge(
        self,
        requirement: str,
        findings: Iterable[str],
        seen: Mapping[str, Any],
        release: str = "",
    ) -> Judgement:
        """Which findings of a failure are known defects; see :meth:`match`."""
        asked = {text: self.match(requirement, text, seen, release) for text in findings}
        named = {text: defect for text, defect in asked.items() if defect}
        reasons = tuple({defect.id: defect for defect in named.values()}.values())
        for text, defect in asked.items():
            if defect is None:
                cause = next((one for one in reasons if one.explains(text)), None)
                if cause:
                    named[text] = cause
        return Judgement(named, tuple(text for text in asked if text not in named))

    def not_looked_at(self, release: str, tried: Collection[str]) -> list[Defect]:
        """Defects of a release that a run says nothing about, or not all.

        :param tried: requirements that some test of the run looked at.
        """

        def looked_at(defect: Defect) -> bool:
            wanted = defect.signature.requirements or ("",)
            return all(any(one.startswith(start) for one in tried) for start in wanted)

        return [one for one in self.defects if one.affects(release) and not looked_at(one)]


def load(path: str | Path | None = None) -> Registry:
    """The registry from a file, or the one that comes with the plugin.

    :raises ConfigurationError: the file is missing, or breaks the schema.
    """
    here = resources.files("sriov_lb_tests.verdicts")
    source = Path(path) if path else here / "defects.yaml"
    try:
        data = yaml.safe_load(source.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise errors.ConfigurationError(
            f"The registry of known defects {source} cannot be read: {error}",
            remedy="Correct [sriov_lb] known_defects_file, or leave it empty.",
        ) from error
    schema = json.loads((here / "defects.schema.json").read_text())
    problems = list(jsonschema.Draft202012Validator(schema).iter_errors(data))
    if problems:
        text = "; ".join(
            f"{'/'.join(map(str, p.absolute_path)) or 'top'}: {p.message}" for p in problems
        )
        raise errors.ConfigurationError(
            f"The registry of known defects {source} does not follow its schema: {text}.",
            remedy="sriov_lb_tests/verdicts/defects.schema.json says what it may hold.",
        )
    return Registry(_defect(entry) for entry in data["defects"])


def _defect(entry: Mapping[str, Any]) -> Defect:
    sign = entry["signature"]
    return Defect(
        id=entry["id"],
        title=entry["title"].strip(),
        releases=tuple(entry["releases"]),
        upstream=entry["upstream"].strip(),
        means=" ".join(entry["means"].split()),
        signature=Signature(
            operations=tuple(sign.get("operations", ())),
            sriov=sign.get("sriov"),
            normal=sign.get("normal"),
            requirements=tuple(sign.get("requirements", ())),
            message=_pattern(sign.get("message")),
            explains=_pattern(sign.get("explains")),
            row=_pattern(sign.get("row")),
        ),
        normal_vips=entry.get("normal_vips", False),
    )


def _pattern(text: str | None) -> re.Pattern[str] | None:
    return re.compile(text, re.IGNORECASE) if text else None


def _sentence(finding: str) -> str:
    return finding.partition("\n")[0]


def _version(text: str) -> tuple[int, ...]:
    """"16.0.1" as (16, 0, 1); what follows the numbers (".dev3", "0rc1") is cut off."""
    numbers = []
    for part in text.strip().split("."):
        match = re.match(r"\d+", part)
        if not match:
            break
        numbers.append(int(match[0]))
    return tuple(numbers + [0] * (3 - len(numbers)))
