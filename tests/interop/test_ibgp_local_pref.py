"""LOCAL_PREF of a fleet file at a router of the site's own AS: from the document over ExaBGP to BIRD, on an iBGP session."""

from __future__ import annotations

import asyncio
import re

import pytest

from anycast.document import AnnouncementPolicy, Document
from tests.support.bgp_pair import V4, V6, Pair, bgp_pair, missing

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing()), reason=f"missing: {missing()}"),
]


def inside_one_as(document: Document, policy: AnnouncementPolicy) -> Document:
    neighbors = tuple(
        neighbor.model_copy(update={"asn": document.bgp.asn, "policy": policy}) for neighbor in document.bgp.neighbors
    )
    return document.model_copy(update={"bgp": document.bgp.model_copy(update={"neighbors": neighbors})})


async def heard(pair: Pair, policy: AnnouncementPolicy) -> dict[str, str]:
    document = inside_one_as(pair.document(), policy)
    async with pair.bird(asn=document.bgp.asn) as bird, pair.agent(document):
        await bird.added()
        return {prefix: await bird.ask(f"show route all {prefix}") for prefix in (V4, V6)}


def test_local_pref_arrives_and_prepends_are_left_out() -> None:
    with bgp_pair() as pair:
        told = asyncio.run(heard(pair, AnnouncementPolicy(local_pref=200, med=7, prepend=2)))
    for text in told.values():
        assert re.search(r"bgp[._]local_pref: 200$", text, re.MULTILINE | re.IGNORECASE), text
        assert re.search(r"bgp[._]med: 7$", text, re.MULTILINE | re.IGNORECASE), text
        # A router drops as a loop what carries its own AS number (RFC 4271 section 9.1.2).
        assert re.search(r"bgp[._](as_)?path:\s*$", text, re.MULTILINE | re.IGNORECASE), text
