# SPDX-License-Identifier: Apache-2.0
"""The server's state on disk: embedded domains, block jobs, the event log, request ids.

Owns: the SQLite file (WAL, `synchronous=FULL`) and all SQL of the project. Invariants: what a transaction wrote is on
disk when `transaction()` is left without an exception, and none of it is otherwise; at most one active job per disk;
sequences of events grow by one and are never given twice; a file that a newer version wrote is refused, not guessed
at.

One connection is shared behind one lock, so a reader sees a whole number of transactions. Callbacks that a
transaction collects run after its commit: `on_commit` in the order of commits and still under the lock (for memory
that mirrors the disk), `after_commit` when the lock is free (for everybody else).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from virtblock.server.core.errors import ErrorNumber, StateUnwritable, VirError, report, system_error
from virtblock.server.core.model import BlockJob
from virtblock.server.core.records import job_from_json, job_to_json

BUSY_TIMEOUT_S = 5.0

# Migration i takes the schema from version i to i + 1 and never changes once released. The text keeps to SQL that
# other databases share; partial indexes and AUTOINCREMENT are SQLite's spelling of what they all have.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE domains (
            connection_uri TEXT NOT NULL,
            uuid TEXT NOT NULL,
            name TEXT NOT NULL,
            xml TEXT NOT NULL,
            PRIMARY KEY (connection_uri, uuid),
            UNIQUE (connection_uri, name))""",
        """CREATE TABLE jobs (
            job_id TEXT NOT NULL PRIMARY KEY,
            connection_uri TEXT NOT NULL,
            domain_uuid TEXT NOT NULL,
            disk TEXT NOT NULL,
            state TEXT NOT NULL,
            is_active INTEGER NOT NULL CHECK (is_active IN (0, 1)),
            record TEXT NOT NULL)""",
        "CREATE UNIQUE INDEX jobs_active_disk ON jobs (connection_uri, domain_uuid, disk) WHERE is_active = 1",
        """CREATE TABLE events (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT,
            time_s REAL NOT NULL,
            kind TEXT NOT NULL,
            payload TEXT NOT NULL)""",
        """CREATE TABLE requests (
            principal TEXT NOT NULL,
            request_id TEXT NOT NULL,
            digest TEXT NOT NULL,
            job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
            time_s REAL NOT NULL,
            PRIMARY KEY (principal, request_id))""",
        "CREATE INDEX requests_time ON requests (time_s)",
    ),
    (
        """CREATE TABLE starts (
            job_id TEXT NOT NULL PRIMARY KEY,
            record TEXT NOT NULL,
            digest TEXT NOT NULL)""",
    ),
)


@dataclass(frozen=True)
class DomainRecord:
    """A domain that a driver keeps here: its identity and its inactive XML."""

    connection_uri: str
    uuid: str
    name: str
    xml: str


@dataclass(frozen=True)
class EventRecord:
    """One row of the log; `payload` is JSON whose form `kind` names."""

    sequence: int
    time_s: float
    kind: str
    payload: str


@dataclass(frozen=True)
class RequestRecord:
    """Which job a caller's request id started."""

    principal: str
    request_id: str
    digest: str
    job_id: str
    time_s: float


@dataclass(frozen=True)
class StartRecord:
    """A job that a hypervisor is asked to begin, and the digest of the request that asks for it."""

    job: BlockJob
    digest: str


@dataclass(frozen=True)
class JobQuery:
    """Which jobs to list; what is empty matches everything. `before_job_id` is where the page before ended."""

    connection_uri: str = ""
    domain_uuid: str = ""
    disk: str = ""
    states: tuple[str, ...] = ()
    active_only: bool = False
    before_job_id: str = ""
    limit: int = -1


