# SPDX-License-Identifier: Apache-2.0
"""The main job, once, on this machine: a lab, the tests in it, a comparison, the verdicts.

Everything it writes is in ``demo/`` of the checkout; the lab stays up for a look around.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

from show import Failed, Steps
from tester import Tester

# The release the lab has unless it is told otherwise: what is known not to hold there is no news.
DEFAULT_OCTAVIA = "16.0.0"
# The tests tagged smoke; without the tag everything runs, which takes up to an hour.
REGEX = r"sriov_lb.*[\[,]smoke"
# The classes share guests and load balancers, which a second process would have to make again.
WORKERS = "1"


class Demo:
    """One run of it.

    :param octavia: the Octavia release; "" for the lab's default.
    """

    def __init__(self, root: Path, tester: Tester, steps: Steps, octavia: str = "") -> None:
        self.root = root
        self.tester = tester
        self.steps = steps
        self.octavia = octavia
        self.folder = root / "demo"
        self.run_id = time.strftime("demo-%m%d-%H%M%S")
        self.artifacts = self.folder / "artifacts"
        self.results = self.artifacts / self.run_id

    def run(self) -> int:
        """Do everything; returns the exit status: 0 if every promise that was looked at held, or
        did not for a defect that is known of the lab's own release of Octavia."""
        facts = self.lab_up()
        workspace = self.workspace(Path(facts["tempest_conf"]))
        self.cleanup("left by an earlier run that was killed")
        unwell = []
        known: list[str] = []
        try:
            if self.tempest(workspace):
                known = self.known_defects(workspace, facts.get("octavia", ""))
                unwell += [] if known else ["the tests"]
            unwell += ["the comparison"] if self.compare(workspace) else []
        finally:
            self.steps.say(f"artifacts: {self.results}")
        self.verdicts()
        self.closing_words(unwell, known)
        return 1 if unwell else 0

    # --- the steps ----------------------------------------------------------------------------

    def lab_up(self) -> dict[str, str]:
        """Start the lab, or use the one that runs; returns its facts."""
        extra = self.root / "etc" / "lab.tempest.conf"
        release = ["--octavia", self.octavia] if self.octavia else []
        self.steps.say("the lab: a genuine OpenStack, in namespaces of its own")
        status = self._show(["sriov-lb-lab", "up", *release, "--tempest-extra", str(extra)])
        if status:
            raise Failed(
                "The lab did not come up; what it says is above. `sriov-lb-lab status` names the "
                "service, `sriov-lb-lab logs SERVICE` shows its log."
            )
        return json.loads(self._output(["sriov-lb-lab", "status", "--json"]))["facts"]

    def workspace(self, lab_conf: Path) -> Path:
        """A Tempest workspace for the lab, not registered in the user's home."""
        folder = self.folder / "workspace"
        shutil.rmtree(folder, ignore_errors=True)
        registry = self.folder / "workspaces.yaml"
        registry.unlink(missing_ok=True)
        self._quiet(["tempest", "init", "--workspace-path", str(registry), str(folder)])
        (folder / "etc" / "tempest.conf").write_text(
            lab_conf.read_text().rstrip("\n")
            # The lab's file ends in the section [sriov_lb], which etc/lab.tempest.conf brought.
            + f"\nrun_id = {self.run_id}\nartifacts_dir = {self.artifacts}\n"
            # A section may come twice; the later value holds.
            + f"\n[DEFAULT]\nlog_dir = {folder}/logs\n"
            + f"\n[oslo_concurrency]\nlock_path = {folder}/tempest_lock\n"
        )
        return folder

    def tempest(self, workspace: Path) -> bool:
        """`tempest run` in the lab; True if anything failed."""
        argv = ["tempest", "run", "--regex", REGEX, "--concurrency", WORKERS]
        self.steps.say(shlex.join(argv))
        return bool(self._show(self._in_lab(argv), cwd=workspace))

    def known_defects(self, workspace: Path, release: str) -> list[str]:
        """The promises that did not hold, if each test that failed did so for a defect that is
        known of the lab's own release; [] if anything else is behind one."""
        record = self.results / "verdicts.jsonl"
        if release != DEFAULT_OCTAVIA or not record.is_file():
            return []
        try:
            lines = [json.loads(line) for line in record.read_text().splitlines()]
        except ValueError:  # half a line: whoever wrote it was killed
            return []
        # What was run twice counts as it ended. The registry named these for this release.
        last = {(line["requirement"], line["test"]): line for line in lines}.values()
        named = [line for line in last if line["verdict"] == "KNOWN_DEFECT"]
        fine = ("PASS", "SKIPPED", "NOT_SUPPORTED", "KNOWN_DEFECT")
        # A class that could not be taken down has no verdict, and Tempest knows of it.
        failing = self._output(["stestr", "failing", "--list"], cwd=workspace).splitlines()
        if {name.partition("[")[0] for name in failing} != {line["test"] for line in named}:
            return []
        if any(line["verdict"] not in fine for line in last):
            return []
        return [f"{line['requirement']}: {line['sentence']}" for line in named]

    def compare(self, workspace: Path) -> bool:
        """A short A/B of an SR-IOV load balancer and its normal twin; True if it failed."""
        conf = workspace / "etc" / "tempest.conf"
        argv = ["sriov-lb-perf", "compare", "--profile", "smoke", "--from-cloud"]
        argv += ["--config-file", str(conf), "--artifacts", str(self.results / "performance")]
        self.steps.say(" ".join(argv))
        return bool(self._show(self._in_lab(argv)))

    def verdicts(self) -> None:
        """The table requirement, verdict, evidence, and the page of the report."""
        self._show(["sriov-lb", "verdicts", str(self.results)])

    def cleanup(self, why: str) -> None:
        """Undo what the journals say is not undone yet."""
        journals = self.artifacts / "journal"
        if journals.is_dir() and any(journals.iterdir()):
            self.steps.say(f"cleaning up what was {why}")
            self._show(self._in_lab(["sriov-lb", "cleanup", "--journal-dir", str(journals)]))

    def closing_words(self, unwell: list[str], known: list[str]) -> None:
        """What came out in a sentence, and what can be done with the lab now.

        :param known: promises that did not hold, for defects that are known.
        """
        command = self.tester.bin / "sriov-lb-lab"
        if unwell:
            outcome = f"not well: {' and '.join(unwell)}"
        elif known:
            outcome = (
                "every promise that was looked at held but for those that this Octavia is known "
                "to break, see above:" + "".join(f"\n    {promise}" for promise in known)
            )
        else:
            outcome = "every promise that was looked at held"
        self.steps.say(f"done; {outcome}")
        print(
            f"\nThe lab is still up. Look around:\n"
            f"    {command} exec -- openstack loadbalancer list\n"
            f"    {command} status\n"
            f"Take it down with `make demo-down`. Its caches stay: the next `make demo` is quick."
        )

    def interrupted(self) -> None:
        """What to say after Ctrl-C."""
        print(
            f"\nInterrupted. The lab may still be up, with load balancers of this run in it.\n"
            f"`make demo` starts again and first undoes what is left; `make demo-down` ends the\n"
            f"lab and with it everything in it. Artifacts so far: {self.results}"
        )

    # --- running commands -----------------------------------------------------------------------

    def _in_lab(self, argv: list[str]) -> list[str]:
        return ["sriov-lb-lab", "exec", "--", str(self.tester.bin / argv[0]), *argv[1:]]

    def _show(self, argv: list[str], cwd: Path | None = None) -> int:
        program = str(self.tester.bin / argv[0])
        env = {**self.tester.environment(), "PYTHONUNBUFFERED": "1"}
        return subprocess.run([program, *argv[1:]], cwd=cwd, env=env).returncode

    def _output(self, argv: list[str], cwd: Path | None = None) -> str:
        program = str(self.tester.bin / argv[0])
        env = self.tester.environment()
        return subprocess.run(
            [program, *argv[1:]], cwd=cwd, env=env, stdout=subprocess.PIPE, text=True
        ).stdout

    def _quiet(self, argv: list[str]) -> None:
        program = str(self.tester.bin / argv[0])
        done = subprocess.run(
            [program, *argv[1:]],
            env=self.tester.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise Failed(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}")


def need_root(what: str) -> None:
    """:raises Failed: the user is not root."""
    if os.geteuid() != 0:
        raise Failed(f"{what} makes namespaces and mounts, which needs root: sudo make ...")
