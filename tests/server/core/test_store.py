# SPDX-License-Identifier: Apache-2.0
"""The SQLite store: the contract of every store, and what is this one's own."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server.core.samples import URI, UUID
from server.core.store_contract import RECORD, StoreContract

from virtblock.server.core import store as store_module
from virtblock.server.core.errors import VirError
from virtblock.server.core.store import MIGRATIONS, DomainRecord, Store


class TestSqliteStore(StoreContract):
    """The contract over a file."""

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Iterator[Callable[[], Store]]:
        stores: list[Store] = []

        def again() -> Store:
            for store in stores:
                store.close()
            stores.append(Store(tmp_path / "state.db"))
            return stores[-1]

        yield again
        for store in stores:
            store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def test_commits_reach_the_disk(path: Path) -> None:
    """WAL and FULL are what makes a commit durable; foreign keys are off in SQLite unless asked for."""
    store = Store(path)
    values = [
        store._connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "foreign_keys")
    ]
    store.close()
    assert values == ["wal", 2, 1]


def test_only_the_owner_reads_the_file(path: Path) -> None:
    Store(path).close()
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_a_newer_schema_is_refused(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(VirError, match="is newer than this server's") as caught:
        Store(path)
    assert caught.value.number == 1
    assert str(path) in caught.value.message


def test_an_older_schema_is_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(path)
    with store.transaction() as transaction:
        transaction.put_domain(RECORD)
    store.close()
    added = ("ALTER TABLE domains ADD COLUMN note TEXT NOT NULL DEFAULT 'none'",)
    monkeypatch.setattr(store_module, "MIGRATIONS", (*MIGRATIONS, added))
    store = Store(path)
    assert store.get_domain(URI, UUID) == RECORD
    assert store._connection.execute("SELECT note FROM domains").fetchone() == ("none",)
    assert store._connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
    store.close()


def test_a_failed_migration_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(path).close()
    broken = ("ALTER TABLE domains ADD COLUMN note TEXT", "no SQL at all")
    monkeypatch.setattr(store_module, "MIGRATIONS", (*MIGRATIONS, broken))
    with pytest.raises(VirError):
        Store(path)
    monkeypatch.undo()
    store = Store(path)
    columns = [row[1] for row in store._connection.execute("PRAGMA table_info(domains)")]
    store.close()
    assert columns == ["connection_uri", "uuid", "name", "xml"]


def test_a_file_that_is_no_database_is_told_by_name(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)
    before = path.read_bytes()
    with pytest.raises(VirError, match="file is not a database") as caught:
        Store(path)
    assert str(path) in caught.value.message
    assert path.read_bytes() == before


def test_a_missing_folder_is_a_system_error(tmp_path: Path) -> None:
    with pytest.raises(VirError) as caught:
        Store(tmp_path / "none" / "state.db")
    assert (caught.value.number, caught.value.int1) == (38, 2)


def test_a_full_disk_leaves_what_was_there(path: Path) -> None:
    """The file may not grow: the transaction fails whole, and the store goes on."""
    store = Store(path)
    with store.transaction() as transaction:
        transaction.put_domain(RECORD)
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(VirError, match="full"), store.transaction() as transaction:
        transaction.put_domain(DomainRecord(URI, "u2", "large", "x" * 1_000_000))
    assert store.list_domains(URI) == [RECORD]
    with store.transaction() as transaction:
        assert transaction.delete_domain(URI, UUID)
    store.close()