class Reads:
    """Every look at the state. Made by `Store`; valid inside the `with` block that gave it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def get_domain(self, connection_uri: str, uuid: str) -> DomainRecord | None:
        """The domain of this UUID."""
        return self._one_domain("connection_uri = ? AND uuid = ?", connection_uri, uuid)

    def find_domain_by_name(self, connection_uri: str, name: str) -> DomainRecord | None:
        """The domain of this name."""
        return self._one_domain("connection_uri = ? AND name = ?", connection_uri, name)

    def list_domains(self, connection_uri: str) -> list[DomainRecord]:
        """The domains of a connection, by name."""
        rows = self._connection.execute(
            "SELECT connection_uri, uuid, name, xml FROM domains WHERE connection_uri = ? ORDER BY name",
            (connection_uri,),
        )
        return [DomainRecord(*row) for row in rows]

    def _one_domain(self, condition: str, *values: str) -> DomainRecord | None:
        row = self._connection.execute(
            f"SELECT connection_uri, uuid, name, xml FROM domains WHERE {condition}",  # noqa: S608 - own text
            values,
        ).fetchone()
        return None if row is None else DomainRecord(*row)

    def get_job(self, job_id: str) -> BlockJob | None:
        """The job of this id, ended or not."""
        row = self._connection.execute("SELECT record FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        return None if row is None else job_from_json(row[0])

    def find_active_job(self, connection_uri: str, domain_uuid: str, disk: str) -> BlockJob | None:
        """The one job of this disk that has not ended."""
        row = self._connection.execute(
            "SELECT record FROM jobs WHERE connection_uri = ? AND domain_uuid = ? AND disk = ? AND is_active = 1",
            (connection_uri, domain_uuid, disk),
        ).fetchone()
        return None if row is None else job_from_json(row[0])

    def list_jobs(self, query: JobQuery) -> list[BlockJob]:
        """The jobs that match, by job id downwards, at most `query.limit` (-1: all)."""
        conditions: list[str] = []
        values: list[str | int] = []
        for column in ("connection_uri", "domain_uuid", "disk"):
            if wanted := getattr(query, column):
                conditions.append(f"{column} = ?")
                values.append(wanted)
        if query.states:
            conditions.append(f"state IN ({', '.join('?' * len(query.states))})")
            values.extend(query.states)
        if query.active_only:
            conditions.append("is_active = 1")
        if query.before_job_id:
            conditions.append("job_id < ?")
            values.append(query.before_job_id)
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        rows = self._connection.execute(
            f"SELECT record FROM jobs {where} ORDER BY job_id DESC LIMIT ?",  # noqa: S608 - own text
            (*values, query.limit),
        )
        return [job_from_json(row[0]) for row in rows]

    def list_starts(self) -> list[StartRecord]:
        """The jobs that are neither among the others yet nor given up, by job id."""
        rows = self._connection.execute("SELECT record, digest FROM starts ORDER BY job_id")
        return [StartRecord(job_from_json(record), digest) for record, digest in rows]

    def event_bounds(self) -> tuple[int, int] | None:
        """The first and the last sequence that are kept; None when the log is empty."""
        row = self._connection.execute("SELECT MIN(sequence), MAX(sequence) FROM events").fetchone()
        return None if row[0] is None else (row[0], row[1])

    def list_events(self, after_sequence: int, limit: int) -> list[EventRecord]:
        """The entries that follow a sequence, in order, at most `limit`."""
        rows = self._connection.execute(
            "SELECT sequence, time_s, kind, payload FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?",
            (after_sequence, limit),
        )
        return [EventRecord(*row) for row in rows]

    def get_request(self, principal: str, request_id: str) -> RequestRecord | None:
        """What a caller's request id started."""
        row = self._connection.execute(
            "SELECT principal, request_id, digest, job_id, time_s FROM requests WHERE principal = ? AND request_id = ?",
            (principal, request_id),
        ).fetchone()
        return None if row is None else RequestRecord(*row)


