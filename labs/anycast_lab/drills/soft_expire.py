"""Have the kernel tell whoever listens that every SA is past its soft limit (RFC 4301, section 4.4.2): rekey it.

    python -m anycast_lab.drills.soft_expire

What passes by time and packets is told by the same code of the kernel, as XFRM_MSG_EXPIRE with `hard` 0 (linux/xfrm.h).
Prints how many SAs it was. The kernel's own messages, without the product's codecs.
"""

from __future__ import annotations

import socket

from anycast_lab.drills.forget_numbers import ACK, DUMP, GETSA, NETLINK_XFRM, SA_INFO_BYTES, ask

_EXPIRE = 0x18


def expiry(sa: bytes) -> bytes:
    """struct xfrm_user_expire of a dumped SA: struct xfrm_usersa_info, `hard`, and what fills it up to a multiple of 8."""
    return sa[:SA_INFO_BYTES] + bytes(8)


def main() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_XFRM) as sock:
        sas = list(ask(sock, GETSA, DUMP, b""))
        for sa in sas:
            list(ask(sock, _EXPIRE, ACK, expiry(sa)))
    print(len(sas))


if __name__ == "__main__":
    main()
