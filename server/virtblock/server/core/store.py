# SPDX-License-Identifier: Apache-2.0
"""The server's state on disk. Signatures first; the bodies follow."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DomainRecord:
    """A domain that a driver keeps here: its identity and its inactive XML."""

    connection_uri: str
    uuid: str
    name: str
    xml: str


class Transaction:
    """Several writes that become durable together, or not at all (made by `Store.transaction`)."""

    def get_domain(self, connection_uri: str, uuid: str) -> DomainRecord | None:
        raise NotImplementedError

    def put_domain(self, record: DomainRecord) -> None: ...
    def delete_domain(self, connection_uri: str, uuid: str) -> bool:
        raise NotImplementedError


class Store:
    """`with store.transaction() as transaction:` writes; reads are methods of the store. Thread-safe."""

    def __init__(self, path: Path | str) -> None: ...
    def transaction(self) -> AbstractContextManager[Transaction]:
        raise NotImplementedError

    def close(self) -> None: ...
    def get_domain(self, connection_uri: str, uuid: str) -> DomainRecord | None:
        raise NotImplementedError

    def find_domain_by_name(self, connection_uri: str, name: str) -> DomainRecord | None:
        raise NotImplementedError

    def list_domains(self, connection_uri: str) -> list[DomainRecord]:
        raise NotImplementedError
