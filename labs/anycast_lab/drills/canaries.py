"""What a drill does to the canaries: a slip of one hand that gives all of them a certificate that no gateway takes."""

from __future__ import annotations

from anycast.fleet.schema import Fleet
from anycast_lab.machines import pki
from anycast_lab.runner import LabError, Runner

_KEPT = ".kept"


async def set_certificate(runner: Runner, fleet: Fleet, gateway: str, *, wrong: bool) -> None:
    """Exchange certificate and key of `gateway`'s canary. Raises LabError."""
    canary = fleet.service.checks.canary
    if canary is None:
        raise LabError("the fleet has no canary (service.checks.canary)")
    paths = (canary.certificate, canary.key)
    if not wrong:
        for path in paths:
            await runner.put(gateway, path, await runner.get(gateway, path + _KEPT), 0o600)
        return
    stranger = pki.Root("strangers").issue(canary.identity)
    for path, content in zip(paths, (stranger.certificate, stranger.private_key), strict=True):
        await runner.put(gateway, path + _KEPT, await runner.get(gateway, path), 0o600)
        await runner.put(gateway, path, content, 0o600)
