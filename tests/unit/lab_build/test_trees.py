# SPDX-License-Identifier: Apache-2.0
"""Which trees there are, when they are made, and what happens when one cannot be."""

import pathlib
import threading

import pytest

from sriov_lb_lab.build import bootstrap, host, pipconfig, roots, trees, versions
from sriov_lb_lab.build.workspace import Workspace
from sriov_lb_lab.errors import BuildError, HostError


def silent(step, message):
    pass


def test_names_depend_on_the_release_only_where_it_matters():
    old, new = trees.plan("16.0.0"), trees.plan("18.0.1")
    assert old.names == trees.plan("16.0.0").names
    for tree in ("system", "guest", "stack-base", "amphora-base"):
        assert old.names[tree] == new.names[tree]
    assert old.names["stack"].startswith("stack-16.0.0-")
    assert new.names["amphora"].startswith("amphora-18.0.1-")
    assert len(set(old.names.values())) == 6


def test_a_changed_element_changes_the_trees_made_from_it(tmp_path):
    for name in ("instance", "guest"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "packages.txt").write_text("# why\nsystemd\nsudo # root\n")
    before = roots.GUEST.inputs(tmp_path)
    assert before["packages"] == ["sudo", "systemd"]
    (tmp_path / "guest" / "setup.sh").write_text("true\n")
    after = roots.GUEST.inputs(tmp_path)
    assert after["elements"]["instance"] == before["elements"]["instance"]
    assert after["elements"]["guest"] != before["elements"]["guest"]


@pytest.mark.parametrize("element", ["system", "instance", "guest", "amphora"])
def test_files_of_the_elements_are_there_and_listed(element):
    folder = roots.ELEMENTS / element
    listed = {file.name for file in roots.files_of(folder)}
    there = {path.name for path in (folder / "files").glob("*")}
    assert listed == there


def test_folders_of_the_package_can_be_packaged():
    """setuptools leaves out folders with a dot in their names, and says nothing."""
    folders = [path for top in (roots.ELEMENTS, versions.CONSTRAINTS)
               for path in (top, *top.rglob("*")) if path.is_dir()]
    assert len(folders) > 5
    assert [path for path in folders if "." in path.name] == []


@pytest.mark.parametrize("line", ["name /etc/x", "name etc/x 0644", "name /etc/x 644x"])
def test_a_broken_list_of_files_is_refused(tmp_path, line):
    (tmp_path / "files.txt").write_text(f"good /etc/good 0644\n{line}\n")
    with pytest.raises(BuildError, match="files.txt, line 2"):
        roots.files_of(tmp_path)


@pytest.fixture
def cached(tmp_path):
    """A cache in which everything for 16.0.0 is there."""
    workspace = Workspace(tmp_path / "cache")
    plan = trees.plan("16.0.0")
    with workspace.locked(silent):
        for name in plan.names.values():
            workspace.start(name)
            workspace.publish(name, {})
    return workspace.cache


def refuse(*args, **options):
    raise AssertionError("this needs the host or a network")


def snapshot(folder):
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_with_everything_cached_nothing_is_touched(cached, monkeypatch):
    for module, name in ((host, "require_root"), (host, "missing_packages"),
                         (pipconfig, "of_host"), (bootstrap, "host_archive"),
                         (trees.Runner, "isolated")):
        monkeypatch.setattr(module, name, refuse)
    before = snapshot(cached)
    made = trees.ensure(cached, "16.0.0", progress=refuse)
    assert snapshot(cached) == before
    assert made.system.is_dir() and made.stack.name.startswith("stack-16.0.0-")
    assert made.digests["guest"] == made.guest.name.rpartition("-")[2]
    # The control: one tree less, and the host is asked.
    (cached / made.guest.name / ".manifest.json").unlink()
    with pytest.raises(AssertionError, match="needs the host"):
        trees.ensure(cached, "16.0.0", progress=silent)


