# SPDX-License-Identifier: Apache-2.0
"""The lab's pure side: names, addresses, configuration files, what is handed over."""

from __future__ import annotations

import configparser
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from xmlrpc.server import SimpleXMLRPCDispatcher

import pytest
import yaml
from click.testing import CliRunner

from sriov_lb_lab import awaits, cli, files, handover, programs, runtime, settings, template
from sriov_lb_lab.config import ini
from sriov_lb_lab.errors import LabError, NotRunning, StateError
from sriov_lb_lab.paths import Paths
from sriov_lb_lab.runtime import Runtime
from sriov_lb_lab.supervisor import Supervisor

TREES = {kind: f"{kind}-x" for kind in ("system", "stack", "amphora", "guest", "database")}


@pytest.fixture
def made():
    return settings.Settings(
        "lab", "16.0.0", "macvlan", TREES, 7800, ids=dict.fromkeys(settings.BOOTSTRAP_IDS, "id")
    )


@pytest.fixture
def paths(tmp_path):
    return Paths.of(tmp_path, "one")


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "Lab", "1lab", "a/b", "a" * 17, "lab_1"])
def test_a_bad_name_is_refused_by_name(name):
    with pytest.raises(StateError, match="--name"):
        Paths.of("/x", name)


@pytest.mark.parametrize("state", ["relative", "/with,comma", "/with:colon"])
def test_a_state_folder_that_mount_options_cannot_carry_is_refused(state):
    with pytest.raises(StateError, match="--state"):
        Paths.of(state)


def test_the_environment_names_the_state_folder(monkeypatch):
    monkeypatch.setenv("SRIOV_LB_LAB_STATE", "/somewhere")
    assert Paths.of().lab == Path("/somewhere/labs/lab")


# --- hosts and networks ---------------------------------------------------------------------------


def test_two_hosts_with_at_least_eight_vfs_a_pf_and_one_without_any():
    sriov = [host for host in settings.HOSTS if host.sriov]
    assert len(sriov) == 2
    assert [host.pfs() for host in settings.HOSTS if not host.sriov] == [[]]
    for host in sriov:
        for pf in host.pfs():
            assert len(pf["vfs"]) >= 8
            addresses = [vf["address"] for vf in pf["vfs"]]
            assert len(set(addresses)) == len(addresses)
            assert pf["address"] not in addresses


def test_link_names_fit_the_kernel():
    longest = [
        f"{net.name}-{host.number}pf" for net in settings.PHYSNETS for host in settings.HOSTS
    ]
    assert max(map(len, longest)) <= 15


@pytest.mark.parametrize(("hard", "limit"), [(1024, 100), (20000, 487), (10**7, 50000)])
def test_haproxys_share_of_the_descriptors(hard, limit):
    assert settings.connection_limit(hard) == limit


def test_settings_survive_json(made):
    assert settings.Settings.from_dict(json.loads(json.dumps(made.as_dict()))) == made


def test_octavias_key_passphrase_has_the_32_characters_it_demands(made):
    assert len(made.passwords["server_key_passphrase"]) == 32


# --- configuration files --------------------------------------------------------------------------


def test_ini_knows_booleans_and_repeated_options():
    text = ini.render({"a": {"yes": True, "many": ["x", "y"], "number": 3}})
    assert text == "[a]\nyes = true\nmany = x\nmany = y\nnumber = 3\n"


def test_every_service_file_parses_and_no_secret_is_empty(made):
    rendered = template.etc(made)
    for name, text in rendered.items():
        if "rabbitmq" in name:
            continue
        parser = configparser.RawConfigParser(strict=False)
        parser.read_string(text)
        for section in parser.sections():
            for option in ("password", "connection"):
                assert parser.get(section, option, fallback="set"), f"{name} [{section}] {option}"


def test_nova_does_not_compare_unscoped_extra_specs_with_what_hosts_report(made):
    """Octavia's guide writes them unscoped; with ComputeCapabilitiesFilter no host would match."""
    assert "ComputeCapabilitiesFilter" not in template.etc(made)["nova/nova.conf"].replace("#", "")


def test_nova_compute_never_sees_the_database(made):
    for host in settings.HOSTS:
        text = template.etc(made)[f"nova-{host.name}/nova.conf"]
        assert "[database]" not in text and "mysql" not in text


def test_every_vf_is_named_to_nova_with_its_network(made):
    text = template.etc(made)["nova-compute-1/nova.conf"]
    specs = [json.loads(line.split("=", 1)[1]) for line in text.splitlines()
             if line.startswith("device_spec")]  # fmt: skip
    assert len(specs) == 2 * settings.VFS_PER_PF
    assert {spec["physical_network"] for spec in specs} == {"public", "members"}


def test_supervisor_runs_every_service_once():
    every = programs.everything()
    names = [program.name for program in every]
    assert len(set(names)) == len(names)
    text = programs.supervisor_conf(every)
    parser = configparser.RawConfigParser()
    parser.read_string(text)
    assert {f"program:{name}" for name in names} <= set(parser.sections())
    assert (
        "nsenter --net=/run/netns/compute-2" in parser["program:compute-2.nova-compute"]["command"]
    )


# --- waiting --------------------------------------------------------------------------------------


