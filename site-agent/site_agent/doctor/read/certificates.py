"""Reads what `judge/certificates.py` judges: certificates, keys and modes, by the document or by swanctl's own folders.

A private key is read for its public half, which is compared and then forgotten; nothing of it is kept or shown.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from site_agent.doctor.judge.certificates import Certificate, IdentityReading, SecretFile
from site_agent.doctor.read.patient import Patient
from site_agent.doctor.read.sight import Sight

KEY_FOLDERS = ("private", "rsa", "ecdsa", "pkcs8")


def read_identities(sight: Sight, patient: Patient) -> tuple[list[IdentityReading], list[Certificate]]:
    """What the gateway proves itself with, and the roots that clients are checked by."""
    folder = _folder(patient)
    authorities = [path for path in sight.files_in(folder / "x509ca")]
    document = patient.document
    if document is not None:
        service = document.service
        root = Path(service.client_ca)
        loaded = _load_all(sight, [root, *authorities])
        certificate = _certificate(sight, Path(service.certificate), loaded)
        key = _public_key(sight, Path(service.private_key))
        identity = IdentityReading(
            identity=service.identity, certificate=certificate, key_name=service.private_key,
            key_problem=key if isinstance(key, str) else "", public_key=key if isinstance(key, bytes) else b"",
        )  # fmt: skip
        return [identity], [_certificate(sight, root, loaded)]
    return _of_swanctl(sight, patient, folder, authorities)


def _of_swanctl(
    sight: Sight, patient: Patient, folder: Path, authorities: list[Path]
) -> tuple[list[IdentityReading], list[Certificate]]:
    if patient.swanctl is None:
        return [], []
    settings = patient.swanctl.settings
    roots = dict.fromkeys(authorities)
    wanted: list[tuple[str, Path]] = []
    for connection in settings.names("connections"):
        for part in settings.names(f"connections.{connection}"):
            path = f"connections.{connection}.{part}"
            if part.startswith("local"):
                wanted += [
                    (settings.get(f"{path}.id") or "", folder / "x509" / file)
                    for file in _words(settings.get(f"{path}.certs"))
                ]
            elif part.startswith("remote"):
                roots |= dict.fromkeys(folder / "x509ca" / file for file in _words(settings.get(f"{path}.cacerts")))
    loaded = _load_all(sight, list(roots))
    keys = {path: _public_key(sight, path) for name in KEY_FOLDERS for path in sight.files_in(folder / name)}
    identities = []
    for identity, file in dict.fromkeys(wanted):
        certificate = _certificate(sight, file, loaded)
        readable = {path: key for path, key in keys.items() if isinstance(key, bytes)}
        fitting = next((path for path, key in readable.items() if key == certificate.public_key), None)
        chosen = fitting or next(iter(readable), None)
        # A key that cannot be read may be the right one: nothing is said then.
        judged = fitting is not None or len(readable) == len(keys)
        identities.append(
            IdentityReading(
                identity=identity.removeprefix("@"), certificate=certificate, key_name=str(chosen or ""),
                public_key=readable[chosen] if chosen is not None and judged else b"",
            )
        )  # fmt: skip
    return identities, [_certificate(sight, root, loaded) for root in roots]


def read_secrets(sight: Sight, patient: Patient) -> list[SecretFile]:
    """Files with secrets in them, that are there."""
    folder = _folder(patient)
    owner_only = {path.resolve() for name in KEY_FOLDERS for path in sight.files_in(folder / name)}
    group_too: set[Path] = set()
    document = patient.document
    if document is not None:
        owner_only.add(Path(document.service.private_key))
        owner_only |= {Path(each.md5_key_file) for each in document.bgp.neighbors if each.md5_key_file is not None}
        if (canary := document.service.checks.canary) is not None:
            owner_only.add(Path(canary.private_key))
        group_too.add(patient.etc_dir / "exabgp.conf")
    for conf in (patient.conf, patient.swanctl):
        group_too |= set() if conf is None else {path.resolve() for path in conf.secret}
    if (ipsec := Path("/etc/ipsec.secrets")).exists():
        owner_only.add(ipsec)
    found = []
    for path in sorted(owner_only | group_too):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            continue  # READABLE says so where it is needed
        except OSError as exc:
            sight.miss(f"{path}: {exc.strerror}", "root")
            continue
        found.append(SecretFile(path=str(path), mode=mode, owner_only=path in owner_only))
    return found


def _folder(patient: Patient) -> Path:
    return patient.swanctl.file.parent if patient.swanctl is not None else patient.etc_dir / "swanctl"


def _words(value: str | None) -> list[str]:
    return [word.strip() for word in (value or "").split(",") if word.strip()]


def _load_all(sight: Sight, paths: list[Path]) -> list[x509.Certificate]:
    return [loaded for path in paths if isinstance(loaded := _load(sight, path), x509.Certificate)]


def _load(sight: Sight, path: Path) -> x509.Certificate | str:
    """The first certificate of a file, or why there is none."""
    data = sight.bytes_of(path)
    if data is None:
        return "is not there" if not path.exists() else "may not be read"
    try:
        if b"-----BEGIN" in data:
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except ValueError as exc:
        return f"is no certificate: {str(exc).splitlines()[0] if str(exc) else 'malformed'}"


def _certificate(sight: Sight, path: Path, others: list[x509.Certificate]) -> Certificate:
    loaded = _load(sight, path)
    if isinstance(loaded, str):
        return Certificate(name=str(path), problem=loaded)
    try:
        issuers = [loaded, *others] if loaded.issuer == loaded.subject else others
        here = [other for other in issuers if other.subject == loaded.issuer]
        return Certificate(
            name=str(path),
            not_before=loaded.not_valid_before_utc,
            not_after=loaded.not_valid_after_utc,
            names=_names(loaded),
            authority=_authority(loaded),
            usages=_usages(loaded),
            public_key=_public_half(loaded.public_key()),
            issuer=loaded.issuer.rfc4514_string(),
            issuer_here=bool(here),
            issuer_signed=any(_signed(loaded, issuer) for issuer in here),
        )
    except (ValueError, UnsupportedAlgorithm) as exc:
        return Certificate(name=str(path), problem=f"cannot be understood: {exc}")


def _names(certificate: x509.Certificate) -> frozenset[str]:
    names = {certificate.subject.rfc4514_string()}
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset(names)
    for general in alternative:
        if isinstance(general, x509.DNSName | x509.RFC822Name):
            names.add(general.value)
        elif isinstance(general, x509.IPAddress):
            names.add(str(general.value))
    return frozenset(names)


def _authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _usages(certificate: x509.Certificate) -> frozenset[str] | None:
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None
    return frozenset(usage.dotted_string for usage in usages)


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _public_key(sight: Sight, path: Path) -> bytes | str:
    """The public half of a private key's file, or why it is not known."""
    data = sight.bytes_of(path)
    if data is None:
        return "is not there" if not path.exists() else "may not be read"
    load = serialization.load_pem_private_key if b"-----BEGIN" in data else serialization.load_der_private_key
    try:
        return _public_half(load(data, password=None).public_key())
    except TypeError:
        sight.miss(f"{path} is encrypted")
        return "is encrypted"
    except (ValueError, UnsupportedAlgorithm):
        return "is no private key"


def _public_half(key: object) -> bytes:
    public: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