@pytest.fixture
def able(monkeypatch):
    """A host on which building is possible, whoever runs the tests; it records what is made."""
    made, guard = [], threading.Lock()
    monkeypatch.setattr(host, "require_root", lambda: None)
    monkeypatch.setattr(host, "require_supported", lambda release: None)
    monkeypatch.setattr(host, "missing_packages", lambda: [])
    monkeypatch.setattr(host, "require_space", lambda *args: None)
    monkeypatch.setattr(bootstrap, "host_archive",
                        lambda mirror, release: bootstrap.Archive("host", ("deb x y main",)))
    monkeypatch.setattr(pipconfig, "of_host", lambda: pipconfig.PipSettings({}, (), ()))

    def makers(self):
        def make(tree):
            def maker(name):
                with guard:
                    made.append(tree)
                self._workspace.start(name)
            return maker
        return {tree: make(tree) for tree in self._plan.names}

    monkeypatch.setattr(trees._Build, "_makers", makers)
    return made


def test_an_empty_cache_gets_everything_and_manifests_say_how(tmp_path, able):
    said = []
    made = trees.ensure(tmp_path / "cache", "16.0.0",
                        progress=lambda step, message: said.append((step, message)))
    assert sorted(able) == sorted(trees.plan("16.0.0").names)
    assert able.index("system") < able.index("stack-base") < able.index("stack")
    assert able.index("amphora-base") < able.index("amphora")
    manifest = Workspace(tmp_path / "cache").manifest(made.stack.name)
    assert manifest["archive"] == "host" and manifest["inputs"]["octavia"] == "16.0.0"
    assert manifest["digest"] == made.digests["stack"] and manifest["seconds"] >= 0
    assert {step for step, _ in said} == set(able)


def test_another_release_makes_only_what_is_new(cached, able):
    trees.ensure(cached, "18.0.1", progress=silent)
    assert sorted(able) == ["amphora", "stack"]


def test_a_base_that_nobody_needs_is_not_made(cached, able):
    names = trees.plan("16.0.0").names
    for tree in ("stack-base", "amphora-base", "guest"):
        (cached / names[tree] / ".manifest.json").unlink()
    trees.ensure(cached, "16.0.0", progress=silent)
    assert able == ["guest"]


def test_the_first_failure_is_the_one_reported_and_ends_the_other_line(tmp_path, able, monkeypatch):
    stopped, reached = threading.Event(), threading.Event()
    real_stop = trees.Runner.stop

    def stop(self):
        stopped.set()
        real_stop(self)

    def makers(self):
        def fail(name):
            assert reached.wait(10)
            raise BuildError("system: could not fetch http://m.example", "connect it")

        def wait(name):
            reached.set()
            assert stopped.wait(10), "nobody stopped this line"
            raise BuildError("given up")
        return dict.fromkeys(self._plan.names, wait) | {"system": fail}

    monkeypatch.setattr(trees.Runner, "stop", stop)
    monkeypatch.setattr(trees._Build, "_makers", makers)
    with pytest.raises(BuildError, match="could not fetch http://m.example"):
        trees.ensure(tmp_path / "cache", "16.0.0", progress=silent)
    assert [path.name for path in (tmp_path / "cache").glob("*-*") if path.is_dir()] == []


