# SPDX-License-Identifier: Apache-2.0
"""Faults into a live amphora, and out of it again.

What is there is written to disk first, so that it can be put back whatever happens to the process:
``sriov-lb mutants --restore DIR``. One transaction puts a fault in, one takes it out; after that
the ruleset reads the same, word for word, as before (the elements of a set in whatever order).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sriov_lb_tests import errors
from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.amphora.amphora import RULES_FILE
from sriov_lb_tests.amphora.counting import PREFIX
from sriov_lb_tests.mutants.fault import FORWARDING_SETTING, Change
from sriov_lb_tests.mutants.listing import Listing, transaction

#: Prints the kernel settings that a fault may change: every one is put back.
SETTINGS = "cd /proc/sys && grep -H . net/ipv[46]/conf/*/forwarding"


def ours(table: str) -> bool:
    """Whether a table is one of this project's own: never saved, never touched."""
    return table.startswith(PREFIX)


def tables_of(text: str) -> dict[str, str]:
    """The blocks of ``nft list ruleset`` by "family name"."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines(keepends=True):
        if line.startswith("table "):
            name = " ".join(line.split()[1:3])
            found[name] = ""
        found[name] += line
    return found


def in_one_order(text: str) -> str:
    """The text of a ruleset with the elements of each set sorted: the kernel lists those of a set
    without intervals as its hash has them, and the hash has another seed after each load."""

    def ordered(found: re.Match[str]) -> str:
        return "{ " + ", ".join(sorted(re.split(r",\s+", found[1]))) + " }"

    # Elements stand on the line of the brace; what a chain or table holds, on lines of its own.
    return re.sub(r"\{ ([^{}]*?) \}", ordered, text)


@dataclass
class Saved:
    """What an amphora was like, on disk.

    :param amphora: its id.
    :param tables: text of each table, counters included, by "family name".
    :param plain: the same without counters: what has to be read again in the end.
    :param settings: kernel settings.
    :param rules_file: its text, None where there is none.
    :param seeded: "" when nothing is seeded, else the fault's id.
    :param applied: the ruleset's text with the fault in it; "" while that is being done.
    :param touched: what beside the rules: ``settings``, ``file``.
    :param way: how to get there, for whoever restores, from whatever folder.
    """

    amphora: str
    tables: dict[str, str]
    plain: str
    settings: dict[str, str]
    rules_file: str | None
    seeded: str = ""
    applied: str = ""
    touched: list[str] = field(default_factory=list)
    way: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Saved:
        """:raises JournalCorrupt: the file is damaged."""
        try:
            return cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise errors.JournalCorrupt(
                f"{path} does not say what the amphora was like: {error}",
                remedy="Let Octavia write the rules again: change one of the listeners.",
            ) from error

    def write(self, path: Path) -> None:
        """Complete on disk before it returns."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        with fresh.open("w") as out:
            json.dump(asdict(self), out, indent=1)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(path)


