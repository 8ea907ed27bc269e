"""The spans that ledger and tokens go by, in seconds, with their reasons. Both halves have the same ones."""

HEARTBEAT_S = 2.0
"""Between two reports of a gateway."""
TOKEN_LIFE_S = 30.0
"""From when a token was asked for until it ends: how long a site that lost contact stays dark at most. Fifteen heartbeats,
so that a coordinator's restart costs no token."""
FRESH_S = 4 * HEARTBEAT_S
"""How old a gateway's word may be. It is as old as the answer that it quotes, which is one heartbeat at best, so two reports
in a row may be lost."""
SETTLE_S = TOKEN_LIFE_S + FRESH_S
"""What a new leader lets pass before it grants anything: by then what another one granted has ended, or been heard of."""
WINDOW_S = 30.0
"""The correlation window: how long a check must have failed at a site before a token. `dns` needs 28 s from a fault to its
word (two looks, 10 s apart, of 4 s at most); a check that needs longer says so (`Look.span_ms`) and is waited for."""
SPACING_S = 30.0
"""Between two first grants: what the one before did is seen before the next."""
GAP_S = 2 * HEARTBEAT_S
"""An agent that finds more between two of its own ticks, one of which is due every heartbeat, was stopped, frozen or
starved: its token is lost."""
