"""What a drill knows as secrets, and in which forms it finds them: none may be missed, and nothing else be found."""

from __future__ import annotations

import base64
import json
import os

import pytest

from anycast_lab.capture.pcap import Frame
from anycast_lab.drills import secret_kinds
from anycast_lab.drills.drill import load_drills
from anycast_lab.drills.mirror_checks import Found, Told, no_core, no_secret_told
from anycast_lab.drills.mirror_steps import NoCore, NoSecretTold
from anycast_lab.drills.secret_forms import Secrets
from anycast_lab.machines import pki
from anycast_lab.machines.prepare import _seal_keys

# Two datagrams of the plugin (strongSwan 5.9.8), and the keys of that CHILD_SA in the kernel; the lab ended in 2026.
IKE_ADD = bytes.fromhex(
    "030124020102007daebb1c03c7441d35f4fcd8cfcc560102021c7dfacfc1e6af4aa730eeb103ab41be001400061200307227"
    "cca5522d6990bc731e1869f700b32daeb7f774d3effc0c94ce9cb70b75f7110f7f409b441da1c2588299b7e0c2a815001416"
    "010013000618001f0f0020dd720bed68818c2fc1268214297f84cdb6827e812434e13e0f9a83b323212edd10002084899329"
    "61024b22b7ae8d9b620bae352b2bb9c9a3314762e4e350ce4727418f1100204ae1e6d4212e11a7b28ef729478980cd23ef96"
    "a43486cb4804a16f6437e0d02807119402c6336442"
)
CHILD_ADD = bytes.fromhex(
    "03060102007daebb1c03c7441d35f4fcd8cfcc56010e011b26aa9bcf1ca36309c51d00001e000019021a000876706e001500"
    "1416010018001f2300000f00201a7a2734290dc14649ca8ec924492534626dec227df62b2f131ecb22a9d65ba31000203c35"
    "20ef874aa37a44c383a6bf32af70af7cb7a9117345adfd459cf7414501fe110020c626ada0d511b4d358f76a3fd383fa2495"
    "b6a85f483e9625986ba2bb524cf55b1f07000000ffff00c0000200c000020f1f08000000ffff0020010db8000b0000000000"
    "000000000020010db8000b0000ffffffffffffffff2007000000ffff00cb007141cb0071412008000000ffff0020010db800"
    "0c0001000000000000000120010db8000c00010000000000000001"
)
KERNEL = """\
src 203.0.113.1 dst 198.51.100.66
\tproto esp spi 0xc50963a3 reqid 1 mode tunnel
\treplay-window 0 flag af-unspec
\taead rfc4106(gcm(aes)) 0xe3bd9a54e5ae2f17ce6068bd2985e2c1abd7d9d26cac7e8367696d3a759cd8de6a7989d9 128
\tencap type espinudp sport 4500 dport 4500 addr 0.0.0.0
\tanti-replay context: seq 0x0, oseq 0x0, bitmap 0x00000000
src 198.51.100.66 dst 203.0.113.1
\tproto esp spi 0xcf9baa26 reqid 1 mode tunnel
\tauth-trunc hmac(sha256) 0x5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a 128
\tenc cbc(aes) 0xae29881fdbfd72e09851d80edcc0913c3d8f2977658eed05050e295dbfc2d725
\t 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
"""
KEY = bytes(range(200, 236))
CHARONS = "".join(
    f"{at:4d}: " + " ".join(f"{byte:02X}" for byte in KEY[at : at + 16]) + "  ....8.A.......<.\n" for at in range(0, 36, 16)
)
"""As strongSwan prints a chunk in its log, with or without a time before each line."""


def frame(message: bytes) -> Frame:
    return Frame(0, bytes(42) + message, False)


def known(*secrets: bytes) -> Secrets:
    found = Secrets()
    for secret in secrets:
        found.add("esp", secret)
    return found


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("raw", KEY),
        ("raw", KEY[3:18]),
        ("hex", KEY.hex().encode()),
        ("hex", b"0x" + KEY.hex().upper().encode()),
        ("hex", KEY.hex(":").encode()),
        ("hex", CHARONS.encode()),
        ("hex", KEY[11:26].hex().encode()),
        ("base64", base64.b64encode(KEY)),
        ("base64", base64.b64encode(b"a" + KEY + b"bc")),
        ("base64", base64.b64encode(b"ab" + KEY)),
        ("base64", base64.urlsafe_b64encode(KEY)),
        ("base64", base64.encodebytes(bytes(30) + KEY)),
        ("text", f"key={KEY!r}".encode()),
        ("text", json.dumps({"said": repr(KEY)}).encode()),
        ("text", json.dumps({"said": KEY.decode("latin-1")}).encode()),
    ],
)
@pytest.mark.parametrize("before", range(20))
def test_every_form_is_found_wherever_it_begins(form: str, text: bytes, before: int) -> None:
    noise = bytes(range(1, 33)) * 3
    data = noise[:before] + text + noise
    assert ("esp", form) in known(KEY, bytes(range(36))[::-1]).search(data)