class Seeder:
    """Puts faults into one amphora and takes them out.

    :param folder: where what was there is kept until it is back.
    :param rules_file: the file that a reboot would load; None where there is none.
    :param way: what whoever restores needs to get there.
    :raises NotRestored: an earlier run left a fault in it.
    """

    def __init__(
        self,
        amphora: Amphora,
        name: str,
        folder: Path,
        *,
        rules_file: str | None = RULES_FILE,
        way: Mapping[str, Any] | None = None,
    ) -> None:
        self.amphora, self.name, self.path = amphora, name, folder / f"restore-{name}.json"
        self._file = rules_file
        if self.path.exists():
            raise errors.NotRestored(
                f"{self.path} is still there: a fault may still be in amphora {name}.",
                remedy=f"Put the rules back first: sriov-lb mutants --restore {folder}",
            )
        self.saved = self._look(dict(way or {}))

    @classmethod
    def resume(cls, amphora: Amphora, path: Path, *, rules_file: str | None = RULES_FILE) -> Seeder:
        """From what a run that died left on disk."""
        made = cls.__new__(cls)
        made.amphora, made.path, made._file = amphora, path, rules_file
        made.saved = Saved.read(path)
        made.name = made.saved.amphora
        return made

    # what is there

    def _look(self, way: dict[str, Any]) -> Saved:
        texts = {
            name: text
            for name, text in tables_of(self.amphora.nft("list", "ruleset")).items()
            if not ours(name.split()[1])
        }
        return Saved(
            self.name, texts, self._plain(), self._settings(), self._read_file(), way=way
        )

    def _plain(self) -> str:
        """Every table's text without counters."""
        blocks = tables_of(self.amphora.nft("-s", "list", "ruleset"))
        mine = (text for name, text in blocks.items() if not ours(name.split()[1]))
        return in_one_order("".join(mine))

    def _settings(self) -> dict[str, str]:
        text = self.amphora.within("sh", "-c", SETTINGS).stdout
        pairs = (line.partition(":") for line in text.splitlines())
        return {name.replace("/", "."): value.strip() for name, _, value in pairs}

    def _read_file(self) -> str | None:
        if self._file is None:
            return None
        done = self.amphora.host.run(["cat", self._file], root=True, check=False)
        return done.stdout if done.status == 0 else None

    def listing(self) -> Listing:
        """The ruleset as it is now."""
        return Listing.read(self.amphora.ruleset_json(), ignore=ours)

    def settings(self) -> dict[str, str]:
        """Those that faults are about, as saved."""
        return {
            name: value
            for name, value in self.saved.settings.items()
            if name in FORWARDING_SETTING.values()
        }

    # in and out

    def seed(self, fault: str, before: Listing, change: Change) -> None:
        """Put a fault in; where it has a repair, that one first, and :meth:`set` does the rest.

        :param before: what is there, as :meth:`listing` read it.
        :raises CommandFailed: nft refuses it; nothing is changed then.
        :raises NotRestored: somebody changed the rules since the run began; nothing is seeded then.
        """
        self._check_unchanged()
        self._put_in(fault, before, change)

    def _check_unchanged(self) -> None:
        # What is put back later is what there was when the run began: were it something else now,
        # restore() would undo what Octavia did meanwhile, and prove that it is undone.
        if self._plain() != self.saved.plain:
            raise errors.NotRestored(
                f"The rules of amphora {self.name} were changed since the run began; nothing was "
                "seeded.",
                remedy="No fault is in them. Begin again while nobody changes the load balancer.",
            )

    def _put_in(self, fault: str, before: Listing, change: Change) -> None:
        self.saved.seeded, self.saved.applied = fault, ""
        self.saved.touched = [
            what
            for what, is_so in (
                ("settings", bool(change.sysctls)),
                ("file", change.rules_file is not None or change.no_rules_file),
            )
            if is_so
        ]  # fmt: skip
        self.saved.write(self.path)
        if change.listing is not None:
            commands = transaction(before, change.listing)
            if commands["nftables"]:
                self.amphora.nft("-j", "-f", "-", input=json.dumps(commands))
        self.set(change.repair or change.sysctls)
        if change.rules_file is not None and self._file is not None:
            self._write_file(change.rules_file)
        if change.no_rules_file and self._file is not None:
            # Aside, not away: owner and mode stay.
            self.amphora.host.run(["mv", self._file, self._aside], root=True)
        self.saved.applied = self._plain()
        self.saved.write(self.path)

    def set(self, settings: Mapping[str, str]) -> None:
        """Change kernel settings, between :meth:`seed` and the :meth:`restore` that undoes it."""
        for name, value in settings.items():
            self.amphora.within("sysctl", "-q", "-w", f"{name}={value}")

    def restore(self, *, force: bool = False) -> None:
        """Put everything back as it was, and prove it.

        :param force: also when somebody else changed the rules meanwhile.
        :raises NotRestored: they are not what was seeded; or do not read as before afterwards.
        """
        now = self._plain()
        known = (self.saved.plain, self.saved.applied)
        if self.saved.applied and now not in known and not force:
            raise errors.NotRestored(
                f"The rules of amphora {self.name} are neither those with the fault "
                f"{self.saved.seeded} nor those before it: somebody changed them meanwhile.",
                remedy="If that was Octavia, nothing needs to be put back: delete "
                f"{self.path}. Otherwise repeat with --force.",
            )
        if now != self.saved.plain:
            gone = [f"delete table {name}\n" for name in tables_of(now)]
            self.amphora.nft("-f", "-", input="".join([*gone, *self.saved.tables.values()]))
        if "settings" in self.saved.touched:
            # "all" changes the others, so it comes first.
            for name in sorted(self.saved.settings, key=lambda n: ".all." not in n):
                if self._settings() == self.saved.settings:
                    break
                self.set({name: self.saved.settings[name]})
        if "file" in self.saved.touched and self.saved.rules_file is not None:
            back = f'[ ! -e "{self._aside}" ] || mv "{self._aside}" "{self._file}"'
            self.amphora.host.run(["sh", "-c", back], root=True)
            self._write_file(self.saved.rules_file)
        self._prove()
        self.path.unlink(missing_ok=True)
        self.saved.seeded = self.saved.applied = ""

    def _prove(self) -> None:
        looks = {"rules": (self._plain, self.saved.plain)}
        if "settings" in self.saved.touched:
            looks["kernel settings"] = (self._settings, self.saved.settings)
        if "file" in self.saved.touched:
            looks["rules file"] = (self._read_file, self.saved.rules_file)
        wrong = [what for what, (look, before) in looks.items() if look() != before]
        if wrong:
            raise errors.NotRestored(
                f"The {' and the '.join(wrong)} of amphora {self.name} are not what they were "
                f"before fault {self.saved.seeded}; {self.path} says what that was."
            )

    @contextmanager
    def seeded(self, fault: str, before: Listing, change: Change) -> Iterator[None]:
        """The fault is in while the block runs."""
        # Outside: what was not seeded is not put back either.
        self._check_unchanged()
        try:
            self._put_in(fault, before, change)
            yield
        finally:
            self.restore()

    @property
    def _aside(self) -> str:
        """Where the rules file is while there is none."""
        return f"{self._file}.aside"

    def _write_file(self, text: str) -> None:
        # Into the file itself: owner and mode stay.
        self.amphora.host.run(
            ["sh", "-c", f"cat >{self._file}"], input=text.encode(), root=True
        )


def left(folder: Path) -> list[Path]:
    """What runs that died left to be put back."""
    return sorted(folder.glob("restore-*.json"))
