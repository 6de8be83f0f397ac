# SPDX-License-Identifier: Apache-2.0
"""What `make` calls: it says what it installs, repeats safely, and fails in words."""

import json
import os
import re
import string
import subprocess
import sys
import textwrap

import pytest
from oslo_config import cfg

import machine
import project
import tester
from demo import DEFAULT_OCTAVIA, REGEX, Demo
from show import Failed, Steps, quietly
from sriov_lb_lab.lab import DEFAULT_OCTAVIA as LAB_DEFAULT
from sriov_lb_tests import config, config_check
from sriov_lb_tests.verdicts.model import Result, Verdict
from sriov_lb_tests.verdicts.record import Recorder

# --- running commands -----------------------------------------------------------------------


def test_a_quiet_command_that_fails_shows_the_end_of_its_output(tmp_path):
    log = tmp_path / "log"
    quietly(["sh", "-c", "echo fine"], log)
    assert log.read_text() == "+ sh -c echo fine\nfine\n"
    with pytest.raises(Failed) as caught:
        quietly(["sh", "-c", "seq 100; echo no room; exit 3"], log)
    assert "status 3" in str(caught.value)
    assert str(caught.value).endswith("no room")
    assert "\n    50\n" not in str(caught.value)


def test_a_command_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(Failed, match="no-such-program is not installed"):
        quietly(["no-such-program"], tmp_path / "log")


def test_steps_say_what_begins_and_how_long_it_took(capsys):
    with Steps().doing("resting"):
        pass
    first, last = capsys.readouterr().out.splitlines()
    assert first.endswith("s] resting ...")
    assert re.search(r"s\] resting: done in \d+\.\d s$", last)


# --- packages of the distribution -----------------------------------------------------------

HERE = machine.Need("here", "it is", ("sh",), ("/",), ("json",))
AWAY = machine.Need("away", "it is not", ("no-such-program",), units=("away.service",))


