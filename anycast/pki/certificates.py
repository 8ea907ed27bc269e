"""The management root's certificates, requests and revocation list: what is in them, how they are made and read. No I/O.

One root, no intermediate. Everything is ECDSA P-256 with SHA-256. A machine's certificate serves both ends of a connection,
because either gateway of a pair may call the other one. A request is signed by the key that it is for, so nobody gets a
certificate for a key that another machine has. The revocation list says of itself that it is good for as long as the root:
it is carried to the gateways by an operator, and nothing may go dark because no operator came. Its number says which of two
is newer. Revoked serials stay in it for ever: a pair accepts its own peer's key beyond its expiry (`trust.py`).
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from anycast.errors import DecodeError
from anycast.pki.names import Identity, parse

ROOT_DAYS = 3650
LEAF_DAYS = 365
BACKDATE = datetime.timedelta(days=1)
"""A gateway whose clock is an hour behind can use what was signed for it just now."""
LONGEST_PEM = 256 * 1024
"""Bytes of PEM that are looked at: far more than any fleet's revocation list."""

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.*?-----END \1-----\r?\n?", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """What a PEM text holds, private keys apart."""

    certificates: tuple[x509.Certificate, ...] = ()
    requests: tuple[x509.CertificateSigningRequest, ...] = ()
    lists: tuple[x509.CertificateRevocationList, ...] = ()


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def make_root(
    key: ec.EllipticCurvePrivateKey, fleet: str, now: datetime.datetime, days: int = ROOT_DAYS
) -> x509.Certificate:
    """A root of `fleet`, signed by itself."""
    name = _name(f"{fleet} management root")
    return (
        _builder(name, name, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(root=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def make_request(key: ec.EllipticCurvePrivateKey, role: str, name: str) -> x509.CertificateSigningRequest:
    """What a machine asks for. It need not know its fleet: the root does."""
    units = [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role)]
    return x509.CertificateSigningRequestBuilder().subject_name(x509.Name(units)).sign(key, hashes.SHA256())


def requested(request: x509.CertificateSigningRequest) -> tuple[str, str]:
    """Role and name that a request asks for. Raises DecodeError where its key did not sign it, or is of another kind."""
    public = request.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise DecodeError("request", 0, "its key is not ECDSA P-256")
    if not request.is_signature_valid:
        raise DecodeError("request", 0, "is not signed by its own key")
    try:
        (name,) = (a.value for a in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
        (role,) = (a.value for a in request.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME))
    except ValueError as exc:
        raise DecodeError("request", 0, "does not say one role and one name") from exc
    return str(role), str(name)


def issue(
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    public: ec.EllipticCurvePublicKey,
    identity: Identity,
    now: datetime.datetime,
    days: int = LEAF_DAYS,
) -> x509.Certificate:
    """A certificate for `public`, never beyond the root's own end."""
    builder = _builder(_name(identity.name), root.subject, public, now, days, latest=root.not_valid_after_utc)
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(root=False), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri)]), critical=False)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )


def make_list(
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    revoked: Iterable[tuple[int, datetime.datetime]],
    number: int,
    now: datetime.datetime,
) -> x509.CertificateRevocationList:
    """The revocation list number `number`: serials and when each was revoked."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(root.subject)
        .last_update(now)
        .next_update(max(root.not_valid_after_utc, now + datetime.timedelta(seconds=1)))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
    )
    for serial, when in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(root_key, hashes.SHA256())


def identity_of(certificate: x509.Certificate) -> Identity:
    """Raises DecodeError where a certificate does not name exactly one machine."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError) as exc:
        raise DecodeError("name", 0, "the certificate has no name of ours") from exc
    found = list(names)
    if len(found) != 1 or not isinstance(found[0], x509.UniformResourceIdentifier):
        raise DecodeError("name", 0, "the certificate does not name exactly one machine")
    return parse(found[0].value)


