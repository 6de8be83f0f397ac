# SPDX-License-Identifier: Apache-2.0
"""The cache: whole trees or none, one builder, no leftovers."""

import os
import subprocess
import sys
import threading

import pytest

from sriov_lb_lab.build import workspace as workspaces
from sriov_lb_lab.build.workspace import Workspace
from sriov_lb_lab.errors import BuildError, HostError


def silent(step, message):
    pass


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(tmp_path / "cache")
    with made.locked(silent):
        pass
    return made


def test_a_tree_exists_when_it_is_published_and_not_before(workspace):
    folder = workspace.start("guest-1")
    (folder / "etc").mkdir()
    assert not workspace.ready("guest-1")
    path = workspace.publish("guest-1", {"digest": "1"})
    assert workspace.ready("guest-1") and (path / "etc").is_dir()
    assert workspace.manifest("guest-1") == {"digest": "1"}
    assert not folder.exists()


def test_a_folder_without_manifest_is_no_tree_and_is_replaced(workspace):
    (workspace.cache / "guest-1").mkdir()
    (workspace.cache / "guest-1" / "half").write_text("")
    assert not workspace.ready("guest-1")
    workspace.start("guest-1")
    path = workspace.publish("guest-1", {})
    assert sorted(os.listdir(path)) == [workspaces.MANIFEST]


def test_leftovers_are_removed_by_the_next_build_and_reported(workspace):
    (workspace.start("guest-1") / "file").write_text("")
    keep = workspace.start("guest-2")
    workspace.publish("guest-2", {})
    said = []
    with workspace.locked(lambda step, message: said.append((step, message))):
        assert sorted(path.name for path in workspace.cache.glob(".building-*")) == []
    assert not keep.exists() and workspace.ready("guest-2")
    assert [step for step, _ in said] == ["clean"] and "guest-1" in said[0][1]


def test_starting_again_starts_empty(workspace):
    (workspace.start("guest-1") / "file").write_text("")
    assert os.listdir(workspace.start("guest-1")) == []


def test_a_second_build_waits_for_the_first(workspace):
    inside, release, order = threading.Event(), threading.Event(), []

    def second():
        def progress(step, message):
            order.append(step)
            release.set()
        with Workspace(workspace.cache).locked(progress):
            order.append("second")

    with workspace.locked(silent):
        inside.set()
        thread = threading.Thread(target=second)
        thread.start()
        assert release.wait(10), "the second build never said that it waits"
        order.append("first")
    thread.join(10)
    assert order == ["lock", "first", "second"]


def test_a_child_that_outlives_its_build_keeps_the_lock(workspace):
    with workspace.locked(silent):
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"],
                                 stdin=subprocess.PIPE, pass_fds=workspace.lock_fds)
    assert workspace.lock_fds == ()
    said, done = threading.Event(), threading.Event()

    def later():
        with Workspace(workspace.cache).locked(lambda step, message: said.set()):
            done.set()

    thread = threading.Thread(target=later)
    thread.start()
    assert said.wait(10) and not done.is_set()
    child.communicate(b"")
    assert done.wait(10)
    thread.join(10)


def test_an_unwritable_cache_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=f"{tmp_path}/file/cache: Not a directory"):
        with Workspace(tmp_path / "file" / "cache").locked(silent):
            pytest.fail("locked a cache that cannot exist")


MOUNTINFO = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:5 / /cache/.building-x/proc rw - proc proc rw
31 22 0:6 / /cache/.building-x rw - tmpfs tmpfs rw
32 22 0:6 / /cache/.building-xy rw - tmpfs tmpfs rw
33 22 0:6 / /cache/.building-x/with\\040blank rw - tmpfs tmpfs rw
"""


def test_mounts_below_a_folder_are_found_deepest_first(tmp_path):
    found = workspaces.mounts_below(workspaces.pathlib.Path("/cache/.building-x"), MOUNTINFO)
    assert found == ["/cache/.building-x/with blank", "/cache/.building-x/proc",
                     "/cache/.building-x"]


def test_nothing_is_removed_through_a_mount(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    (victim / "proc").mkdir(parents=True)
    monkeypatch.setattr(workspaces, "mounts_below", lambda folder, text: [f"{folder}/proc"])
    with pytest.raises(BuildError, match="is mounted there\n.*umount"):
        workspaces.remove_tree(victim)
    assert victim.is_dir()
    monkeypatch.undo()
    workspaces.remove_tree(victim)
    assert not victim.exists()


def test_link_copy_shares_files_and_keeps_links_and_modes(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "bin").mkdir(parents=True)
    (source / "bin" / "tool").write_text("x")
    (source / "lib64").symlink_to("lib")
    (source / "bin" / "python").symlink_to("/usr/bin/python3")
    (source / "private").mkdir(mode=0o700)
    (source / workspaces.MANIFEST).write_text("{}")
    source.chmod(0o750)
    target.mkdir()
    workspaces.link_copy(source, target)
    assert (target / "bin" / "tool").samefile(source / "bin" / "tool")
    assert os.readlink(target / "lib64") == "lib"
    assert os.readlink(target / "bin" / "python") == "/usr/bin/python3"
    assert (target / "private").stat().st_mode & 0o777 == 0o700
    assert target.stat().st_mode & 0o777 == 0o750
    assert not (target / workspaces.MANIFEST).exists()
    # Replacing a file of the copy, as package managers do, leaves the original alone.
    (target / "new").write_text("y")
    os.replace(target / "new", target / "bin" / "tool")
    assert (source / "bin" / "tool").read_text() == "x"


def test_a_build_that_fails_leaves_nothing_unfinished(workspace):
    with pytest.raises(BuildError, match="broken"):
        with workspace.locked(silent):
            (workspace.start("guest-1") / "file").write_text("")
            workspace.start("guest-2")
            workspace.publish("guest-2", {})
            raise BuildError("broken")
    assert list(workspace.cache.glob(".building-*")) == []
    assert workspace.ready("guest-2")
