"""docs/clients.md says what the labs' clients really run, and what its examples say is what gateways accept."""

from __future__ import annotations

import plistlib
import re
from typing import Any

from anycast.fleet.loading import load
from anycast_lab.machines import client_profile
from tests.support.documents import TREE, TWO_SITE

TEXT = (TREE / "docs" / "clients.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
FLEET = load(TWO_SITE)


def block(kind: str, containing: str) -> str:
    (found,) = [text for language, text in BLOCKS if language == kind and containing in text]
    return str(found)


def rendered() -> dict[str, str]:
    assert FLEET.lab is not None
    return client_profile.render_client(FLEET, FLEET.lab.clients["direct"], "direct.clients.vpn.example.org")


def test_the_strongswan_profile_is_the_labs() -> None:
    assert block("", "connections {") == rendered()["swanctl/swanctl.conf"]
    for line in block("", "retransmit_tries").splitlines():
        assert line in rendered()["strongswan.conf"].splitlines()


def test_a_dead_gateway_is_left_when_the_document_says() -> None:
    conf = rendered()["strongswan.conf"]
    tries, timeout, base = (
        float(re.findall(rf"retransmit_{name} = (\S+)", conf)[0]) for name in ("tries", "timeout", "base")
    )
    # strongSwan waits timeout * base^n after the n-th transmission (strongswan.conf(5), "IKEv2 retransmission").
    waits = [timeout * base**n for n in range(int(tries) + 1)]
    sent_at = [round(sum(waits[:n]), 1) for n in range(1, len(waits))]
    assert sent_at == [0.5, 1.2, 2.4], "also in the profile's comment and in docs/clients.md"
    assert round(sum(waits), 1) == 4.1
    dpd_delay = float(re.findall(r"dpd_delay = (\d+)s", rendered()["swanctl/swanctl.conf"])[0])
    assert dpd_delay + sum(waits) < 6.1, "left within about six seconds"


def test_windows_proposes_what_gateways_accept() -> None:
    command = block("powershell", "Set-VpnConnectionIPsecConfiguration")
    words = dict(re.findall(r"-(\w+) ([A-Z]+[0-9]+)\b", command))
    ike = f"aes256gcm16-prf{words['IntegrityCheckMethod'].lower()}"
    assert (
        words["EncryptionMethod"]
        == words["CipherTransformConstants"]
        == words["AuthenticationTransformConstants"]
        == "GCMAES256"
    )
    assert any(p.startswith(ike) and p.endswith(words["DHGroup"].lower()) for p in FLEET.service.ike_proposals)
    assert any(p.startswith("aes256gcm16") and p.endswith(words["PfsGroup"].lower()) for p in FLEET.service.esp_proposals)


def test_apples_profile_is_a_property_list_that_gateways_accept() -> None:
    profile: Any = plistlib.loads(block("xml", "com.apple.vpn.managed").encode())
    (vpn,) = profile["PayloadContent"]
    ikev2 = vpn["IKEv2"]
    assert ikev2["RemoteIdentifier"] == FLEET.service.identity
    for part in ("IKESecurityAssociationParameters", "ChildSecurityAssociationParameters"):
        assert ikev2[part] == {
            "EncryptionAlgorithm": "AES-256-GCM",
            "IntegrityAlgorithm": "SHA2-384",
            "DiffieHellmanGroup": 20,
        }
    assert "aes256gcm16-prfsha384-curve25519-ecp384" in FLEET.service.ike_proposals