def from_der(data: bytes) -> x509.Certificate:
    """What a peer showed. Raises DecodeError."""
    try:
        return x509.load_der_x509_certificate(data)
    except (ValueError, TypeError) as exc:
        raise DecodeError("certificate", 0, "it means nothing") from exc


def fingerprint(public: ec.EllipticCurvePublicKey) -> bytes:
    """SHA-256 over a public key (its SubjectPublicKeyInfo): what is pinned."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize()


def key_of(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """Raises DecodeError for a key of another kind than ours."""
    try:
        public = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise DecodeError("key", 0, "is not ECDSA P-256") from exc
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise DecodeError("key", 0, "is not ECDSA P-256")
    return public


def is_root(certificate: x509.Certificate) -> bool:
    """It may sign certificates, and has signed itself."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        certificate.verify_directly_issued_by(certificate)
    except (x509.ExtensionNotFound, ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return constraints.ca


def issued_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    """`root` itself has signed it."""
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return is_root(root)


def lists_for(root: x509.Certificate, revocations: x509.CertificateRevocationList) -> bool:
    """`revocations` is of `root`, by name and signature."""
    try:
        return revocations.issuer == root.subject and revocations.is_signature_valid(key_of(root))
    except (DecodeError, ValueError, TypeError, UnsupportedAlgorithm):
        return False


def list_number(revocations: x509.CertificateRevocationList) -> int:
    """Raises DecodeError where it has none."""
    try:
        return revocations.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (x509.ExtensionNotFound, ValueError) as exc:
        raise DecodeError("revocation list", 0, "has no number") from exc


def read_pem(data: bytes) -> Bundle:
    """Every certificate, request and revocation list of a text, in its order. Text between them and private keys are passed
    over. Raises DecodeError where a block does not hold what it says."""
    if len(data) > LONGEST_PEM:
        raise DecodeError("pem", LONGEST_PEM, "too long")
    certificates, requests, lists = [], [], []
    for match in _BLOCK.finditer(data):
        block, kind = match.group(), match.group(1)
        try:
            if kind == b"CERTIFICATE":
                certificates.append(x509.load_pem_x509_certificate(block))
            elif kind == b"CERTIFICATE REQUEST":
                requests.append(x509.load_pem_x509_csr(block))
            elif kind == b"X509 CRL":
                lists.append(x509.load_pem_x509_crl(block))
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
            raise DecodeError("pem", match.start(), f"is no {kind.decode().lower()}") from exc
    return Bundle(tuple(certificates), tuple(requests), tuple(lists))


def read_key(data: bytes, passphrase: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """The private key of a PEM text. Raises DecodeError, which never quotes it."""
    blocks = [match.group() for match in _BLOCK.finditer(data[:LONGEST_PEM]) if match.group(1).endswith(b"PRIVATE KEY")]
    if len(blocks) != 1:
        raise DecodeError("key", 0, "is not exactly one private key (PEM)")
    try:
        key = serialization.load_pem_private_key(blocks[0], passphrase)
    except TypeError as exc:
        what = "is not encrypted, and a passphrase was given" if passphrase else "is encrypted: a passphrase is needed"
        raise DecodeError("key", 0, what) from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise DecodeError("key", 0, "is not to be read (another passphrase?)" if passphrase else "means nothing") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise DecodeError("key", 0, "is not ECDSA P-256")
    return key


def key_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """A private key as its file has it."""
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def pem(*items: x509.Certificate | x509.CertificateSigningRequest | x509.CertificateRevocationList) -> bytes:
    return b"".join(item.public_bytes(serialization.Encoding.PEM) for item in items)


def der(certificate: x509.Certificate) -> bytes:
    """As TLS carries it."""
    return certificate.public_bytes(serialization.Encoding.DER)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    days: int,
    latest: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    now = now.replace(microsecond=0)
    end = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(end if latest is None else min(end, latest))
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, root: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not root, key_cert_sign=root, crl_sign=root, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
