"""What strangers send: garbage ESP and IKE, half-open handshakes, flows that fill a connection tracking table.

Only for the labs' own namespaces: every source address is documentation space (RFC 5737, RFC 3849).
"""
