# SPDX-License-Identifier: Apache-2.0
"""The main job, in the lab: the smoke tests of `tempest run --regex sriov_lb`, default Octavia."""

from __future__ import annotations

from pathlib import Path

from sriov_lb_tests.verdicts import onfile, record

# What `make demo` runs too: everything would take up to an hour.
SMOKE = r"sriov_lb.*[\[,]smoke"
ON_FILE = Path(__file__).parent / "verdicts" / "16.0.0.yaml"


def test_every_promise_of_the_default_octavia(lab, workspace, inventory, wait, tmp_path):
    """The verdicts are those on file, and so is the exit status; nothing is left; evidence is
    there."""
    before = inventory()
    folder = workspace({"run_id": "check"})
    done = lab.exec(
        ["tempest", "run", "--regex", SMOKE, "--concurrency", "1"], cwd=folder, timeout=1500
    )
    print(done.stdout[-6000:])
    run = tmp_path / "artifacts" / "check"
    results = record.read(run)[1]
    on_file, found = onfile.read(ON_FILE), onfile.of(results)
    different = onfile.differences(on_file, found, onfile.reasons(results))
    assert not different, "a person must look:\n" + "\n".join(different)
    # A defect on file fails its test; whatever else fails is in no verdict.
    failed = lab.exec(["stestr", "failing", "--list"], cwd=folder)
    names = {line.partition("[")[0] for line in failed.stdout.splitlines()}
    expected = {result.test for result in results if result.verdict in onfile.UNWELL}
    assert names == expected
    assert (done.returncode != 0) == bool(onfile.failures(on_file))
    wait(inventory, before, 60, 2)
    assert list((tmp_path / "artifacts").glob("check/**/*.pcap")), "no capture was kept"
    shown = lab.exec(["sriov-lb", "verdicts", str(run)])
    assert shown.returncode == (1 if onfile.failures(on_file) else 0), shown.stderr
    for result in results:
        assert result.requirement in shown.stdout
