"""The judge of a peer's certificate: who is accepted, who is refused by which word, and what a pin is worth."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.errors import DecodeError
from anycast.pki import certificates
from anycast.pki.names import Identity, Role, parse
from anycast.pki.trust import Accepted, Pin, Refusal, Refused, Trust, checked, judge, pinned
from site_agent.sync import identity as sync_identity
from tests.support.sync_pair import Root

NOW = datetime.datetime(2026, 11, 29, 6, 0, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
ROOT_KEY, LEAF_KEY = certificates.new_key(), certificates.new_key()
ROOT = certificates.make_root(ROOT_KEY, "example", NOW)
PEER = Identity("example", Role.GATEWAY, "fra-gw2")
LEAF = certificates.issue(ROOT, ROOT_KEY, LEAF_KEY.public_key(), PEER, NOW, 365)
EMPTY = certificates.make_list(ROOT, ROOT_KEY, (), 1, NOW)
TRUST = Trust((ROOT,), (EMPTY,))
PIN = Pin(certificates.fingerprint(LEAF_KEY.public_key()), LEAF.not_valid_before_utc)


def judged(
    leaf: x509.Certificate,
    *,
    trust: Trust = TRUST,
    expected: Identity = PEER,
    pin: Pin | None = None,
    after: datetime.timedelta = DAY,
) -> Accepted | Refused:
    return judge(certificates.der(leaf), trust, expected, pin, NOW + after)


def cause(found: Accepted | Refused) -> Refusal | None:
    return found.cause if isinstance(found, Refused) else None


def made(
    *,
    key: ec.EllipticCurvePrivateKey = ROOT_KEY,
    issuer: x509.Name = ROOT.subject,
    names: list[x509.GeneralName] | None = None,
    ca: bool = False,
    uses: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
) -> x509.Certificate:
    """A certificate that no command of ours would make."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fra-gw2")]))
        .issuer_name(issuer)
        .public_key(LEAF_KEY.public_key())
        .serial_number(7)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 365 * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names is None:
        names = [x509.UniformResourceIdentifier(PEER.uri)]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if uses:
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    return builder.sign(key, hashes.SHA256())


def test_the_peer_itself_is_accepted_and_its_key_becomes_the_pin() -> None:
    found = judged(LEAF)
    assert found == Accepted(PEER, PIN, LEAF.not_valid_after_utc) and isinstance(found, Accepted)
    assert pinned(None, found) == PIN


