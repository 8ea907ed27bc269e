"""A machine's own management keys and certificates, where they are made and used.

    identity.pem   its certificate and its private key, mode 600, in one file: no crash between two leaves them apart
    waiting.key    a key that was requested a certificate for; `install` takes it
    roots.pem      whom it believes
    crl.pem        whom no longer

Nothing that is installed is believed because it arrived: a certificate must be for the key that waits here and of the root
that lies here, a revocation list of that root and not older than the one here. The first root of all is believed because
the superuser put it there, and its fingerprint is said.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from anycast.errors import ConfigError, DecodeError, PeerError, Problem
from anycast.model import NAME
from anycast.pki import certificates, files
from anycast.pki.names import EXPECTED, Identity, Role
from anycast.pki.trust import Refusal, Refused, Trust, checked, judge

DEFAULT = Path("/etc/anycast/pki")


@dataclasses.dataclass(frozen=True, slots=True)
class Own:
    """What a machine is and believes."""

    identity: Identity
    certificate: x509.Certificate
    trust: Trust


class MachineFolder:
    """Each method raises ConfigError or PeerError, in one sentence, and then nothing was changed."""

    def __init__(self, path: Path = DEFAULT) -> None:
        self.path = path
        self.identity_file, self.roots_file, self.list_file = path / "identity.pem", path / "roots.pem", path / "crl.pem"
        self.waiting_file = path / "waiting.key"

    def request(self, name: str, role: Role) -> x509.CertificateSigningRequest:
        """Make a key, keep it here, and ask for a certificate. What is in use stays in use."""
        if not NAME.fullmatch(name):
            raise ConfigError([Problem("name", f"{name!r} is not of {EXPECTED}")])
        if self.identity_file.exists() and (self.own().identity.role, self.own().identity.name) != (role, name):
            raise PeerError(str(self.path), f"belongs to {self.own().identity}; nothing was changed")
        files.make_folder(self.path)
        key = certificates.new_key()
        files.write(self.waiting_file, certificates.key_pem(key), files.SECRET)
        return certificates.make_request(key, role, name)

    def install(self, text: bytes) -> list[str]:
        """Take what a root has sent: certificate, root, revocation list, or some of them. Returns what was done."""
        try:
            bundle = certificates.read_pem(text)
            sent_roots = tuple(each for each in bundle.certificates if certificates.is_root(each))
            leaves = [each for each in bundle.certificates if each not in sent_roots]
            if not leaves and not bundle.lists and not sent_roots:
                raise DecodeError("pem", 0, "holds neither certificate nor revocation list; did the command before it fail?")
            if len(leaves) > 1:
                raise DecodeError("pem", 0, "holds more than one machine's certificate")
            return self._take(leaves, sent_roots, bundle.lists)
        except DecodeError as exc:
            raise PeerError("what was sent", f"{exc.what}; nothing was changed") from exc

    def own(self) -> Own:
        """What is installed."""
        data = files.read(self.identity_file, "docs/pki.md says how a gateway gets its certificate", secret=True)
        try:
            (certificate,) = certificates.read_pem(data).certificates
            if certificates.read_key(data).public_key() != certificates.key_of(certificate):
                raise DecodeError("identity", 0, "its key is not its certificate's")
            return Own(certificates.identity_of(certificate), certificate, self.trust())
        except DecodeError as exc:
            raise ConfigError([Problem("", f"{exc.field}: {exc.what}", str(self.identity_file))]) from exc
        except ValueError as exc:
            raise ConfigError([Problem("", "is not exactly one certificate and its key", str(self.identity_file))]) from exc

    def trust(self) -> Trust:
        """Whom the machine believes. A revocation list that is missing or broken is an error, never an empty one."""
        try:
            roots = certificates.read_pem(files.read(self.roots_file, "`anycast pki install` brings it")).certificates
            lists = certificates.read_pem(files.read(self.list_file, "`anycast pki crl` where the root is prints it")).lists
            return checked(roots, lists)
        except DecodeError as exc:
            raise ConfigError([Problem("", f"{exc.field}: {exc.what}", str(self.path))]) from exc

    def _take(
        self,
        leaves: list[x509.Certificate],
        sent_roots: tuple[x509.Certificate, ...],
        sent_lists: tuple[x509.CertificateRevocationList, ...],
    ) -> list[str]:
        first = not self.roots_file.exists()
        if first and not (sent_roots and sent_lists):
            raise DecodeError("roots", 0, "this machine has no root yet, and none with its revocation list was sent")
        believed = checked(sent_roots, sent_lists) if first else self.trust()
        for root in sent_roots:
            if root not in believed.roots:
                raise DecodeError("roots", 0, f"this machine believes another root than the one sent ({self.roots_file})")
        lists = believed.lists if first else self._newest(sent_lists, believed)
        identity, text = None, b""
        for leaf in leaves:
            key = self._waiting(leaf)
            identity = self._judged(leaf, Trust(believed.roots, lists))
            text = certificates.pem(leaf) + certificates.key_pem(key)
        done = []
        if first:
            files.make_folder(self.path)
            files.write(self.roots_file, certificates.pem(*sent_roots), files.PUBLIC)
            prints = ", ".join(certificates.fingerprint(certificates.key_of(root)).hex()[:16] for root in sent_roots)
            done.append(f"root installed; its key's fingerprint begins {prints}")
        if first or lists != believed.lists:
            files.write(self.list_file, certificates.pem(*lists), files.PUBLIC)
            numbers = ", ".join(str(certificates.list_number(each)) for each in lists)
            done.append(f"revocation list {numbers} installed")
        if identity is not None:
            files.write(self.identity_file, text, files.SECRET)
            self.waiting_file.unlink(missing_ok=True)
            done.append(f"certificate of {identity} installed, good until {leaves[0].not_valid_after_utc:%Y-%m-%d}")
        return done or ["everything that was sent is here already"]

    def _newest(
        self, sent: tuple[x509.CertificateRevocationList, ...], believed: Trust
    ) -> tuple[x509.CertificateRevocationList, ...]:
        """One list a root: the one here, or the one that was sent. An older one would forgive somebody."""
        newest = list(believed.lists)
        for each in sent:
            place = next((i for i, here in enumerate(newest) if here.issuer == each.issuer), None)
            if place is None or not any(certificates.lists_for(root, each) for root in believed.roots):
                raise DecodeError("revocation list", 0, "the revocation list is of another root")
            number, here = certificates.list_number(each), certificates.list_number(newest[place])
            if number < here:
                raise DecodeError("revocation list", 0, f"revocation list {number} is older than {here}, which is here")
            if number > here:
                newest[place] = each
        return tuple(newest)

    def _waiting(self, leaf: x509.Certificate) -> ec.EllipticCurvePrivateKey:
        """The key that waits for `leaf`; also the one in use, so that the same text may be sent twice."""
        for path in (self.waiting_file, self.identity_file):
            if not path.exists():
                continue
            key = certificates.read_key(files.read(path, "", secret=True))
            if key.public_key() == leaf.public_key():
                return key
        what = "the certificate is for no key that waits here: `anycast pki request` was run again, or on another machine"
        raise DecodeError("key", 0, what)

    def _judged(self, leaf: x509.Certificate, believed: Trust) -> Identity:
        identity = certificates.identity_of(leaf)
        if self.identity_file.exists() and self.own().identity != identity:
            raise DecodeError("name", 0, f"this machine is {self.own().identity}, not {identity}")
        # Not by time: its own clock may be wrong, and an expired certificate is the peer's to judge.
        found = judge(certificates.der(leaf), believed, identity, None, leaf.not_valid_before_utc)
        if isinstance(found, Refused) and found.cause not in (Refusal.EXPIRED, Refusal.NOT_YET_VALID):
            raise DecodeError("certificate", 0, f"the certificate is {found.cause}: {found.detail}")
        return identity