class Transaction(Reads):
    """Several writes that become durable together, or not at all. It sees its own writes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._on_commit: list[Callable[[], None]] = []
        self._after_commit: list[Callable[[], None]] = []

    def put_domain(self, record: DomainRecord) -> None:
        """Adds or replaces the domain of this UUID. VirError 9 when another domain has the name."""
        owner = self.find_domain_by_name(record.connection_uri, record.name)
        if owner is not None and owner.uuid != record.uuid:
            detail = f"domain '{record.name}' already exists with uuid {owner.uuid}"
            raise report(ErrorNumber.OPERATION_FAILED, detail)
        self._connection.execute(
            "INSERT INTO domains (connection_uri, uuid, name, xml) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (connection_uri, uuid) DO UPDATE SET name = excluded.name, xml = excluded.xml",
            (record.connection_uri, record.uuid, record.name, record.xml),
        )

    def delete_domain(self, connection_uri: str, uuid: str) -> bool:
        """Removes a domain; False when there was none."""
        done = self._connection.execute(
            "DELETE FROM domains WHERE connection_uri = ? AND uuid = ?", (connection_uri, uuid)
        )
        return done.rowcount > 0

    def put_job(self, job: BlockJob) -> None:
        """Adds or replaces a job. A second active job on one disk is refused by the database."""
        self._connection.execute(
            "INSERT INTO jobs (job_id, connection_uri, domain_uuid, disk, state, is_active, record)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (job_id) DO UPDATE SET"
            " state = excluded.state, is_active = excluded.is_active, record = excluded.record",
            (
                job.job_id,
                job.connection_uri,
                job.domain_uuid,
                job.disk,
                job.state.value,
                0 if job.state.is_final else 1,
                job_to_json(job),
            ),
        )

    def delete_ended_jobs(self, kept_count: int) -> None:
        """Forgets the ended jobs that are older than the newest `kept_count` jobs, unless a request id names them."""
        self._connection.execute(
            "DELETE FROM jobs WHERE is_active = 0"
            " AND job_id < (SELECT MIN(job_id) FROM (SELECT job_id FROM jobs ORDER BY job_id DESC LIMIT ?))"
            " AND job_id NOT IN (SELECT job_id FROM requests)",
            (kept_count,),
        )

    def put_start(self, start: StartRecord) -> None:
        """Adds a job that is not yet among the others."""
        self._connection.execute(
            "INSERT INTO starts (job_id, record, digest) VALUES (?, ?, ?)",
            (start.job.job_id, job_to_json(start.job), start.digest),
        )

    def delete_start(self, job_id: str) -> None:
        """Forgets a start, for the job is among the others or was never begun."""
        self._connection.execute("DELETE FROM starts WHERE job_id = ?", (job_id,))

    def append_event(self, time_s: float, kind: str, payload: str) -> int:
        """Adds an entry at the end of the log; returns its sequence."""
        done = self._connection.execute(
            "INSERT INTO events (time_s, kind, payload) VALUES (?, ?, ?)", (time_s, kind, payload)
        )
        assert done.lastrowid is not None  # set by every INSERT
        return done.lastrowid

    def delete_events_through(self, sequence: int) -> None:
        """Removes the entries up to this one. The caller leaves at least one, so that the numbering goes on."""
        self._connection.execute("DELETE FROM events WHERE sequence <= ?", (sequence,))

    def put_request(self, record: RequestRecord) -> None:
        """Remembers a request id; the caller removed an expired one before."""
        self._connection.execute(
            "INSERT INTO requests (principal, request_id, digest, job_id, time_s) VALUES (?, ?, ?, ?, ?)",
            (record.principal, record.request_id, record.digest, record.job_id, record.time_s),
        )

    def delete_requests_before(self, time_s: float) -> None:
        """Forgets the request ids that are older."""
        self._connection.execute("DELETE FROM requests WHERE time_s < ?", (time_s,))

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Runs after the commit, in the order of commits and in the store's lock. It must not fail or use the store."""
        self._on_commit.append(callback)

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Runs after the commit when the store is free again; the same callback once, however often it was given."""
        if callback not in self._after_commit:
            self._after_commit.append(callback)

    def committed(self) -> Sequence[Callable[[], None]]:
        """Runs the callbacks of `on_commit`; returns those of `after_commit` (for `Store`)."""
        for callback in self._on_commit:
            callback()
        return self._after_commit


class Store:
    """The state file. Thread-safe; opened once per process and kept."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._lock = threading.RLock()
        self._depth = 0  # how many `with` blocks of the thread that holds the lock are open
        try:
            self._path.touch(mode=0o600)
        except OSError as error:
            raise system_error(error.errno or 0, f"cannot open state database '{self._path}'") from error
        with self._translated():
            self._connection = sqlite3.connect(
                self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise
        self._reads = Reads(self._connection)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Writes that become durable when the block ends without an exception. Not to be nested in another block."""
        with self._lock, self._entered(exclusive=True), self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            transaction = Transaction(self._connection)
            try:
                yield transaction
                self._connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            callbacks = transaction.committed()
        for callback in callbacks:
            callback()

    @contextmanager
    def reading(self) -> Iterator[Reads]:
        """Several looks at one and the same state: nothing is written by others until the block ends."""
        with self._lock, self._entered(exclusive=False), self._translated():
            yield self._reads

    def get_domain(self, connection_uri: str, uuid: str) -> DomainRecord | None:
        """The domain of this UUID."""
        with self.reading() as reads:
            return reads.get_domain(connection_uri, uuid)

    def find_domain_by_name(self, connection_uri: str, name: str) -> DomainRecord | None:
        """The domain of this name."""
        with self.reading() as reads:
            return reads.find_domain_by_name(connection_uri, name)

    def list_domains(self, connection_uri: str) -> list[DomainRecord]:
        """The domains of a connection, by name."""
        with self.reading() as reads:
            return reads.list_domains(connection_uri)

    def close(self) -> None:
        """Closes the file; later calls fail. What was committed stays."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _entered(self, *, exclusive: bool) -> Iterator[None]:
        if exclusive and self._depth > 0:
            raise RuntimeError("a store transaction may not be nested in another block of the same thread")
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """A failure of the database, with the file's name, as libvirt's internal error."""
        try:
            yield
        except sqlite3.OperationalError as error:  # a full disk, an input/output error
            raise StateUnwritable.of(self._broken(str(error))) from error
        except sqlite3.Error as error:
            raise self._broken(str(error)) from error

    def _broken(self, detail: str) -> VirError:
        return report(ErrorNumber.INTERNAL_ERROR, f"state database '{self._path}': {detail}")

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _prepare(self) -> None:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise self._broken(f"schema version {version} is newer than this server's {len(MIGRATIONS)}")
        for number in range(version, len(MIGRATIONS)):
            self._migrate(number)

    def _migrate(self, number: int) -> None:
        """Takes the schema from version `number` to the next, in one transaction."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in MIGRATIONS[number]:
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {number + 1}")
            self._connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
