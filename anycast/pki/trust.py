"""Is this the machine that it says it is? The one place where a peer's management certificate is judged. Pure.

TLS has proved that the peer has the key, and that a root of ours signed the certificate, but not when (`sync/identity.py`
turns off its clock: a pair must not part because nobody renewed). So before a byte of the peer's is looked at, it is judged
here, by everything again:

* signed by a root of ours, itself, and for no other use;
* not revoked, also if it has expired meanwhile;
* the fleet, role and name that were called for;
* in its time, and its root's. Outside of it, only the very key that this same peer proved while it was in time (the *pin*):
  that one is accepted with an alarm, so an operator who forgot loses no tunnel, and a certificate found on an old backup is
  worth nothing.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from anycast.errors import DecodeError
from anycast.pki import certificates
from anycast.pki.names import Identity


class Refusal(enum.StrEnum):
    """Why a peer is refused: the word in log and metrics."""

    MALFORMED = "malformed"
    """No certificate, or not one that a management root makes."""
    FOREIGN = "foreign"
    """No root of ours has signed it."""
    REVOKED = "revoked"
    WRONG_FLEET = "wrong_fleet"
    WRONG_ROLE = "wrong_role"
    WRONG_NAME = "wrong_name"
    EXPIRED = "expired"
    """And not the pinned key of the peer."""
    NOT_YET_VALID = "not_yet_valid"
    """And not the pinned key of the peer: one of the two clocks is wrong."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trust:
    """Whom we believe."""

    roots: tuple[x509.Certificate, ...]
    lists: tuple[x509.CertificateRevocationList, ...]
    """One of each root (`checked`)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pin:
    """A peer's key, as it was last proved in time."""

    key: bytes
    """SHA-256 of its SubjectPublicKeyInfo."""
    issued: datetime.datetime
    """When the certificate began that it was proved with, by the root's clock."""


@dataclasses.dataclass(frozen=True, slots=True)
class Accepted:
    identity: Identity
    pin: Pin
    not_after: datetime.datetime
    out_of_time: Refusal | None = None
    """Accepted by its pin alone: EXPIRED or NOT_YET_VALID, which is an alarm."""


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    cause: Refusal
    detail: str


def checked(roots: tuple[x509.Certificate, ...], lists: tuple[x509.CertificateRevocationList, ...]) -> Trust:
    """Raises DecodeError where a root is none, or the lists are not one of each: one that is missing forgives everybody."""
    if not roots:
        raise DecodeError("roots", 0, "there is no root")
    for root in roots:
        certificates.key_of(root)
        if not certificates.is_root(root):
            raise DecodeError("roots", 0, f"{root.subject.rfc4514_string()} is no root")
        if sum(certificates.lists_for(root, each) for each in lists) != 1:
            raise DecodeError("revocation list", 0, f"there is not one of {root.subject.rfc4514_string()}")
    if len(lists) != len(roots):
        raise DecodeError("revocation list", 0, "there is one of another root")
    for each in lists:
        certificates.list_number(each)
    return Trust(roots, lists)


def judge(
    der: bytes | None, trust: Trust, expected: Identity, pin: Pin | None, now: datetime.datetime
) -> Accepted | Refused:
    """What to make of the certificate that a peer has just proved to have the key of. `now` is wall-clock time (UTC)."""
    if not der:
        return Refused(Refusal.MALFORMED, "it shows no certificate")
    try:
        certificate = x509.load_der_x509_certificate(der)
        public = certificates.key_of(certificate)
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        # Parts are parsed when they are asked for: all that is looked at below is asked for here.
        _ = certificate.issuer, certificate.subject, certificate.serial_number, list(certificate.extensions)
    except (ValueError, TypeError, DecodeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension) as exc:
        return Refused(Refusal.MALFORMED, f"it means nothing ({type(exc).__name__})")
    root = next((root for root in trust.roots if certificates.issued_by(certificate, root)), None)
    if root is None:
        return Refused(Refusal.FOREIGN, "no root of ours has signed it")
    if any(
        certificates.lists_for(root, revocations)
        and revocations.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
        for revocations in trust.lists
    ):
        return Refused(Refusal.REVOKED, f"serial {certificate.serial_number:x} is revoked")
    try:
        _for_both_ends(certificate)
        identity = certificates.identity_of(certificate)
    except (DecodeError, ValueError) as exc:
        return Refused(Refusal.MALFORMED, str(exc))
    for cause, found, wanted in (
        (Refusal.WRONG_FLEET, identity.fleet, expected.fleet),
        (Refusal.WRONG_ROLE, identity.role, expected.role),
        (Refusal.WRONG_NAME, identity.name, expected.name),
    ):
        if found != wanted:
            return Refused(cause, f"it is {identity}, not {expected}")
    proved = Pin(certificates.fingerprint(public), begin)
    begin, end = max(begin, root.not_valid_before_utc), min(end, root.not_valid_after_utc)
    if begin <= now <= end:
        return Accepted(identity, proved, end)
    cause, when = (Refusal.NOT_YET_VALID, begin) if now < begin else (Refusal.EXPIRED, end)
    if pin is not None and pin.key == proved.key:
        return Accepted(identity, proved, end, cause)
    what = "valid from" if cause is Refusal.NOT_YET_VALID else "expired on"
    return Refused(cause, f"{what} {when:%Y-%m-%d %H:%M}Z, and its key is not the one that {identity.name} is known by")


def pinned(before: Pin | None, seen: Accepted) -> Pin | None:
    """The peer's pin after it was accepted. It moves forward only: who shows an older certificate than the one known (a
    machine restored from a backup, a thief of one) proves less, and what is out of time proves nothing."""
    if seen.out_of_time is not None or (before is not None and seen.pin.issued < before.issued):
        return before
    return seen.pin


def _for_both_ends(certificate: x509.Certificate) -> None:
    """Raises DecodeError where it is a root, or not for TLS."""
    try:
        if certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise DecodeError("use", 0, "is a root's, not a machine's")
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as exc:
        raise DecodeError("use", 0, "does not say what it is for") from exc
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(uses):
        raise DecodeError("use", 0, "is not for both ends of TLS")
