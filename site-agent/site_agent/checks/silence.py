"""Is a charon that says nothing hung, or only busy? The judge of `charon_answers`. Pure.

Theory of operation
-------------------
A time-out alone proves nothing: a stranger who sends enough packets gets one. Two independent ways to charon are therefore
asked at once, the control socket (VICI) and IKE_SA_INIT, over several rounds in a row, and both must be silent in each. And
nothing that a stranger can do may explain it.

The two ways are two only where both can be heard. A firewall that drops what comes by loopback, or `interfaces_use` in an
operator's strongswan.conf, keeps IKE silent for ever, and VICI alone would decide. So an end of IKE is believed to be
silent only when a worker of the same charon process has answered there before, or its receiver has just wanted a cookie and
got it; until then it is UNHEARD, and nothing is known.

A flood is work, so it shows in at least one of these, any of which
ends the suspicion:

* charon's own processor time: a hung charon uses none, a flooded one all it gets;
* datagrams that charon's sockets discarded, because it could not take them in time;
* tasks that waited for a processor, memory or the disk, anywhere on the machine (pressure stall information; where the
  kernel has none, the run queue);
* our own lateness in the same rounds.

One more thing waits without working: a plugin that asks somebody else (RADIUS, a database, a web server, a script). A
stranger's handshakes can keep every worker in such a wait. So silence is believed only of a charon whose plugins
are all known to wait for nobody; `site-agent render` loads no others.

A round that shows work is no proof of health either: UNKNOWN, which moves nothing. But a charon that works is not hung, so
work of its own ends an earlier finding: nobody can prolong it by packets.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Collection, Iterable, Sequence

from anycast.reasons import Reason
from site_agent.checks.base import Finding, failing, passing, unknown
from site_agent.render.strongswan import MIRROR_PLUGINS, PLUGINS

NAME = "charon_answers"
ROUNDS = 4
"""Silent and calm rounds in a row that make a fact."""
ROUND_S = 1.0
"""Length of a round, which is also how long charon may take to answer in it. Idle it takes 1 ms."""

BUSY_SHARE = 0.05
"""Of a core. A hung charon's clock threads use less than 0.001."""
CALM_SHARE = 0.5
"""Of the time, in which no task may have had to wait: a gateway with work to do stays below, a flooded one does not."""
CALM_QUEUE = 2.0
"""Runnable tasks per processor, where the kernel does not tell who waited."""
LATE_LIMIT_S = 0.25
"""A round may be that much longer than it was meant to be."""

CRYPTOGRAPHY = (
    "aes aesni af-alg blowfish ccm chapoly cmac constraints ctr curve25519 des dnskey drbg fips-prf gcm gcrypt gmp hmac "
    "kdf md4 md5 mgf1 ml nonce openssl pem pgp pkcs1 pkcs7 pkcs8 pkcs12 pubkey random rc2 rdrand sha1 sha2 sha3 sshkey "
    "x509 xcbc"
)
NEVER_WAIT = frozenset({"charon", "charon-systemd", *PLUGINS, *MIRROR_PLUGINS, *CRYPTOGRAPHY.split()})
"""Plugins that compute, and those that talk to the kernel and to us."""


class Said(enum.Enum):
    """What a way to charon gave in one round."""

    ANSWER = enum.auto()
    NOTHING = enum.auto()
    """Silence for the whole round."""
    UNHEARD = enum.auto()
    """The same, on a way on which this charon never said anything: perhaps nothing comes through there."""
    UNCLEAR = enum.auto()
    """Refused, not there, or a cookie for a cookie."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """Readings at one moment that only ever grow, but `runnable`."""

    at: float
    cpu_s: float
    """charon's processor time, of all threads."""
    drops: int
    """Datagrams that the sockets of IKE discarded."""
    stalled_s: tuple[float, ...]
    """For how long a task has waited since boot, by resource; empty where the kernel does not say."""
    runnable: float
    """Tasks per processor that run or want to, our own not counted."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    vici: Said
    ike: Said
    before: Gauge
    after: Gauge

    @property
    def length_s(self) -> float:
        return self.after.at - self.before.at


def judge(rounds: Sequence[Round], plugins: Collection[str] | None) -> Finding | None:
    """What the rounds so far mean, the last of them new; None: too early to tell, one more round is needed.

    `plugins` is what charon has loaded, None where it never said so.
    """
    last = rounds[-1]
    if Said.ANSWER in (last.vici, last.ike):
        return passing(NAME, "control socket" if last.vici is Said.ANSWER else "IKE, though not at its control socket")
    silent_s = last.after.at - rounds[0].before.at
    if (used := _share(last.after.cpu_s - last.before.cpu_s, last)) >= BUSY_SHARE:
        return passing(NAME, f"silent for {silent_s:.1f} s and at work: {used * 100:.0f} % of a core")
    if (load := sign_of_load(last)) is not None:
        return unknown(NAME, Reason.VICI_SILENT, f"silent for {silent_s:.1f} s, which load explains: {load}")
    if last.ike is Said.UNHEARD:
        why = "IKE never answered since it was started: a firewall on loopback, interfaces_use, or a charon that hung before"
        return unknown(NAME, Reason.VICI_SILENT, f"control socket silent for {silent_s:.1f} s, but {why}")
    if (last.vici, last.ike) != (Said.NOTHING, Said.NOTHING):
        return unknown(NAME, Reason.VICI_SILENT, "the control socket or IKE neither answers nor is silent")
    if plugins is None or (waiting := sorted(set(plugins) - NEVER_WAIT)):
        why = "its plugins are not known" if plugins is None else f"may wait for others: {', '.join(waiting)}"
        return unknown(NAME, Reason.VICI_SILENT, f"silent and idle for {silent_s:.1f} s, but {why}")
    if len(rounds) < ROUNDS:
        return None
    return failing(
        NAME,
        Reason.CHARON_SILENT,
        f"neither control socket nor IKE for {silent_s:.1f} s, on a machine with nothing else to do",
    )


def sign_of_load(seen: Round) -> str | None:
    """What in this round could be a flood's doing, in words; None for a calm one. charon's own time is judged apart."""
    before, after = seen.before, seen.after
    if (drops := after.drops - before.drops) != 0:  # a counter that fell belongs to another socket
        return f"{drops} datagrams discarded"
    if not 0 < seen.length_s <= ROUND_S + LATE_LIMIT_S:
        return f"a round of {seen.length_s:.2f} s where {ROUND_S:g} s were meant"
    if len(before.stalled_s) != len(after.stalled_s):
        return "the kernel's figures came and went"
    if before.stalled_s:
        worst = max(_share(then - now, seen) for now, then in zip(before.stalled_s, after.stalled_s, strict=True))
        return f"tasks waited for {worst * 100:.0f} % of the time" if worst >= CALM_SHARE else None
    queue = max(before.runnable, after.runnable)
    return f"{queue:.1f} runnable tasks per processor" if queue >= CALM_QUEUE else None


def together(answers: Iterable[Said]) -> Said:
    """Several ends of one way: one answer is an answer, and silence is all of them silent, at least one heard before."""
    said = set(answers)
    if Said.ANSWER in said:
        return Said.ANSWER
    if not said or not said <= {Said.NOTHING, Said.UNHEARD}:
        return Said.UNCLEAR
    return Said.NOTHING if Said.NOTHING in said else Said.UNHEARD


def _share(seconds: float, seen: Round) -> float:
    """Of a round; a time that cannot be counts as all of it."""
    return seconds / seen.length_s if seen.length_s > 0 and seconds >= 0 else 1.0