@pytest.mark.parametrize(("module", "name", "error"), [
    (host, "require_root", HostError("no root")),
    (host, "require_supported", HostError("unsupported")),
    (host, "require_space", BuildError("full")),
])
def test_a_host_that_cannot_build_says_so_before_anything_is_made(
        tmp_path, able, monkeypatch, module, name, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(module, name, fail)
    with pytest.raises(type(error), match=str(error)):
        trees.ensure(tmp_path / "cache", "16.0.0", progress=silent)
    assert able == []


def test_missing_packages_are_named(tmp_path, able, monkeypatch):
    monkeypatch.setattr(host, "missing_packages", lambda: ["mmdebstrap"])
    with pytest.raises(HostError, match="lacks the package mmdebstrap"):
        trees.ensure(tmp_path / "cache", "16.0.0", progress=silent)


def test_a_wrong_release_is_refused_first(tmp_path):
    with pytest.raises(BuildError, match="--octavia.*'master'"):
        trees.ensure(tmp_path / "cache", "master", progress=refuse)
    assert not (tmp_path / "cache").exists()


def test_every_tree_has_an_estimate_of_its_size():
    assert set(trees.SPACE) == set(trees.plan("16.0.0").names)


def test_mmdebstrap_gets_packages_archive_and_cache():
    archive = bootstrap.Archive("option", ("deb http://m.example/debian bookworm main",),
                                ('Acquire::Check-Valid-Until "false"',))
    argv = bootstrap.argv(pathlib.Path("/cache/.building-guest"), ("sudo", "systemd"), archive,
                          pathlib.Path("/ca che/apt"))
    assert argv[0] == "mmdebstrap"
    assert "--include=sudo,systemd" in argv
    assert '--aptopt=Acquire::Check-Valid-Until "false"' in argv
    assert argv[-3:] == ["bookworm", "/cache/.building-guest",
                         "deb http://m.example/debian bookworm main"]
    hooks = [word for word in argv if "-hook=" in word]
    assert sum("'/ca che/apt'" in hook for hook in hooks) == 2
    assert any("policy-rc.d" in hook and hook.startswith("--essential-hook") for hook in hooks)


def test_the_hosts_archives_are_read_from_both_kinds_of_files(tmp_path):
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://one.example/debian bookworm main\n")
    (parts / "b.sources").write_text(
        "Types: deb\nURIs: http://two.example/debian\nSuites: bookworm\nComponents: main\n")
    (parts / "c.list.disabled").write_text("deb http://off.example/debian bookworm main\n")
    (parts / "d.list").write_text("deb http://three.example/debian bookworm main\n")
    found = [entry.uri for entry in bootstrap.read_host_entries(tmp_path)]
    assert found == ["http://one.example/debian", "http://two.example/debian",
                     "http://three.example/debian"]


def test_only_a_debian_12_host_lends_its_mirror(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap.subprocess, "run", lambda *args, **options: type(
        "Done", (), {"returncode": 1, "stdout": ""}))
    (tmp_path / "sources.list").write_text("deb http://one.example/debian bookworm main\n")
    bookworm = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
    chosen = bootstrap.host_archive(None, bookworm, tmp_path)
    assert chosen.kind == "host" and "one.example" in chosen.lines[0]
    noble = bootstrap.host_archive(None, {"ID": "ubuntu", "VERSION_CODENAME": "noble"}, tmp_path)
    assert noble.kind == "default" and noble.lines == (), "mmdebstrap has a default of its own"
    option = bootstrap.host_archive("http://m.example/debian", bookworm, tmp_path)
    assert option.kind == "option" and "m.example" in option.lines[0]


def test_packages_that_arrived_before_a_failure_are_kept(tmp_path):
    archives, cache = tmp_path / "root" / "var/cache/apt/archives", tmp_path / "apt"
    (archives / "partial").mkdir(parents=True)
    cache.mkdir()
    (archives / "whole_1_all.deb").write_text("new")
    (archives / "known_1_all.deb").write_text("new")
    (cache / "known_1_all.deb").write_text("old")
    (archives / "partial" / "half_1_all.deb").write_text("x")

    class Failing:
        def isolated(self, argv, **options):
            raise BuildError("mirror went away")

    with pytest.raises(BuildError, match="mirror went away"):
        bootstrap.bootstrap(Failing(), "guest-1", tmp_path / "root", ("sudo",),
                            bootstrap.Archive("host", ()), cache)
    assert sorted(path.name for path in cache.iterdir()) == ["known_1_all.deb", "whole_1_all.deb"]
    assert (cache / "known_1_all.deb").read_text() == "old"