STRANGERS: dict[str, tuple[Callable[[], x509.Certificate], Refusal]] = {
    "a root of the same name": (
        lambda: certificates.issue(ROOT, LEAF_KEY, LEAF_KEY.public_key(), PEER, NOW), Refusal.FOREIGN,
    ),
    "signed by the peer itself": (lambda: made(key=LEAF_KEY), Refusal.FOREIGN),
    "signed by another machine of ours": (lambda: made(key=LEAF_KEY, issuer=LEAF.subject), Refusal.FOREIGN),
    "the root": (lambda: ROOT, Refusal.MALFORMED),
    "may sign": (lambda: made(ca=True), Refusal.MALFORMED),
    "for servers only": (lambda: made(uses=(ExtendedKeyUsageOID.SERVER_AUTH,)), Refusal.MALFORMED),
    "for clients only": (lambda: made(uses=(ExtendedKeyUsageOID.CLIENT_AUTH,)), Refusal.MALFORMED),
    "for nothing": (lambda: made(uses=()), Refusal.MALFORMED),
    "without a name": (lambda: made(names=[]), Refusal.MALFORMED),
    "a name of another kind": (lambda: made(names=[x509.DNSName("fra-gw2")]), Refusal.MALFORMED),
    "two names": (
        lambda: made(names=[x509.UniformResourceIdentifier(PEER.uri), x509.UniformResourceIdentifier("anycast://a/gateway/b")]),
        Refusal.MALFORMED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", STRANGERS)
def test_a_stranger_is_refused_with_and_without_the_pinned_key(what: str) -> None:
    make, word = STRANGERS[what]
    assert cause(judged(make())) is word and cause(judged(make(), pin=PIN)) is word


@pytest.mark.parametrize(
    ("expected", "word"),
    [
        (Identity("other", Role.GATEWAY, "fra-gw2"), Refusal.WRONG_FLEET),
        (Identity("example", Role.COORDINATOR, "fra-gw2"), Refusal.WRONG_ROLE),
        (Identity("example", Role.GATEWAY, "fra-gw1"), Refusal.WRONG_NAME),
    ],
)
def test_role_and_name_count_and_not_only_the_chain(expected: Identity, word: Refusal) -> None:
    assert cause(judged(LEAF, expected=expected, pin=PIN)) is word


@pytest.mark.parametrize(("after", "word"), [(366 * DAY, Refusal.EXPIRED), (-2 * DAY, Refusal.NOT_YET_VALID)])
def test_out_of_time_only_the_pinned_key_is_accepted_with_an_alarm_and_proves_nothing_new(
    after: datetime.timedelta, word: Refusal
) -> None:
    assert cause(judged(LEAF, after=after)) is word
    assert cause(judged(LEAF, after=after, pin=Pin(b"\0" * 32, PIN.issued))) is word
    found = judged(LEAF, after=after, pin=PIN)
    assert isinstance(found, Accepted) and found.out_of_time is word
    assert pinned(None, found) is None and pinned(PIN, found) is PIN


def test_an_expired_root_makes_everything_expired() -> None:
    root = certificates.make_root(ROOT_KEY, "example", NOW, days=10)
    leaf = certificates.issue(ROOT, ROOT_KEY, LEAF_KEY.public_key(), PEER, NOW, 365)  # as if made before
    trust = Trust((root,), (certificates.make_list(root, ROOT_KEY, (), 1, NOW),))
    assert cause(judged(leaf, trust=trust)) is None
    assert cause(judged(leaf, trust=trust, after=11 * DAY)) is Refusal.EXPIRED
    bounded = certificates.issue(root, ROOT_KEY, LEAF_KEY.public_key(), PEER, NOW)
    assert bounded.not_valid_after_utc == root.not_valid_after_utc


def test_revoked_is_revoked_also_when_pinned_and_expired() -> None:
    revocations = certificates.make_list(ROOT, ROOT_KEY, [(LEAF.serial_number, NOW)], 2, NOW)
    for after in (DAY, 366 * DAY):
        assert cause(judged(LEAF, trust=Trust((ROOT,), (revocations,)), pin=PIN, after=after)) is Refusal.REVOKED


def test_a_list_that_is_missing_or_anothers_is_an_error_never_an_empty_one() -> None:
    other = certificates.new_key()
    forged = certificates.make_list(ROOT, other, (), 9, NOW)
    second = certificates.make_root(other, "example", NOW)
    assert checked((ROOT,), (EMPTY,)) == TRUST
    for roots, lists in (((ROOT,), ()), ((ROOT,), (forged,)), ((), (EMPTY,)), ((ROOT,), (EMPTY, EMPTY)), ((LEAF,), (EMPTY,)),
                         ((ROOT,), (EMPTY, certificates.make_list(second, other, (), 1, NOW)))):  # fmt: skip
        with pytest.raises(DecodeError):
            checked(roots, lists)
    both = checked((ROOT, second), (EMPTY, certificates.make_list(second, other, (), 1, NOW)))
    assert cause(judged(certificates.issue(second, other, LEAF_KEY.public_key(), PEER, NOW), trust=both)) is None


def test_a_pin_moves_forward_only() -> None:
    later = certificates.issue(ROOT, ROOT_KEY, certificates.new_key().public_key(), PEER, NOW + DAY, 30)
    newer = judged(later)
    assert isinstance(newer, Accepted)
    moved = pinned(PIN, newer)
    assert moved == newer.pin, "a shorter life makes a later certificate no older"
    older = judged(LEAF, pin=moved)
    assert isinstance(older, Accepted) and pinned(moved, older) is moved, "restored from a backup, or stolen from one"
    assert cause(judged(LEAF, pin=moved, after=366 * DAY)) is Refusal.EXPIRED


@given(st.none() | st.binary(max_size=400))
def test_any_bytes_are_refused(der: bytes | None) -> None:
    assert cause(judge(der, TRUST, PEER, PIN, NOW)) is Refusal.MALFORMED


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@settings(max_examples=400)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=3))
def test_a_certificate_with_other_bytes_in_it_is_never_accepted(place: int, other: bytes) -> None:
    der = bytearray(certificates.der(LEAF))
    place %= len(der)
    der[place : place + len(other)] = other
    found = judge(bytes(der), TRUST, PEER, PIN, NOW + DAY)
    assert isinstance(found, Refused) or bytes(der) == certificates.der(LEAF) or _same_signature(bytes(der))


def _same_signature(der: bytes) -> bool:
    """An ECDSA signature has more than one spelling that OpenSSL reads; what was signed is then the same."""
    return x509.load_der_x509_certificate(der).tbs_certificate_bytes == LEAF.tbs_certificate_bytes


@given(st.text(max_size=60) | st.sampled_from(["anycast://a/gateway/b/c", "anycast://A/gateway/b", "anycast://a/root/b"]))
def test_a_name_is_what_we_would_have_written_or_an_error(text: str) -> None:
    try:
        assert parse(text).uri == text
    except DecodeError:
        return


@given(st.binary(max_size=300))
def test_any_text_is_a_bundle_or_an_error(data: bytes) -> None:
    for text in (data, b"-----BEGIN CERTIFICATE-----\n" + data + b"\n-----END CERTIFICATE-----\n",
                 b"-----BEGIN X509 CRL-----\n" + data + b"\n-----END X509 CRL-----\n"):  # fmt: skip
        try:
            certificates.read_pem(text)
        except DecodeError:
            pass
        with pytest.raises(DecodeError):
            certificates.read_key(text)


def test_contexts_speak_tls_1_3_only_want_a_certificate_and_give_no_tickets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    tmp_path.chmod(0o700)
    machine = Root(tmp_path / "root").equip(tmp_path / "m", "fra-gw2")
    loaded = sync_identity.load(machine, PEER)
    for context in (loaded.called, loaded.calling):
        assert {context.minimum_version, context.maximum_version} == {ssl.TLSVersion.TLSv1_3}
        assert {context.verify_mode} == {ssl.CERT_REQUIRED}
        assert context.options & ssl.OP_NO_TICKET and not context.verify_flags & 0x80000, "no partial chains"
        assert not context.keylog_filename
    assert loaded.called.num_tickets == 0
    assert "PRIVATE" not in repr(loaded)
