"""What real NetBoxes answered, from 2.3 to 4.7 (tests/data/netbox/recorded/SOURCES): read, and lost fields named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anycast.prefixes.lock import encode_lock
from anycast.prefixes.netbox import decode_answers, encode_objects
from tests.unit.test_records_elsewhere import DATA, LOCK, MADE

RECORDED = sorted((DATA / "recorded").glob("*.json"))


def objects(path: Path) -> list[dict[str, Any]]:
    found = json.loads(path.read_text())
    made: list[dict[str, Any]] = found["results"] if isinstance(found, dict) else found
    return made


def test_each_recorded_object_is_read_as_somebody_elses() -> None:
    assert len(RECORDED) == 7
    found = decode_answers([(path.name, path.read_text()) for path in RECORDED], MADE.fleet)
    assert found.lock.held == {} and found.unkept == ()
    texts = {item.get("prefix", item.get("address")) for path in RECORDED for item in objects(path)} - {None}
    assert {each.text for each in found.foreign} == texts and len(texts) == 6
    assert {each.what for each in found.foreign} == {"", "Example IP address", "Example prefix"}


@pytest.mark.parametrize("prefixes", ["v2.3-prefixes", "v2.9-prefixes", "v4.2-prefixes"])
@pytest.mark.parametrize("addresses", ["v2.3-ip-addresses", "v2.9-ip-addresses", "v4.5-ip-addresses"])
def test_a_plan_comes_back_from_objects_as_each_version_writes_them(prefixes: str, addresses: str) -> None:
    """Sent, and answered by the recorded object's other fields: those of a person who works there, too."""
    bodies = encode_objects(MADE.fleet, LOCK)
    answers = []
    for endpoint, shape in (("prefixes", prefixes), ("ip-addresses", addresses)):
        like = objects(DATA / "recorded" / f"{shape}.json")[0]
        choice = (lambda value: {"value": value, "label": value.capitalize()}) if like["status"]["value"] != 1 else str
        results = [{**like, **body, "status": choice(body["status"])} for body in bodies[endpoint]]
        answers.append((endpoint, json.dumps({"count": len(results), "next": None, "results": results})))
    found = decode_answers(answers, MADE.fleet)
    assert encode_lock(found.lock) == encode_lock(LOCK) and found.foreign == ()
    count = len(bodies["prefixes"])
    of_prefixes = {"v2.3-prefixes": {"site", "role"}, "v2.9-prefixes": {"site", "role"}, "v4.2-prefixes": {"scope"}}
    of_addresses = {
        "v2.3-ip-addresses": {"interface"}, "v2.9-ip-addresses": {"assigned_object"}, "v4.5-ip-addresses": {"dns_name"},
    }  # fmt: skip
    assert dict(found.unkept) == dict.fromkeys(of_prefixes[prefixes], count) | dict.fromkeys(
        of_addresses[addresses], len(bodies["ip-addresses"])
    )


def test_what_people_write_into_the_fleets_objects_is_named_as_not_kept() -> None:
    like = objects(DATA / "recorded" / "v4.2-prefixes.json")[0]
    bodies = encode_objects(MADE.fleet, LOCK)
    like |= {"scope_type": None, "scope_id": None, "scope": None}
    items = [{**like, **body, "status": {"value": body["status"], "label": "x"}} for body in bodies["prefixes"]]
    items += bodies["ip-addresses"]
    items[0] |= {"status": {"value": "reserved", "label": "Reserved"}, "description": "do not touch", "tags": [{"id": 1}]}
    items[1] |= {"tags": [{"id": 1}], "vrf": {"id": 3, "name": "vpn"}, "comments": "see ticket"}
    items[1]["custom_fields"] = {**items[1]["custom_fields"], "ticket": "NET-7"}
    found = decode_answers([("all", json.dumps(items))], MADE.fleet)
    assert encode_lock(found.lock) == encode_lock(LOCK)
    expected = {"status": 1, "description": 1, "tags": 2, "vrf": 1, "comments": 1, "custom field ticket": 1}
    assert dict(found.unkept) == expected


def test_others_objects_in_a_vrf_say_so() -> None:
    item = {**objects(RECORDED[0])[0], "address": "192.0.2.7/28", "vrf": {"id": 3, "name": "customer\x1b[31m"}}
    (other,) = decode_answers([("one", json.dumps([item]))], MADE.fleet).foreign
    assert "VRF" in other.what and "\x1b" not in other.what


def test_asns_carry_the_rir_that_netbox_wants() -> None:
    assert all(body["rir"] == {"slug": "rfc-6996"} for body in encode_objects(MADE.fleet, LOCK, "rfc-6996")["asns"])
    assert all("rir" not in body for body in encode_objects(MADE.fleet, LOCK)["asns"])
