# SPDX-License-Identifier: Apache-2.0
import json
import os
from types import SimpleNamespace

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import ledger


def lines(book):
    return [json.loads(line) for line in book.path.read_text().splitlines()]


def test_run_ids_differ_and_spell_nothing():
    ids = {ledger.new_run_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(len(i) == 8 and not set(i) & set("aeiou01l-") for i in ids)


def test_the_intent_is_on_disk_before_the_request(tmp_path):
    book = ledger.Ledger(tmp_path, "r1")

    def request():
        last = lines(book)[-1]
        assert (last["op"], last["kind"], last["name"]) == ("intent", "server", "n1")
        return SimpleNamespace(id="id-1")

    book.make("server", "n1", "member", request, zone="z")
    assert lines(book)[-1]["id"] == "id-1"
    assert lines(book)[1]["extra"] == {"zone": "z"}


def test_names_carry_the_run_and_differ_between_processes_of_a_run(tmp_path):
    one, two = ledger.Ledger(tmp_path, "r1"), ledger.Ledger(tmp_path, "r1")
    names = [one.name("a"), one.name("a"), two.name("a"), two.name("a")]
    assert len(set(names)) == 4
    assert all(name.startswith(ledger.run_token("r1")) for name in names)


def test_the_token_of_a_run_is_not_the_beginning_of_another_runs():
    assert not ledger.run_token("nightly-2").startswith(ledger.run_token("nightly"))


def test_a_refused_request_stays_open(tmp_path):
    book = ledger.Ledger(tmp_path, "r1")

    def refuse():
        raise TimeoutError("no answer")

    with pytest.raises(TimeoutError):
        book.make("server", "n1", "member", refuse)
    book.close()
    record = ledger.read(book.path)
    assert [e.name for e in record.open_entries] == ["n1"]
    assert "no answer" in record.open_entries[0].error
    assert not record.closed


def test_read_gives_back_what_was_written(tmp_path):
    book = ledger.Ledger(tmp_path, "r1", {"member": {"cloud": "c"}})
    book.make("load_balancer", "lb", "member", lambda: SimpleNamespace(id="1"))
    book.saw(book.entries[0], "server", "amphora-1")
    book.saw(book.entries[0], "server", "amphora-1")
    book.make("network", "net", "admin", lambda: SimpleNamespace(id="2"))
    book.gone(book.entries[1])
    record = ledger.read(book.path)
    assert record.identities == {"member": {"cloud": "c"}}
    assert record.pid == os.getpid()
    assert record.entries[0].followers == [("server", "amphora-1")]
    assert [e.name for e in record.open_entries] == ["lb"]


def test_a_torn_last_line_is_ignored_and_can_be_written_after(tmp_path):
    book = ledger.Ledger(tmp_path, "r1")
    book.make("server", "n1", "member", lambda: SimpleNamespace(id="1"))
    book.close()
    with open(book.path, "ab") as file:
        file.write(b'{"op": "intent", "n": 2, "ki')
    record = ledger.read(book.path)
    assert [e.name for e in record.entries] == ["n1"]
    again = ledger.Reopened(record)
    again.gone(record.entries[0])
    again.close()
    assert ledger.read(book.path).closed


def test_damage_in_the_middle_is_an_error_with_its_line(tmp_path):
    book = ledger.Ledger(tmp_path, "r1")
    book.close()
    with open(book.path, "ab") as file:
        file.write(b'{"op": "made", "n": 7, "id": "x"}\n{"op": "gone", "n": 7}\n')
    with pytest.raises(errors.JournalCorrupt, match="Line 3"):
        ledger.read(book.path)


@pytest.mark.parametrize("content", [b"", b'{"journal": 1, "ru'])
def test_killed_while_the_first_line_was_written(tmp_path, content):
    path = tmp_path / "nightly-1-77-ab12.jsonl"
    path.write_bytes(content)
    record = ledger.read(path)
    assert record.run_id == "nightly-1"
    assert record.entries == []


def test_a_full_disk_means_nothing_is_requested_and_no_half_line_stays(tmp_path, monkeypatch):
    book = ledger.Ledger(tmp_path, "r1")
    genuine = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: genuine(fd, data[: len(data) // 2]))
    asked = []
    with pytest.raises(errors.JournalUnwritable, match="No space left"):
        book.make("server", "n1", "member", lambda: asked.append(1))
    assert asked == []
    monkeypatch.setattr(os, "write", genuine)
    book.make("server", "n2", "member", lambda: SimpleNamespace(id="2"))
    assert [e.name for e in ledger.read(book.path).entries] == ["n2"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(errors.JournalUnwritable, match="file"):
        ledger.Ledger(file / "journal", "r1")


def test_a_living_journal_is_not_taken_over(tmp_path):
    book = ledger.Ledger(tmp_path, "r1")
    with pytest.raises(errors.JournalError, match="alive"):
        ledger.Reopened(ledger.read(book.path))
    book.close()


def test_journals_of_a_folder_that_is_not_there(tmp_path):
    assert list(ledger.journals(tmp_path / "none")) == []
