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

    # The other gateway of the site (rule 5).
    PEER_SERVES = "peer_serves"
    """This gateway cannot serve, but hears the site's Active say that it does."""
    PEER_TAKES_OVER = "peer_takes_over"
    """This gateway was Active and cannot serve any more; the other one could, and is being handed the addresses."""
    PEER_UNFIT = "peer_unfit"
    """The other gateway is heard, and says that it cannot serve."""
    PEER_SILENT = "peer_silent"
    """No Active that serves was heard within a lease."""

    ADDRESS_UNHELD = "address_unheld"
    """Neither gateway of the site has held its VRRP addresses for long: the route would lead nowhere."""

    # Facts: the kernel or the process table says so.
    CHARON_EXITED = "charon_exited"
    CHARON_STOPPED = "charon_stopped"
    """charon's process has been in state T for longer than the stop limit (1 s)."""
    CHARON_ABSENT = "charon_absent"
    """No charon was found to watch."""
    CHARON_SILENT = "charon_silent"
    """charon answers neither its control socket nor an IKE_SA_INIT, and neither a flood nor a busy machine explains it."""
    VIP_MISSING = "vip_missing"
    LINK_DOWN = "link_down"
    """An interface towards the upstream or the servers has no carrier, is set down, or is gone."""
    SA_STATE_LOST = "sa_state_lost"
    """Every client CHILD_SA, at least one, is without its kernel SAs or policies in two looks, and no rekey mended it."""

    # Load: travels with traffic; alarms, never withdraws.
    SA_STATE_PARTIAL = "sa_state_partial"
    """Some client CHILD_SAs are without their kernel SAs or policies in two looks."""
    SA_STATE_ORPHANED = "sa_state_orphaned"
    """The kernel has SAs or policies of a service address that charon does not list."""
    IKE_UNANSWERED = "ike_unanswered"
    """An IKE_SA_INIT to one's own VIP got no answer."""
    IKE_COOKIE = "ike_cookie"
    """charon answered with a cookie: its receiver lives, of its workers this says nothing."""
    IKE_SLOW = "ike_slow"
    """charon answers an IKE_SA_INIT late."""
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
    PACKET_FILTER_MISSING = "packet_filter_missing"
    """The gateway's nftables table is not in force as it was rendered."""
    PACKET_FILTER_PARTIAL = "packet_filter_partial"
    """Our table is in force without its rules against connection tracking: the operator's own rules would drop, or no
    longer translate, what is not tracked."""
    CHARON_OUTDATED = "charon_outdated"
    """charon was started with other settings than the installed ones; they reach it at its next start."""
    EXABGP_OUTDATED = "exabgp_outdated"
    """ExaBGP runs by other sessions than the installed ones: a changed upstream, key or hold time has not reached it."""

    # Shared: can fail everywhere at once; shown, needs a token for any change in BGP.
    DNS_WRONG = "dns_wrong"
    """An authoritative server gives other addresses for the service's name than its VIPs, or none."""
    DNS_SILENT = "dns_silent"
    """An authoritative server does not answer, and none answers wrongly."""
    CANARY_FAILING = "canary_failing"
    """A client of our own could not connect to the VIP, or reach the inside through its tunnel."""
    TARGET_UNREACHABLE = "target_unreachable"
    """An address that the operator wants reachable answers no ICMP echo."""
    UPSTREAM_LOST = "upstream_lost"
    """The BGP session to at least one upstream is down."""
    BFD_DOWN = "bfd_down"
    """The BFD session beside a BGP session is not up: a gateway without power would attract for the whole hold time."""
    EXEC_FAILED = "exec_failed"
    """An operator's own check ended with another exit status than 0."""
    EXEC_UNUSABLE = "exec_unusable"
    """An operator's own check could not be executed, or floods its output: a configuration alarm."""

    # The channel between the two gateways of a site (docs/pki.md).
    CHANNEL_DOWN = "channel_down"
    """No connection to the other gateway: what it holds of our tunnels grows old."""
    CHANNEL_REFUSED = "channel_refused"
    """Who calls itself the other gateway was refused by its certificate, or refuses ours."""
    CHANNEL_VIOLATED = "channel_violated"
    """The other gateway said what the channel's protocol does not allow; what it says is not believed for a while."""
    CERTIFICATE_EXPIRED = "certificate_expired"
    """A management certificate is out of its time; a pair goes on by the peer's pinned key alone."""
    CERTIFICATE_EXPIRING = "certificate_expiring"
    """A management certificate will not be good for much longer."""
    IDENTITY_UNUSABLE = "identity_unusable"
    """The gateway's own management certificate, key, root or revocation list is missing or means nothing."""
    PROTOCOL_DIFFERS = "protocol_differs"
    """The two gateways' versions of ours speak no common protocol."""
    CHARON_DIFFERS = "charon_differs"
    """Another version of charon runs on the other gateway."""
    HA_PROTOCOL_DIFFERS = "ha_protocol_differs"
    """charon's `ha` plugins speak different versions: each refuses the other's messages without a word."""
    DOCUMENTS_DIFFER = "documents_differ"
    """The two gateways run by documents that promise clients different things, or of different generations."""

    PROMOTION_STUCK = "promotion_stuck"
    """charon could not be made to follow the gateway's role: a step is tried again and again."""
    MIRROR_IMPAIRED = "mirror_impaired"
    """The kernel refused the sync process something, or told it what it does not understand."""
    SYNC_EXITED = "sync_exited"
    """The sync process ended, or hung and was killed; it is started again and begins with a look at everything."""

    # What protects, and what tells people.
    ALARM_HOOK_FAILED = "alarm_hook_failed"
    """The operator's alarm command or webhook did not take an alarm."""

    # Between sites.
    COORDINATOR_AWAY = "coordinator_away"
    """The coordinator is not heard, or refuses. The gateway goes on as it is; tokens end."""

    GATE_FAILED = "gate_failed"
    """Clients of a site that was just changed fare worse than before, or nothing shows that they do not."""
    ROLLOUT_WAITS = "rollout_waits"
    """A rollout cannot go on: a gateway is not heard, or the ledger has no slot."""
    RETURN_FAILED = "return_failed"
    """Sites that a stopped rollout had changed did not come back to the content before."""

    DRAINED = "drained"
    """A drain has the route worse, or withdrawn; its tunnels were moved to another site before."""
    DRAIN_WAITS = "drain_waits"
    """A step of a drain does not come to its end: nobody is cut and nothing is withdrawn for that."""
    DRAIN_UNREADABLE = "drain_unreadable"
    """There is a drain's file, but it means nothing: no drain goes on."""

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
    VRRP_SILENT = "vrrp_silent"
    """The vrrp process did not answer a grant in time."""
    VRRP_EXITED = "vrrp_exited"
    VRRP_IMPAIRED = "vrrp_impaired"
    """The kernel refused the vrrp process something (an address, a socket, real-time priority, locked memory), or all that
    the other gateway says is discarded (another key, a replay, other addresses)."""
    UPLINK_UNPROVEN = "uplink_unproven"
    """No router on the uplink answers for a lease: an Active gives way to a gateway that serves, a Backup takes nothing."""
    SESSION_DOWN = "session_down"
    """The BGP session to an upstream is down."""
    SESSION_UP = "session_up"
    """A BGP session came up; it carries nothing until the next renewal."""
    AGENT_GONE = "agent_gone"
    """The bridge lost its agent without a grace."""
    RESTART_GRACE = "restart_grace"
    """A clean stop left the route up for a limited time."""
    POOL_EXHAUSTED = "pool_exhausted"
    """A pool has no inner address left that this gateway may give: new clients get a tunnel without one, or none."""
    POOLS_STUCK = "pools_stuck"
    """charon does not take the ranges of inner addresses that it is to hand out from; it goes on with the ones it has."""
    DOOR_OPEN = "door_open"
    """New clients cannot be kept from a charon that has no addresses for them yet: who comes then is given a tunnel without
    one and does not try again."""
    DOOR_CLOSED = "door_closed"
    """The filter that keeps new clients from a Backup's charon stays on an Active's: they get no answer."""
    STALE_STATE_LEFT = "stale_state_left"
    """A dead charon's SAs or policies could not be removed from the kernel before the next start."""
    DAEMON_NOT_STARTED = "daemon_not_started"
    """charon or ExaBGP could not be executed."""
    LOOP_LATE = "loop_late"
    """Verdicts come late by a third of a lease: a callback of ours keeps the loop, or there is no free processor."""
    PART_FAULTED = "part_faulted"
    """A part of the agent that the lease does not need crashed: our bug. Stands until the agent is started again."""
    METRICS_UNAVAILABLE = "metrics_unavailable"
    """The address for /metrics could not be listened on."""
    CONFIG_REFUSED = "config_refused"
    """The configuration has problems; the last good document stays in force."""
    NO_DOCUMENT = "no_document"
    HOLD_UNREADABLE = "hold_unreadable"
    """There is a hold's file, but it means nothing: no hold is in force."""
    OPERATOR = "operator"


FACTS = frozenset(
    {
        Reason.CHARON_EXITED,
        Reason.CHARON_STOPPED,
        Reason.CHARON_ABSENT,
        Reason.CHARON_SILENT,
        Reason.VIP_MISSING,
        Reason.LINK_DOWN,
        Reason.SA_STATE_LOST,
    }
)
"""What a fact check may say against serving: the only words that `hold announce --despite` takes."""
