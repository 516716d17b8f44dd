# SPDX-License-Identifier: Apache-2.0
"""Which driver answers, and the truth about what it offers."""

from __future__ import annotations

import pytest
from server.core.samples import CALLER, URI, Apis, MemoryDriver

from virtblock.server.core.connections import Connections, offers, require
from virtblock.server.core.driver import Driver
from virtblock.server.core.errors import VirError


class OfDriver:
    """A driver with nothing but a URI."""

    def __init__(self, uri: str) -> None:
        self.uri = uri


class Inheriting(Driver):
    """Inherits the Protocol's bare methods, which are no offer."""

    uri = "inheriting:///"

    def get_type(self) -> str:
        return "Inheriting"


def test_the_first_connection_is_the_default() -> None:
    first, second = OfDriver("a:///"), OfDriver("b:///")
    connections = Connections([first, second])
    assert (connections.uris, connections.default_uri) == (["a:///", "b:///"], "a:///")
    assert [id(connections.resolve(uri)) for uri in ("", "a:///", "b:///")] == [id(first), id(first), id(second)]


def test_an_unknown_connection() -> None:
    with pytest.raises(VirError) as caught:
        Connections([OfDriver("a:///")]).resolve("foo:///x")
    assert (caught.value.number, caught.value.domain) == (5, 0)
    assert caught.value.message == "no connection driver available for foo:///x"


def test_connections_are_told_apart() -> None:
    with pytest.raises(ValueError, match="same URI"):
        Connections([OfDriver("a:///"), OfDriver("a:///")])
    with pytest.raises(ValueError, match="at least one"):
        Connections([])


def test_an_offer_is_a_method_of_the_class() -> None:
    driver = Inheriting()  # type: ignore[abstract]
    assert offers(driver, "get_type")
    assert not offers(driver, "domain_block_pull")
    assert not offers(driver, "no_such_method")
    assert not offers(OfDriver("a:///"), "uri")


def test_a_missing_call_is_told_by_libvirts_name() -> None:
    require(Inheriting(), "get_type", "virConnectGetType")  # type: ignore[abstract]
    with pytest.raises(VirError) as caught:
        require(OfDriver("a:///"), "domain_block_pull", "virDomainBlockPull")
    error = caught.value
    assert (error.number, error.domain, error.str2) == (3, 20, "virDomainBlockPull")


def test_the_description_is_what_the_class_defines(apis: Apis, bare_apis: Apis) -> None:
    told = apis.connect.describe_connection("")
    defined = {name for name in vars(MemoryDriver) if not name.startswith("_")} - {"flag_masks", "engine_features"}
    assert set(told.methods) == defined
    assert (told.uri, told.is_default, told.features) == (URI, True, ("format:qcow2",))
    # A mask for a call that the class lacks is not believed.
    assert told.flag_masks == {"domain_block_rebase": 127}
    bare = bare_apis.connect.describe().connections[0]
    assert not [name for name in bare.methods if "block" in name and not name.startswith("block_job_")]


def test_what_is_not_described_answers_no_support(bare_apis: Apis) -> None:
    described = bare_apis.connect.describe_connection("").methods
    for method in ("get_lib_version", "get_type", "get_hostname", "get_capabilities", "is_alive", "is_secure"):
        assert method not in described
        with pytest.raises(VirError) as caught:
            getattr(bare_apis.connect, method)(CALLER, "")
        assert caught.value.number == 3
    assert bare_apis.connect.get_version(CALLER, "") == 9_000_000
    assert bare_apis.connect.get_uri(CALLER, "") == URI