def test_awaits_waits_for_what_it_is_told_and_becomes_the_command(tmp_path):
    marker = tmp_path / "marker"
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, awaits.__file__, f"tcp:127.0.0.1:{port}", f"file:{marker}", "--",
         "echo", "went on"], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert "waiting for file:" in process.stdout.readline()
    assert process.poll() is None
    marker.touch()
    assert process.communicate(timeout=10)[0] == "went on\n"
    listener.close()


def test_awaits_conditions_can_fail(tmp_path):
    assert not awaits.met(f"file:{tmp_path}/none")
    assert not awaits.met(f"socket:{tmp_path}/none")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert awaits.met(f"tcp:127.0.0.1:{port}")
    assert not awaits.met(f"tcp:127.0.0.1:{port}")


def test_wait_until_says_what_did_not_happen():
    with pytest.raises(LabError, match="the sun: not within 0 s"):
        runtime.wait_until(lambda: False, 0.05, "the sun", step=0.01)


# --- the running lab ------------------------------------------------------------------------------


def test_a_process_has_a_start_time_and_a_dead_one_has_none():
    assert runtime.start_time(os.getpid()) > 0
    child = subprocess.Popen(["true"])
    child.wait()
    assert runtime.start_time(child.pid) is None


def test_a_pid_that_was_used_again_is_not_the_lab(paths):
    paths.lab.mkdir(parents=True)
    own = {"pid": os.getpid(), "start": runtime.start_time(os.getpid())}
    paths.pid_file.write_text(json.dumps(own))
    assert Runtime(paths).pid() == os.getpid()
    paths.pid_file.write_text(json.dumps({**own, "start": own["start"] - 1}))
    assert Runtime(paths).pid() is None


def test_commands_of_a_lab_that_does_not_run_say_so(paths):
    with pytest.raises(NotRunning, match="'one'"):
        Runtime(paths).inside(["true"])


def test_the_command_line_reports_not_running_with_exit_code_3(tmp_path):
    done = CliRunner().invoke(cli.main, ["--state", str(tmp_path), "status"])
    assert done.exit_code == 3
    assert "is not running" in done.output


def test_the_command_line_turns_errors_into_one_message(tmp_path):
    done = CliRunner().invoke(cli.main, ["--state", "relative", "status"])
    assert done.exit_code == 1
    assert "--state is 'relative'" in done.output
    assert "Traceback" not in done.output


def test_logs_of_an_unknown_service_lists_the_known(tmp_path):
    logs = tmp_path / "labs/lab/log"
    logs.mkdir(parents=True)
    (logs / "keystone.log").write_text("one\ntwo\n")
    known = CliRunner().invoke(cli.main, ["--state", str(tmp_path), "logs", "keystone", "-n", "1"])
    assert known.output == "two\n"
    unknown = CliRunner().invoke(cli.main, ["--state", str(tmp_path), "logs", "nope"])
    assert unknown.exit_code == 1
    assert "there are: keystone" in unknown.output


def test_the_supervisor_is_reached_through_a_path_longer_than_sun_path(tmp_path):
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    path = folder / "supervisor.sock"
    descriptor = os.open(folder, os.O_PATH)
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"/proc/self/fd/{descriptor}/{path.name}")
    server.listen()

    def answer():
        dispatcher = SimpleXMLRPCDispatcher(allow_none=True)
        dispatcher.register_function(lambda: {"statename": "RUNNING"}, "supervisor.getState")
        connection = server.accept()[0]
        data = b""
        while b"</methodCall>" not in data:
            data += connection.recv(4096)
        body = dispatcher._marshaled_dispatch(data.split(b"\r\n\r\n", 1)[1])
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    assert Supervisor(path).ready()
    thread.join(10)
    server.close()
    os.close(descriptor)


# --- what is handed over --------------------------------------------------------------------------


def test_clouds_and_tempest_conf(paths, made, tmp_path):
    extra = tmp_path / "extra.conf"
    extra.write_text("[some_plugin]\nimage = ${id_image_guest}\nprice = $5\n")
    handover.check_extra(extra)
    handover.write(paths, made, extra)
    clouds = yaml.safe_load(paths.clouds_yaml.read_text())["clouds"]
    assert set(clouds) == {"lab-admin", "lab-member", "lab-octavia"}
    parser = configparser.RawConfigParser()
    parser.read(paths.tempest_conf)
    assert parser["some_plugin"]["image"] == "id"
    assert parser["some_plugin"]["price"] == "$5"
    assert parser["compute"]["image_ref"] == "id"
    first = paths.tempest_conf.read_text()
    handover.write(paths, made, None)
    assert paths.tempest_conf.read_text() == first, "a second `up` must not lose the extra sections"
    assert paths.clouds_yaml.stat().st_mode & 0o077 == 0, "it holds passwords"


def test_an_extra_file_with_an_unknown_fact_is_refused_before_anything_starts(tmp_path):
    extra = tmp_path / "extra.conf"
    extra.write_text("[p]\nx = ${no_such_fact}\n")
    with pytest.raises(StateError, match="no_such_fact.*not a fact"):
        handover.check_extra(extra)
    with pytest.raises(StateError, match="No such file"):
        handover.check_extra(tmp_path / "none")


def test_files_are_replaced_whole(tmp_path):
    target = tmp_path / "deep" / "file"
    files.write_one(target, "one")
    files.write_one(target, "two")
    assert target.read_text() == "two"
    assert [p.name for p in target.parent.iterdir()] == ["file"]