def test_base64_of_either_alphabet_is_found() -> None:
    """A secret whose every character differs between the two."""
    secret = b"\xfb\xef\xbe\xff\xff\xff" * 4
    assert base64.b64encode(secret) != base64.urlsafe_b64encode(secret)
    for text in (base64.b64encode(secret), base64.urlsafe_b64encode(secret)):
        assert known(secret).search(text) == {("esp", "base64")}


def test_what_is_none_is_not_found() -> None:
    secrets = known(*(os.urandom(36) for _ in range(500)))
    assert (
        secrets.search(os.urandom(200_000) + base64.b64encode(os.urandom(100_000)) + os.urandom(50_000).hex().encode())
        == set()
    )
    assert known(KEY).search(KEY[:7] + b"." + KEY[8:15] + KEY[16:23].hex().encode()) == set()


def test_one_that_is_too_short_to_be_found_is_refused() -> None:
    with pytest.raises(ValueError):
        known(KEY[:14])


def test_counts_and_the_newest() -> None:
    secrets = known(KEY, KEY, KEY[::-1])
    secrets.add("ike", KEY[2:])
    assert secrets.count() == {"esp": 2, "ike": 1} and len(secrets) == 3
    assert (secrets.newest("esp"), secrets.newest("key")) == (KEY[::-1], None)


def test_kernels_keys_are_read() -> None:
    found = secret_kinds.sa_keys(KERNEL)
    assert sorted(map(len, found)) == [32, 32, 36]


def test_ike_secrets_are_read_and_the_kernels_key_follows_from_them() -> None:
    """SK_d is derived rightly, or the kernel's key would not be cut from what it makes (RFC 7296, section 2.17)."""
    found = secret_kinds.ike_secrets([frame(IKE_ADD), frame(CHILD_ADD)])
    assert sorted(map(len, found)) == [32, 32, 48, 48, 336]
    sk_d = next(secret for secret in found if len(secret) == 336)[:48]
    parts = dict(secret_kinds._attributes(CHILD_ADD[2:]))
    keymat = secret_kinds.prf_plus(sk_d, parts[17] + parts[15] + parts[16], "sha384", 72)
    assert next(key for key in secret_kinds.sa_keys(KERNEL) if len(key) == 36) in keymat
    assert parts[17] in found


def test_damaged_datagrams_raise_nothing() -> None:
    for message in (IKE_ADD, CHILD_ADD):
        for size in range(len(message)):
            secret_kinds.ike_secrets([frame(message[:size])])


def test_the_labs_key_files_are_read() -> None:
    issued = pki.Root("root").issue("gw1.example.org")
    (private,) = secret_kinds.file_secrets(issued.private_key + issued.certificate)
    secrets = known(private)
    assert {form for _name, form in secrets.search(issued.private_key)} == {"base64"}
    assert secrets.search(issued.certificate) == set()
    der = base64.b64decode(b"".join(issued.private_key.splitlines()[1:-1]))
    assert {form for _name, form in secrets.search(der)} == {"raw"}
    (seal,) = secret_kinds.file_secrets(_seal_keys())
    assert len(seal) == 32


TOLD = Told(secrets={"esp": 4, "ike": 2, "key": 3}, places=50, found=(), cores=(), problems=())
LEAK = Found(place="gw1 /run/site-agent/sync.log", name="esp", form="hex")


def test_each_check_once_held_and_once_broken() -> None:
    told = Told(
        secrets=TOLD.secrets, places=50, found=(LEAK,), cores=("gw1's charon has limits of 0 and unlimited",), problems=()
    )
    blind = Told(secrets={}, places=50, found=(), cores=(), problems=("no secret of kind esp was learned",))
    assert no_secret_told(TOLD).passed and no_core(TOLD).passed
    assert not no_secret_told(told).passed and not no_core(told).passed
    assert not no_secret_told(told, "/run/site-agent/sync.log").passed and no_secret_told(told, "/var/lib").passed
    assert not no_secret_told(blind).passed and not no_core(blind).passed
    assert not no_secret_told(Told(secrets=TOLD.secrets, places=0, found=(), cores=(), problems=())).passed
    assert "esp as hex in gw1 /run/site-agent/sync.log" in no_secret_told(told).seen


def test_every_drill_of_the_mirror_looks() -> None:
    drills = [drill for name, drill in load_drills().items() if name.startswith("mirror-")]
    assert len(drills) > 12
    for drill in drills:
        assert any(isinstance(check, NoSecretTold) and not check.at for check in drill.checks), drill.drill
        assert any(isinstance(check, NoCore) for check in drill.checks), drill.drill