@pytest.fixture
def apt(monkeypatch, tmp_path):
    """Records what would be run as root, on a machine with apt-get and systemd."""
    calls = []

    def record(argv, log, env=None, append=False):
        calls.append(list(argv))
        calls[-1].append("services denied" if machine.POLICY.exists() else "services run")

    monkeypatch.setattr(machine, "quietly", record)
    monkeypatch.setattr(machine, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(machine, "_known", lambda unit: True)
    monkeypatch.setattr(machine.os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine.os.path, "isdir", lambda path: path == "/run/systemd/system")
    which = machine.shutil.which
    monkeypatch.setattr(
        machine.shutil, "which", lambda p, path=None: "/x" if p == "apt-get" else which(p)
    )
    return calls


@pytest.mark.parametrize(
    "need",
    [
        machine.Need("p", "w", programs=("sh", "no-such-program")),
        machine.Need("p", "w", files=("/", "/no/such/file")),
        machine.Need("p", "w", modules=("json", "no_such_module")),
    ],
)
def test_a_package_is_missing_when_any_part_of_it_is(need):
    assert not HERE.missing()
    assert machine.missing([HERE, need]) == [need]


@pytest.mark.parametrize(("here", "missing"), [("debian", True), ("ubuntu", False), ("", False)])
def test_a_package_is_missing_only_where_the_distribution_has_it(monkeypatch, here, missing):
    monkeypatch.setattr(machine.platform, "freedesktop_os_release", lambda: {"ID": here})
    need = machine.Need("p", "why", ("no-such-program",), distributions=("debian",))
    assert need.missing() is missing


def test_a_machine_that_does_not_tell_its_distribution_has_none(monkeypatch):
    def absent():
        raise FileNotFoundError

    monkeypatch.setattr(machine.platform, "freedesktop_os_release", absent)
    assert machine.distribution() == ""


def test_nothing_is_run_when_nothing_is_missing(apt, tmp_path, capsys):
    machine.install([HERE], Steps(), tmp_path / "log")
    assert apt == []
    assert capsys.readouterr().out == ""


def test_what_is_installed_is_said_first_and_its_service_stays_off(apt, tmp_path, capsys):
    machine.install([HERE, AWAY], Steps(), tmp_path / "log")
    assert [" ".join(call) for call in apt] == [
        "apt-get update services denied",
        "apt-get install --yes --no-install-recommends away services denied",
        "systemctl disable --quiet away.service services denied",
    ]
    assert not machine.POLICY.exists()
    out = capsys.readouterr().out
    assert out.index("away") < out.index("installing packages ...")
    assert "it is not" in out and "here" not in out


def test_the_machines_own_policy_for_services_is_left_alone(apt, tmp_path):
    machine.POLICY.write_text("mine")
    machine.install([AWAY], Steps(), tmp_path / "log")
    assert machine.POLICY.read_text() == "mine"


def test_a_failed_installation_leaves_no_policy_behind(apt, tmp_path, monkeypatch):
    def fail(*arguments, **named):
        raise Failed("no network")

    monkeypatch.setattr(machine, "quietly", fail)
    with pytest.raises(Failed, match="no network"):
        machine.install([AWAY], Steps(), tmp_path / "log")
    assert not machine.POLICY.exists()


def test_without_root_the_command_to_run_is_named(apt, tmp_path, monkeypatch):
    monkeypatch.setattr(machine.os, "geteuid", lambda: 1000)
    with pytest.raises(Failed, match="As root: apt-get install --no-install-recommends away"):
        machine.install([AWAY], Steps(), tmp_path / "log")
    assert apt == []


def test_a_machine_without_apt_is_not_supported(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda program, path=None: None)
    with pytest.raises(Failed, match="no apt-get. Debian 12 and 13, Ubuntu 22.04 and 24.04"):
        machine.install([AWAY], Steps(), tmp_path / "log")


# --- the tester's environment ---------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path):
    for name in tester.SOURCES:
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.fixture
def pip(monkeypatch, checkout):
    """Records what would be run; `python -m venv` makes the folder."""
    calls = []

    def record(argv, log, env=None, append=False):
        calls.append(argv)
        if "venv" in argv:
            (checkout / ".venv" / "bin").mkdir(parents=True)

    monkeypatch.setattr(tester, "quietly", record)
    return calls


def test_the_environment_is_made_once(checkout, pip, tmp_path):
    for _ in range(2):
        made = tester.Tester(checkout)
        made.ensure(Steps(), tmp_path / "log")
        assert made.fits()
    assert len(pip) == 3
    assert pip[0] == [sys.executable, "-m", "venv", str(checkout / ".venv")]
    for call in pip[1:]:
        assert call[call.index("-c") + 1] == str(checkout / "constraints.txt")
    assert pip[-1][-1] == f"{checkout}[perf,test]"


@pytest.mark.parametrize("name", tester.SOURCES)
def test_a_changed_requirement_makes_it_anew(name, checkout, pip, tmp_path, capsys):
    tester.Tester(checkout).ensure(Steps(), tmp_path / "log")
    (checkout / ".venv" / "old").touch()
    (checkout / name).write_text("changed")
    assert not tester.Tester(checkout).fits()
    tester.Tester(checkout).ensure(Steps(), tmp_path / "log")
    assert not (checkout / ".venv" / "old").exists()
    assert "requirements have changed" in capsys.readouterr().out


def test_a_file_in_its_place_makes_room(checkout, pip, tmp_path):
    (checkout / ".venv").write_text(".tox/py3\n")
    tester.Tester(checkout).ensure(Steps(), tmp_path / "log")
    assert tester.Tester(checkout).fits()


def test_an_environment_that_was_not_finished_does_not_fit(checkout, pip, tmp_path, monkeypatch):
    def fail(*arguments, **named):
        (checkout / ".venv" / "bin").mkdir(parents=True)
        raise Failed("no network")

    with monkeypatch.context() as patch:
        patch.setattr(tester, "quietly", fail)
        with pytest.raises(Failed):
            tester.Tester(checkout).ensure(Steps(), tmp_path / "log")
    assert not tester.Tester(checkout).fits()
    tester.Tester(checkout).ensure(Steps(), tmp_path / "log")
    assert tester.Tester(checkout).fits()


def test_commands_are_found_in_the_environment_first(checkout, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environment = tester.Tester(checkout).environment()
    assert environment["PATH"].startswith(f"{checkout}/.venv/bin:")
    assert "PYTHONPATH" not in environment


# --- the commands ---------------------------------------------------------------------------


def test_help_and_unknown_commands(capsys):
    assert project.main(["--help"]) == 0
    assert "make demo " in capsys.readouterr().out
    assert project.main(["dance"]) == 2
    assert "make demo " in capsys.readouterr().err
    assert project.main([]) == 2


def test_the_makefile_knows_the_same_commands(root):
    makefile = (root / "Makefile").read_text()
    line = next(line for line in makefile.splitlines() if line.startswith("COMMANDS"))
    assert line.partition(":= ")[2].split() == list(project.COMMANDS)


def test_an_old_python_is_told_so(root):
    """The first statement that an old Python could stumble over comes after the check."""
    source = (root / "tools" / "project.py").read_text()
    early = source.partition("\nimport os")[0].replace("(3, 10)", "(9, 0)")
    done = subprocess.run([sys.executable, "-c", early], capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs 3.10 or newer" in done.stderr


@pytest.fixture
def plain_user(monkeypatch):
    """Not root, everything installed; returns the commands that are run."""
    ran = []
    monkeypatch.setattr(project.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(project.Project, "_prepare", lambda self, needs: None)
    monkeypatch.setattr(project.Project, "_run", lambda self, *argv: ran.append(argv) or 0)
    return ran


def test_without_root_check_runs_the_unit_tests_and_still_fails(plain_user, capsys):
    assert project.main(["check"]) == 1
    assert plain_user == [("pytest", *project.UNIT)]
    assert "NOT CHECKED: tests/functional and tests/lab" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "demo-down"])
def test_without_root_the_lab_is_refused(command, plain_user, capsys):
    assert project.main([command]) == 1
    assert "needs root" in capsys.readouterr().err
    assert plain_user == []


def test_check_runs_every_kind_of_test(plain_user, monkeypatch):
    monkeypatch.setattr(project.os, "geteuid", lambda: 0)
    assert project.main(["check"]) == 0
    kinds = [("tests/unit",), ("tests/functional",), ("tests/lab",)]
    assert [argv[-1:] for argv in plain_user] == kinds
    assert all("not series" in argv for argv in plain_user[1:])


def test_check_ends_with_the_kind_that_failed(plain_user, monkeypatch):
    monkeypatch.setattr(project.os, "geteuid", lambda: 0)
    monkeypatch.setattr(project.Project, "_run", lambda self, *argv: plain_user.append(argv) or 1)
    assert project.main(["check"]) == 1
    assert plain_user == [("pytest", *project.UNIT)]


# --- the demo -------------------------------------------------------------------------------


@pytest.fixture
def stage(tmp_path):
    """A checkout whose programs only write down how they were called; see ``ran``."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    facts = {"facts": {"tempest_conf": str(tmp_path / "lab.conf"), "octavia": DEFAULT_OCTAVIA}}
    (tmp_path / "lab.conf").write_text("[DEFAULT]\nlog_dir = x\n[sriov_lb]\nmode = adopt\n")
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    script = textwrap.dedent(
        f"""\
        #!/bin/sh
        echo "$(basename $0) $*" >> {tmp_path}/ran
        [ "$1" = status ] && cat {tmp_path}/facts.json
        [ "$1" = failing ] && cat {tmp_path}/failing 2>/dev/null
        [ "$(basename $0)" = tempest ] && mkdir -p {tmp_path}/demo/workspace/etc
        case "$(basename $0) $*" in $(cat {tmp_path}/fails 2>/dev/null)) exit 1;; esac
        exit 0
        """
    )
    for name in ("sriov-lb-lab", "sriov-lb", "tempest", "stestr"):
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    (tmp_path / "fails").write_text("nothing")
    return tmp_path


def ran(stage):
    """What was run, without the folder."""
    text = (stage / "ran").read_text().replace(f"{stage}/", "")
    return text.splitlines()


def test_the_demo_runs_everything_in_order(stage, capsys):
    demo = Demo(stage, tester.Tester(stage), Steps(), "18.0.1")
    assert demo.run() == 0
    results = f"demo/artifacts/{demo.run_id}"
    in_lab = "sriov-lb-lab exec -- .venv/bin/"
    assert ran(stage) == [
        "sriov-lb-lab up --octavia 18.0.1 --tempest-extra etc/lab.tempest.conf",
        "sriov-lb-lab status --json",
        "tempest init --workspace-path demo/workspaces.yaml demo/workspace",
        f"{in_lab}tempest run --regex {REGEX} --concurrency 1",
        f"{in_lab}sriov-lb-perf compare --profile smoke --from-cloud"
        f" --config-file demo/workspace/etc/tempest.conf --artifacts {results}/performance",
        f"sriov-lb verdicts {results}",
    ]
    conf = cfg.ConfigOpts()
    conf.register_opt(cfg.StrOpt("log_dir"))
    conf.register_opts(config.SriovLbGroup, group=config.sriov_lb_group)
    conf([], default_config_files=[f"{stage}/demo/workspace/etc/tempest.conf"])
    assert conf.sriov_lb.mode == "adopt"
    assert conf.sriov_lb.run_id == demo.run_id
    assert conf.sriov_lb.artifacts_dir == f"{stage}/demo/artifacts"
    assert conf.log_dir == f"{stage}/demo/workspace/logs"
    out = capsys.readouterr().out
    assert "done; every promise that was looked at held\n" in out and "make demo-down" in out


def test_the_run_id_of_the_demo_is_valid(stage):
    found = config_check.problems({"run_id": Demo(stage, tester.Tester(stage), Steps()).run_id})
    assert "[sriov_lb] run_id" not in [problem.option for problem in found]


def test_a_broken_promise_still_ends_with_the_table(stage, capsys):
    (stage / "fails").write_text("*tempest*run*")
    demo = Demo(stage, tester.Tester(stage), Steps())
    assert demo.run() == 1
    assert ran(stage)[-1] == f"sriov-lb verdicts demo/artifacts/{demo.run_id}"
    assert "done; not well: the tests\n" in capsys.readouterr().out


TEST = "sriov_lb_tests.tests.lifecycle.test_listeners.TestListenerLifecycle.test_last"


@pytest.fixture
def broken(stage):
    """Runs a demo whose test failed; what it recorded, what failed and the release may differ."""

    def go(*verdicts, failing=(TEST,), octavia=DEFAULT_OCTAVIA, chosen="", fails="*tempest run*"):
        (stage / "fails").write_text(fails)
        (stage / "failing").write_text("".join(f"{name}\n" for name in failing))
        facts = json.loads((stage / "facts.json").read_text())
        facts["facts"]["octavia"] = octavia
        (stage / "facts.json").write_text(json.dumps(facts))
        demo = Demo(stage, tester.Tester(stage), Steps(), chosen)
        recorder = Recorder(demo.results)
        recorder.append(Result("ENF-001", "Nothing passes.", Verdict.PASS, "t.T.test_before"))
        for verdict in verdicts:
            recorder.append(Result("LIF-002", "It is closed.", verdict, TEST, defect="OCTAVIA-X"))
        return demo.run()

    return go


def test_what_is_known_of_the_labs_own_octavia_is_said_and_is_no_failure(broken, capsys):
    assert broken(Verdict.KNOWN_DEFECT) == 0
    out = capsys.readouterr().out
    assert "but for those that this Octavia is known to break" in out
    assert "LIF-002: It is closed." in out and "not well" not in out


@pytest.mark.parametrize("last", [Verdict.KNOWN_DEFECT, Verdict.FAIL])
def test_what_was_run_twice_counts_as_it_ended(broken, last):
    assert broken(Verdict.FAIL, last) == (0 if last is Verdict.KNOWN_DEFECT else 1)


@pytest.mark.parametrize(
    "verdict", [Verdict.FAIL, Verdict.NOT_ENFORCED, Verdict.ERROR, Verdict.INCONCLUSIVE]
)
def test_whatever_is_not_known_is_a_failure(broken, verdict, capsys):
    assert broken(verdict) == 1
    assert "not well: the tests" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verdicts", "failing"),
    [
        ([Verdict.KNOWN_DEFECT], [TEST, "tearDownClass (t.T)"]),
        ([], [TEST]),
        ([], []),
    ],
)
def test_a_failure_without_a_verdict_is_one(broken, verdicts, failing):
    assert broken(*verdicts, failing=failing) == 1


@pytest.mark.parametrize("chosen", ["", "19.0.0"])
def test_another_release_than_the_labs_own_is_to_hold_every_promise(broken, chosen):
    assert broken(Verdict.KNOWN_DEFECT, octavia="19.0.0", chosen=chosen) == 1


def test_a_record_with_half_a_line_is_that_of_a_run_that_was_killed(broken, monkeypatch):
    def killed(self, workspace):
        with open(self.results / "verdicts.jsonl", "a") as file:
            file.write('{"requirement": "ENF-0')
        return True

    monkeypatch.setattr(Demo, "tempest", killed)
    assert broken(Verdict.KNOWN_DEFECT) == 1


def test_a_comparison_that_failed_is_still_one(broken, capsys):
    assert broken(Verdict.KNOWN_DEFECT, fails="*exec*") == 1
    assert "not well: the comparison\n" in capsys.readouterr().out


def test_the_labs_own_release_is_one_number():
    assert DEFAULT_OCTAVIA == LAB_DEFAULT


def test_a_lab_that_does_not_come_up_ends_the_demo(stage):
    (stage / "fails").write_text("sriov-lb-lab*up*")
    with pytest.raises(Failed, match="did not come up"):
        Demo(stage, tester.Tester(stage), Steps()).run()
    assert len(ran(stage)) == 1


def test_what_an_earlier_run_left_is_undone_first(stage):
    journals = stage / "demo" / "artifacts" / "journal"
    journals.mkdir(parents=True)
    (journals / "killed.jsonl").touch()
    assert Demo(stage, tester.Tester(stage), Steps()).run() == 0
    calls = ran(stage)
    cleanup = "sriov-lb-lab exec -- .venv/bin/sriov-lb cleanup --journal-dir demo/artifacts/journal"
    assert calls.index(cleanup) < calls.index(
        f"sriov-lb-lab exec -- .venv/bin/tempest run --regex {REGEX} --concurrency 1"
    )


def test_ctrl_c_says_what_is_still_there(stage, monkeypatch, capsys):
    def interrupt(self, workspace):
        raise KeyboardInterrupt

    monkeypatch.setattr(project, "ROOT", stage)
    monkeypatch.setattr(project.Project, "_prepare", lambda self, needs: None)
    monkeypatch.setattr(project, "need_root", lambda what: None)
    monkeypatch.setattr(Demo, "tempest", interrupt)
    assert project.main(["demo"]) == 130
    out = capsys.readouterr().out
    assert "Interrupted" in out and "make demo-down" in out


def test_the_lab_section_of_the_configuration_passes_the_check(root, tmp_path):
    """etc/lab.tempest.conf with every fact filled in has no problem."""
    key = tmp_path / "key"
    key.touch()
    template = string.Template((root / "etc" / "lab.tempest.conf").read_text())
    names = {m["braced"] for m in template.pattern.finditer(template.template)}
    facts = dict.fromkeys(names, "x") | {
        "substrate": "macvlan",
        "octavia": "16.0.0",
        "clouds_yaml": key,
        "amphora_key": key,
    }
    path = tmp_path / "conf"
    path.write_text(template.substitute(facts))
    conf = cfg.ConfigOpts()
    conf.register_opts(config.SriovLbGroup, group=config.sriov_lb_group)
    conf([], default_config_files=[os.fspath(path)])
    assert config_check.problems(conf.sriov_lb) == []
    assert conf.sriov_lb.disruptive is True
