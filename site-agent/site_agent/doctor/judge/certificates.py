"""Would clients take the gateway's certificate, and the gateway theirs? And who can read the secrets? Pure."""

from __future__ import annotations

import dataclasses
import datetime
import shlex

from site_agent.doctor.finding import Finding, Kind, Severity

READABLE = Kind(
    id="certificate_file",
    looks_at="the gateway's certificate, its key and the clients' root: there, and what they should be",
    why="charon cannot prove who it is, or accepts no client's certificate",
    worst=Severity.WRONG,
)
DATES = Kind(
    id="certificate_dates",
    looks_at="not-before and not-after of the gateway's certificate and of the roots",
    why="from that moment on every client is refused, also at its next rekey with authentication",
    worst=Severity.WRONG,
)
KEY = Kind(
    id="certificate_key",
    looks_at="whether the private key is the certificate's",
    why="charon signs with a key that no certificate of its belongs to, and every client refuses it",
    worst=Severity.WRONG,
)
IDENTITY = Kind(
    id="certificate_identity",
    looks_at="whether the IKE identity stands in the certificate's subjectAltName",
    why="clients that expect the identity refuse a certificate that does not carry it (RFC 7296 section 3.5)",
    worst=Severity.WRONG,
)
CHAIN = Kind(
    id="certificate_chain",
    looks_at="whether the issuer, where its certificate is here, really signed it, and the clients' root is an authority",
    why="clients cannot build the chain to their root, or any certificate is taken for a client's",
    worst=Severity.WRONG,
)
USAGE = Kind(
    id="certificate_usage",
    looks_at="serverAuth in the gateway's certificate",
    why="native clients of Windows and Apple refuse a gateway's certificate without it",
    worst=Severity.RISKY,
)
SECRET = Kind(
    id="secret_mode",
    looks_at="who may read private keys, BGP's MD5 keys and files with secrets in them",
    why="any local user or stolen service account can impersonate the gateway, or reset and forge its BGP session",
    worst=Severity.WRONG,
)
KINDS = (READABLE, DATES, KEY, IDENTITY, CHAIN, USAGE, SECRET)

