"""An operator's folder of the management root: its key, what it has signed, what it has revoked.

    root.pem   root.key   crl.pem   issued/NAME-SERIAL.pem

There is no data base beside the certificates: what was signed is in `issued`, what was revoked is in the list. The folder
belongs on an operator's machine, never on a gateway or a coordinator.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from anycast.errors import ConfigError, DecodeError, PeerError, Problem
from anycast.model import NAME
from anycast.pki import certificates, files
from anycast.pki.names import EXPECTED, Identity, Role, parse


@dataclasses.dataclass(frozen=True, slots=True)
class Issued:
    """One certificate of the root, and what became of it."""

    identity: Identity
    certificate: x509.Certificate
    revoked: datetime.datetime | None

    def state(self, now: datetime.datetime) -> str:
        """``valid``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if now > self.certificate.not_valid_after_utc else "valid"


class RootFolder:
    """Each method raises ConfigError or PeerError, in one sentence, and then nothing was changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root_file, self._key_file, self._list_file = path / "root.pem", path / "root.key", path / "crl.pem"
        self._remedy = f"`anycast pki init FLEET --dir {path}` makes a root"

    def init(self, fleet: str, now: datetime.datetime, days: int, passphrase: bytes | None) -> x509.Certificate:
        """Make the root of a fleet. Replaces none."""
        _name("fleet", fleet)
        if self._root_file.exists() or self._key_file.exists():
            raise PeerError(str(self.path), "has a root already; nothing was changed")
        files.make_folder(self.path)
        files.make_folder(self.path / "issued")
        key = certificates.new_key()
        root = certificates.make_root(key, fleet, now, days)
        files.write(self._key_file, certificates.key_pem(key, passphrase), files.SECRET)
        files.write(self._list_file, certificates.pem(certificates.make_list(root, key, (), 1, now)), files.PUBLIC)
        files.write(self._root_file, certificates.pem(root), files.PUBLIC)
        return root

    @property
    def root(self) -> x509.Certificate:
        bundle = self._bundle(self._root_file, self._remedy)
        if len(bundle.certificates) != 1 or not certificates.is_root(bundle.certificates[0]):
            raise ConfigError([Problem("", "is not exactly one root", str(self._root_file))])
        return bundle.certificates[0]

    @property
    def fleet(self) -> str:
        """The fleet that the root was made for, from its name."""
        common = self.root.subject.rfc4514_string()
        return common.removeprefix("CN=").removesuffix(" management root")

    @property
    def revocations(self) -> x509.CertificateRevocationList:
        bundle = self._bundle(self._list_file, "copy it back from a backup, or from any gateway's /etc/anycast/pki/crl.pem")
        if len(bundle.lists) != 1 or not certificates.lists_for(self.root, bundle.lists[0]):
            raise ConfigError([Problem("", "is not this root's revocation list", str(self._list_file))])
        return bundle.lists[0]

    @property
    def encrypted(self) -> bool:
        """The root's key asks for a passphrase."""
        return b"ENCRYPTED" in files.read(self._key_file, self._remedy, secret=True)

    def issued(self) -> list[Issued]:
        """Everything the root has signed, by name and age."""
        root, revocations = self.root, self.revocations
        found = []
        for path in sorted((self.path / "issued").glob("*.pem")):
            for certificate in self._bundle(path, "").certificates:
                if not certificates.issued_by(certificate, root):
                    raise ConfigError([Problem("", "is of another root", str(path))])
                entry = revocations.get_revoked_certificate_by_serial_number(certificate.serial_number)
                revoked = None if entry is None else entry.revocation_date_utc
                found.append(Issued(certificates.identity_of(certificate), certificate, revoked))
        return sorted(found, key=lambda each: (each.identity.name, each.certificate.not_valid_before_utc))

    def issue(
        self, name: str, role: Role, text: bytes, now: datetime.datetime, days: int, passphrase: bytes | None, *, renew: bool
    ) -> x509.Certificate:
        """Sign the request in `text` for `name`, which with `renew` must have a certificate, and else none that is good."""
        with self._alone():
            root = self.root
            identity = parse(Identity(self.fleet, role, _name("name", name)).uri)
            public = self._asked_for(text, identity)
            signed = self.issued()
            named = [each for each in signed if each.identity.name == name]
            good = [each for each in named if each.state(now) == "valid"]
            if not renew and good:
                until = f"{good[-1].certificate.not_valid_after_utc:%Y-%m-%d}"
                raise PeerError(name, f"has a certificate until {until}; `renew` gives it another, `revoke` ends it")
            if renew and not any(each.identity == identity and each.revoked is None for each in named):
                raise PeerError(name, "has no certificate to renew (or a revoked one); `issue` gives it its first")
            # One key, one certificate: a pin or a revocation then means the same to everybody.
            for each in signed:
                if certificates.fingerprint(certificates.key_of(each.certificate)) == certificates.fingerprint(public):
                    what = "this key has a certificate already; `anycast pki request` on the machine makes a new one"
                    raise PeerError(name, what)
            if now > root.not_valid_after_utc:
                raise PeerError(str(self.path), "the root has expired; a new one has to be made and installed")
            certificate = certificates.issue(root, self._key(passphrase), public, identity, now, days)
            place = self.path / "issued" / f"{name}-{certificate.serial_number:040x}.pem"
            files.write(place, certificates.pem(certificate), files.PUBLIC)
            return certificate

    def revoke(
        self, name: str, serial: int | None, now: datetime.datetime, passphrase: bytes | None
    ) -> tuple[list[Issued], x509.CertificateRevocationList]:
        """Put the certificates of `name` (or the one with `serial`) on the list, expired ones too: a pair would accept its
        peer's pinned key beyond its expiry. What is on it already stays as it is."""
        with self._alone():
            signed = self.issued()
            named = [each for each in signed if each.identity.name == name]
            chosen = [each for each in named if serial is None or each.certificate.serial_number == serial]
            if not chosen:
                known = ", ".join(sorted({each.identity.name for each in signed})) or "nobody"
                what = "has no certificate of this root" if not named else "has no certificate with this serial"
                raise PeerError(name, f"{what}; it has signed for {known}")
            new = [each for each in chosen if each.revoked is None]
            before = self.revocations
            if new:
                entries = [(entry.serial_number, entry.revocation_date_utc) for entry in before]
                entries += [(each.certificate.serial_number, now) for each in new]
                number = certificates.list_number(before) + 1
                after = certificates.make_list(self.root, self._key(passphrase), entries, number, now)
                files.write(self._list_file, certificates.pem(after), files.PUBLIC)
            return new, self.revocations

    def _asked_for(self, text: bytes, identity: Identity) -> ec.EllipticCurvePublicKey:
        try:
            requests = certificates.read_pem(text).requests
            if len(requests) != 1:
                what = "is not exactly one request; pipe `anycast pki request` of the machine into this command"
                raise DecodeError("request", 0, what)
            role, name = certificates.requested(requests[0])
            if (role, name) != (identity.role, identity.name):
                raise DecodeError("request", 0, f"asks for {role} {name}, not for {identity.role} {identity.name}")
        except DecodeError as exc:
            raise PeerError("the request", f"{exc.what}; nothing was signed") from exc
        public = requests[0].public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        return public

    def _key(self, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
        try:
            key = certificates.read_key(files.read(self._key_file, self._remedy, secret=True), passphrase)
        except DecodeError as exc:
            raise ConfigError([Problem("", exc.what, str(self._key_file))]) from exc
        if key.public_key() != self.root.public_key():
            raise ConfigError([Problem("", "is not the key of root.pem", str(self._key_file))])
        return key

    def _bundle(self, path: Path, remedy: str) -> certificates.Bundle:
        try:
            return certificates.read_pem(files.read(path, remedy))
        except DecodeError as exc:
            raise ConfigError([Problem("", exc.what, str(path))]) from exc

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Two pipelines at once must not both be the first to sign or revoke."""
        try:
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise ConfigError([Problem("", f"is not there; {self._remedy}", str(self.path))]) from exc
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def _name(what: str, text: str) -> str:
    if not NAME.fullmatch(text):
        raise ConfigError([Problem(what, f"{text!r} is not of {EXPECTED}")])
    return text
