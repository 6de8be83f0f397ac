# SPDX-License-Identifier: Apache-2.0
"""``sriov-lb-perf compare`` as a child process.

What generates load may patch its whole process (locust does), so it is never imported here: the
command gets a target file and leaves a result.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sriov_lb_tests import errors

#: Seconds beside the trials: starting, reading the amphorae, the page.
BESIDE = 180.0

#: Exit status of the command: a threshold was crossed.
CROSSED = 1


@dataclass(frozen=True)
class Comparison:
    """What the child came to. ``document`` is None when there is no result at all."""

    status: int
    output: str
    folder: Path | None
    document: Mapping[str, Any] | None

    @property
    def complete(self) -> bool:
        return self.document is not None and self.document["status"] == "complete"

    def reasons(self) -> str:
        """What the child says of its status, without its table; all it said if that is nothing."""
        told = ("sriov-lb-perf:", "--", "It did not end")
        lines = [line for line in self.output.splitlines() if line.startswith(told)]
        return " ".join(lines) or self.output[-2000:].strip() or "(it said nothing)"

    def files(self) -> list[Path]:
        """The result and its page, where they are."""
        if self.folder is None:
            return []
        named = (self.folder / "result.json", self.folder / "report.html")
        return [path for path in named if path.is_file()]


COMMAND = [sys.executable, "-m", "sriov_lb_perf.cli"]


@dataclass(frozen=True)
class Profile:
    """What a load profile asks for.

    :param time_limit: seconds.
    :param needs: of a VIP beside its URL, by the names of a target file: ``iperf3``, ``tls``, …
    :param sizes: of objects, bytes.
    """

    name: str
    time_limit: float
    needs: tuple[str, ...]
    sizes: tuple[int, ...]


def profile(name: str) -> Profile:
    """A load profile, by name or path; asked before anything is built.

    :raises InvalidConfiguration: there is none, it cannot finish in its time, or the command
        cannot run here at all.
    """
    done = subprocess.run(
        [*COMMAND, "profiles", "--json", name], capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        raise errors.InvalidConfiguration(
            [
                errors.Problem(
                    "[sriov_lb] performance_profile",
                    name,
                    f"a profile that can be run here ({done.stderr.strip()[-1000:]})",
                    "Write for example: performance_profile = standard",
                )
            ]
        )
    told = json.loads(done.stdout)
    return Profile(
        told["name"], float(told["time_limit"]), tuple(told["needs"]), tuple(told["sizes"])
    )


def ssh(host: Any) -> dict[str, Any]:
    """How a target file describes an :class:`~sriov_lb_tests.wire.ssh.SshHost`."""
    found = {
        "address": host.address,
        "port": host.port,
        "user": host.user,
        "key_file": str(Path(host.key_file).absolute()),
    }
    if host.jump is not None:
        found["jump"] = ssh(host.jump)
    return found


def run(
    targets: Mapping[str, Any],
    folder: Path,
    *,
    profile_name: str,
    time_limit: float,
    thresholds: Sequence[str] = (),
) -> Comparison:
    """Compare, and wait for the end.

    :param folder: for the target file and the run's own folder.
    :param time_limit: of the profile, s; the child ends itself past 1.5 times that.
    :param thresholds: options such as ``--min-rate-ratio 1.5``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    description = folder / "targets.yaml"
    description.write_text(yaml.safe_dump(dict(targets), sort_keys=False))
    argv = [
        *COMMAND, "compare", "--targets", str(description),
        "--profile", profile_name, "--artifacts", str(folder), "--quiet", *thresholds,
    ]  # fmt: skip
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        output, _ = child.communicate(timeout=1.5 * time_limit + BESIDE)
    except subprocess.TimeoutExpired:
        output = _end(child) + f"\nIt did not end by itself after {1.5 * time_limit + BESIDE:g} s."
    except BaseException:
        _end(child)
        raise
    found = sorted(folder.glob("*/result.json"))
    document = json.loads(found[-1].read_text()) if found else None
    return Comparison(child.returncode, output, found[-1].parent if found else None, document)


def _end(child: subprocess.Popen) -> str:
    """End it in order: SIGTERM marks its result incomplete; what does not end is killed."""
    child.terminate()
    try:
        output, _ = child.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        child.kill()
        output, _ = child.communicate()
    return output