SOON = datetime.timedelta(days=30)
"""Time for a person to have it renewed; ACME clients renew at the same distance."""
SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
"""RFC 5280, extended key usage."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What is needed of one."""

    name: str
    """Its path, or its subject where it was loaded from somewhere else."""
    problem: str = ""
    """Why it could not be read; then nothing below means anything."""
    not_before: datetime.datetime = datetime.datetime.min
    not_after: datetime.datetime = datetime.datetime.max
    names: frozenset[str] = frozenset()
    """Of subjectAltName, and the subject itself."""
    authority: bool = False
    usages: frozenset[str] | None = None
    """Dotted OIDs; None where the certificate does not restrict its use."""
    public_key: bytes = b""
    issuer: str = ""
    issuer_here: bool = False
    """A certificate with the issuer's name is on this machine, or it is its own."""
    issuer_signed: bool = False
    """And one of those really signed it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SecretFile:
    path: str
    mode: int
    owner_only: bool
    """Nobody but its owner may read it, otherwise its group may, too (ExaBGP's)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IdentityReading:
    """What the gateway proves itself with. One a connection, or the document's."""

    identity: str
    """Empty where the connection names none: then it is the certificate's subject."""
    certificate: Certificate
    key_name: str = ""
    key_problem: str = ""
    public_key: bytes = b""
    """Of the private key; empty where the key is not looked at (loaded into charon from elsewhere)."""


def judge(
    identities: list[IdentityReading], roots: list[Certificate], secrets: list[SecretFile], now: datetime.datetime
) -> list[Finding]:
    """`roots` are what clients' certificates are checked by. `now` is UTC."""
    found = [finding for identity in identities for finding in _identity(identity, now)]
    for root in roots:
        if root.problem:
            found.append(
                READABLE.found(
                    Severity.WRONG,
                    f"{root.name}: {root.problem}",
                    f"install -m 644 clients-root.crt {_quoted(root.name)}  # the certificate of who signs clients'",
                )
            )
            continue
        found.append(
            _dates(root, now, ("openssl x509 -noout -subject -dates -in " + _quoted(root.name)) + "  # have a new one made")
        )
        if not root.authority:
            mend = (
                f"openssl x509 -noout -text -in {_quoted(root.name)}  # replace it by the certificate of who signs clients"
            )
            found.append(CHAIN.found(Severity.WRONG, f"{root.name} is no certificate authority", mend))
    found += [_secret(secret) for secret in secrets]
    return found


def _identity(reading: IdentityReading, now: datetime.datetime) -> list[Finding]:
    certificate = reading.certificate
    if certificate.problem:
        mend = _renew(reading)
        return [READABLE.found(Severity.WRONG, f"{certificate.name}: {certificate.problem}", *mend)]
    found = [_dates(certificate, now, *_renew(reading))]
    if reading.key_problem:
        seen = f"{reading.key_name}: {reading.key_problem}"
        found.append(
            READABLE.found(
                Severity.WRONG,
                seen,
                f"install -m 600 gateway.key {_quoted(reading.key_name)}  # the key of {certificate.name}",
            )
        )
    elif reading.public_key and reading.public_key != certificate.public_key:
        seen = f"{reading.key_name} is not the key of {certificate.name}"
        found.append(KEY.found(Severity.WRONG, seen, *_renew(reading)))
    elif reading.public_key:
        found.append(KEY.ok(reading.key_name))
    if reading.identity:
        if reading.identity in certificate.names:
            found.append(IDENTITY.ok(reading.identity))
        else:
            seen = (
                f"{certificate.name} is for {', '.join(sorted(certificate.names)) or 'nobody'}, not for {reading.identity}"
            )
            found.append(IDENTITY.found(Severity.WRONG, seen, *_renew(reading)))
    if certificate.issuer_here and not certificate.issuer_signed:
        seen = f"{certificate.name} names {certificate.issuer} as its issuer, whose key did not sign it"
        found.append(CHAIN.found(Severity.WRONG, seen, *_renew(reading)))
    elif certificate.issuer_here:
        found.append(CHAIN.ok(f"{certificate.name} is signed by {certificate.issuer}"))
    else:
        seen = (
            f"{certificate.issuer}, which signed {certificate.name}, is not here; an intermediate must lie in swanctl/x509ca"
        )
        found.append(CHAIN.found(Severity.NOTE, seen))
    if certificate.usages is not None and SERVER_AUTH not in certificate.usages:
        found.append(USAGE.found(Severity.RISKY, f"{certificate.name} is not for serverAuth", *_renew(reading)))
    else:
        found.append(USAGE.ok(certificate.name))
    return found


def _dates(certificate: Certificate, now: datetime.datetime, *mend: str) -> Finding:
    until = f"{certificate.not_after:%Y-%m-%d %H:%M} UTC"
    if certificate.not_after <= now:
        return DATES.found(Severity.WRONG, f"{certificate.name} has expired, on {until}", *mend)
    if certificate.not_before > now:
        since = f"{certificate.not_before:%Y-%m-%d %H:%M} UTC"
        return DATES.found(Severity.WRONG, f"{certificate.name} is valid from {since} on; is the clock right?", *mend)
    if certificate.not_after - now < SOON:
        return DATES.found(Severity.RISKY, f"{certificate.name} expires on {until}", *mend)
    return DATES.ok(f"{certificate.name} until {until}")


def _renew(reading: IdentityReading) -> tuple[str, ...]:
    """A request by the key that is there. Who signs is not ours to know."""
    key = _quoted(reading.key_name or "gateway.key")
    name = reading.identity or next(iter(sorted(reading.certificate.names)), "vpn.example.org")
    names = f'-subj "/CN={name}" -addext "subjectAltName=DNS:{name}" -addext extendedKeyUsage=serverAuth'
    where = _quoted(reading.certificate.name)
    return (
        f"openssl req -new -key {key} {names} -out /root/site-doctor.csr  # have your authority sign it",
        f"install -m 600 /root/site-doctor.crt {where} && swanctl --load-all  # when the signed one is there",
    )


def _secret(secret: SecretFile) -> Finding:
    allowed = 0o600 if secret.owner_only else 0o640
    wrong = secret.mode & 0o777 & ~(0o700 if secret.owner_only else 0o750)
    if not wrong:
        return SECRET.ok(f"{secret.path} {secret.mode & 0o777:04o}")
    severity = Severity.WRONG if wrong & 0o006 or (wrong & 0o020) else Severity.RISKY
    return SECRET.found(
        severity, f"{secret.path} has mode {secret.mode & 0o777:04o}", f"chmod {allowed:04o} {_quoted(secret.path)}"
    )


def _quoted(path: str) -> str:
    return shlex.quote(path)
