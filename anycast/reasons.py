"""The one vocabulary of causes (rule 8).

The `Reason` that moved a verdict is the same word in the event stream, the metric label, `site-agent why`, the
coordinator's history and the drill report. Nothing invents a cause in free text; text beside it is `detail`.
"""

from __future__ import annotations

import enum


class Reason(enum.StrEnum):
    """Why something is as it is. The value is the word that people and machines read."""

    HEALTHY = "healthy"
    """Every fact check passed since the last loss of trust in our own clock."""
    NO_EVIDENCE_YET = "no_evidence_yet"
    """A fact check has not answered since the agent started or the machine thawed."""

    RECOVERING = "recovering"
    """The facts pass again after a failure, but have not stood for long enough to announce."""
    FLAP_DELAYED = "flap_delayed"
    """The site could serve, but the next withdrawal would make receivers damp its route."""

    # Facts: the kernel or the process table says so.
    CHARON_EXITED = "charon_exited"
    CHARON_STOPPED = "charon_stopped"
    """charon's process has been in state T for longer than the stop limit (1 s)."""
    CHARON_ABSENT = "charon_absent"
    """No charon was found to watch."""
    VIP_MISSING = "vip_missing"
    SA_STATE_LOST = "sa_state_lost"
    """Every client CHILD_SA, at least one, is without its kernel state in two looks."""

    # Load: travels with traffic; alarms, never withdraws.
    SA_STATE_PARTIAL = "sa_state_partial"
    """Some client CHILD_SAs are without kernel state in two looks."""
    VICI_SILENT = "vici_silent"
    VICI_REFUSED = "vici_refused"
    CHECK_TIMED_OUT = "check_timed_out"
    CHECK_REFUSED = "check_refused"
    """The kernel or another process refused to be looked at."""
    CHECK_FAULTED = "check_faulted"
    """A check of ours crashed: our bug, never evidence."""
    CHECK_UNAVAILABLE = "check_unavailable"
    """The kernel has nothing to look at (a module that is not loaded): shown, and no alarm."""
    CONNTRACK_FILLING = "conntrack_filling"
    CONNTRACK_REFUSING = "conntrack_refusing"
    """New flows get no entry in the connection tracking table."""
    XFRM_ERRORS = "xfrm_errors"
    """The kernel discards IPsec packets, faster than a rekey or a moving client explains."""
    HALF_OPEN_HIGH = "half_open_high"
    """So many unfinished handshakes that charon demands cookies."""
    CPU_PRESSURE = "cpu_pressure"
    MEMORY_LOW = "memory_low"
    CONNECTIONS_NOT_LOADED = "connections_not_loaded"
    """charon refused or lost the rendered connections: a configuration alarm."""

    # The lease and its holders.
    LEASE_LAPSED = "lease_lapsed"
    CLOCK_GAP = "clock_gap"
    """More than a lease passed between two of our own ticks: frozen, stopped, or starved."""
    BRIDGE_SILENT = "bridge_silent"
    """The bridge did not acknowledge a renewal within a lease."""
    LEASE_CHANGED = "lease_changed"
    """ExaBGP's bridge runs by another lease than the document's: it was started before the configuration changed."""
    BRIDGE_GONE = "bridge_gone"
    """The bridge's connection ended."""
    EXABGP_SILENT = "exabgp_silent"
    """ExaBGP did not answer its bridge within a lease."""
    EXABGP_EXITED = "exabgp_exited"
    EXABGP_REFUSED = "exabgp_refused"
    """ExaBGP answered `error`."""
    SESSION_DOWN = "session_down"
    """The BGP session to an upstream is down."""
    SESSION_UP = "session_up"
    """A BGP session came up; it carries nothing until the next renewal."""
    AGENT_GONE = "agent_gone"
    """The bridge lost its agent without a grace."""
    RESTART_GRACE = "restart_grace"
    """A clean stop left the route up for a limited time."""
    STALE_STATE_LEFT = "stale_state_left"
    """A dead charon's SAs or policies could not be removed from the kernel before the next start."""
    DAEMON_NOT_STARTED = "daemon_not_started"
    """charon or ExaBGP could not be executed."""
    METRICS_UNAVAILABLE = "metrics_unavailable"
    """The address for /metrics could not be listened on."""
    CONFIG_REFUSED = "config_refused"
    """The configuration has problems; the last good document stays in force."""
    NO_DOCUMENT = "no_document"
    HOLD_UNREADABLE = "hold_unreadable"
    """There is a hold's file, but it means nothing: no hold is in force."""
    OPERATOR = "operator"
