"""From the fleet, which people write, to each gateway's document, which its agent reads.

Pure: the same fleet gives the same documents, byte for byte, on every machine, so their hashes can be compared and signed.
Everything a gateway needs is spelled out in its document, so that reading one answers what the gateway does without
knowing the defaults of the program that compiled it.
"""

from __future__ import annotations

import datetime
from typing import TypeVar

from anycast.document import (
    ANNOUNCEMENT_POLICY,
    DOCUMENT_VERSION,
    Agent,
    AlarmHook,
    Bgp,
    Canary,
    Coordinator,
    Document,
    ExecCheck,
    Interface,
    Lease,
    Pool,
    Service,
    SharedChecks,
    Timing,
    Webhook,
)
from anycast.fleet import monitoring
from anycast.fleet.compile_pair import compile_sync, compile_vrrp, neighbors_of
from anycast.fleet.pair import Attachment
from anycast.fleet.schema import Fleet, Site
from anycast.fleet.section import Prefixes, Section

S = TypeVar("S", bound=Section)


def compile_fleet(fleet: Fleet) -> dict[str, Document]:
    """The document of every gateway, by the gateway's name, in the order of the file. `fleet` comes from `loading`."""
    return {name: compile_gateway(fleet, name) for site in fleet.sites.values() for name in site.gateways}


def compile_gateway(fleet: Fleet, name: str) -> Document:
    """The document of one gateway, as generation 0 (standalone). KeyError where the fleet has no such gateway."""
    site_name = fleet.site_of(name)
    site = fleet.sites[site_name]
    gateway = site.gateways[name]
    neighbors = neighbors_of(fleet, site, gateway)
    bgp = _merged(fleet.defaults.bgp, site.bgp)
    lease = _merged(fleet.defaults.lease, site.lease)
    agent = _merged(fleet.defaults.agent, site.agent)
    return Document(
        version=DOCUMENT_VERSION,
        requires=(ANNOUNCEMENT_POLICY,) if any(each.policy is not None for each in neighbors) else (),
        fleet=fleet.fleet,
        environment=fleet.environment,
        site=site_name,
        gateway=name,
        generation=0,
        service=_service(fleet, site_name, site),
        uplink=_interface(gateway.uplink, site.uplink),
        inside=_interface(gateway.inside, site.inside),
        management=None if gateway.management is None else _interface(gateway.management, site.management),
        vrrp=compile_vrrp(fleet, site, name),
        sync=compile_sync(site, name),
        bgp=Bgp(
            asn=site.asn or 0,
            router_id=str(gateway.router_id or gateway.uplink.ipv4 or ""),
            hold_time_s=_milliseconds(bgp.hold_time) // 1000,
            run_as=bgp.run_as,
            neighbors=neighbors,
        ),
        coordinator=None
        if (coordinator := fleet.coordinator) is None
        else Coordinator(
            name=coordinator.name,
            addresses=tuple(str(coordinator.addresses.of(family)) for family in coordinator.addresses.families),
            port=coordinator.port,
            cold_start_max_age_s=coordinator.cold_start_max_age.total_seconds(),
        ),
        lease=Lease(duration_ms=_milliseconds(lease.duration), grace_ms=_milliseconds(lease.grace)),
        agent=Agent(
            metrics_listen=agent.metrics_listen,
            stop_limit_ms=_milliseconds(agent.stop_limit),
            recovery_ms=_milliseconds(agent.recovery),
            flap_threshold=agent.flap_threshold,
            log_max_bytes=agent.log_max_size,
            timings={check: _timing(timing) for check, timing in sorted(agent.timings.items())},
            exec_checks=tuple(
                ExecCheck(name=name, command=check.command, run_as=check.run_as, timing=_timing(check))
                for name, check in agent.exec.items()
            ),
            alarm_hook=_alarm_hook(agent.alarms),
        ),
    )


def _merged(defaults: S, here: S) -> S:
    """`defaults` with the keys that the site wrote itself."""
    return defaults.model_copy(update={key: getattr(here, key) for key in here.model_fields_set})


def _milliseconds(span: datetime.timedelta) -> int:
    return span // datetime.timedelta(milliseconds=1)


def _service(fleet: Fleet, site_name: str, site: Site) -> Service:
    service = fleet.service
    return Service(
        name=service.name,
        identity=service.identity,
        vips=tuple(str(service.vips.of(family)) for family in service.vips.families),
        service_addresses=()
        if (own := site.service_address) is None
        else tuple(str(own.of(family)) for family in own.families),
        prefixes=tuple(str(service.prefixes.of(family)) for family in service.prefixes.families),
        inside=tuple(str(network) for network in service.inside),
        pools=tuple(
            Pool(name=f"{name}-{family}", prefix=str(holder.of(family)))
            for name, holder in _pools(site_name, site)
            for family in holder.families
        ),
        dns=tuple(str(address) for address in service.dns),
        ike_proposals=service.ike_proposals,
        esp_proposals=service.esp_proposals,
        force_encapsulation=service.encapsulation == "forced",
        dpd_delay_s=_milliseconds(service.dpd_delay) // 1000,
        certificate=service.certificates.gateway,
        private_key=service.certificates.key,
        client_ca=service.certificates.client_ca,
        checks=_shared_checks(service.checks),
    )


def _pools(site_name: str, site: Site) -> list[tuple[str, Prefixes]]:
    return [(site_name, site.pools), *((f"{site_name}-{name}", holder) for name, holder in site.more_pools.items())]


def _shared_checks(checks: monitoring.SharedChecks) -> SharedChecks:
    canary = checks.canary
    return SharedChecks(
        dns_servers=() if checks.dns is None else tuple(map(str, checks.dns.servers)),
        reachability=tuple(map(str, checks.reachability)),
        canary=None
        if canary is None
        else Canary(
            identity=canary.identity,
            certificate=canary.certificate,
            private_key=canary.key,
            gateway_ca=canary.gateway_ca,
            targets=tuple(map(str, canary.targets)),
        ),
    )


def _timing(timing: monitoring.Timing) -> Timing:
    return Timing(
        interval_ms=None if timing.interval is None else _milliseconds(timing.interval),
        timeout_ms=None if timing.timeout is None else _milliseconds(timing.timeout),
        rise=timing.rise,
        fall=timing.fall,
    )


def _alarm_hook(hook: monitoring.AlarmHook) -> AlarmHook:
    webhook = hook.webhook
    return AlarmHook(
        command=hook.command,
        webhook=None if webhook is None else Webhook(url=webhook.url, token_file=webhook.token_file),
    )


def _interface(attachment: Attachment, subnets: Prefixes) -> Interface:
    """The attachment's addresses with the lengths of the site's subnets."""
    return Interface(
        name=attachment.interface,
        addresses=tuple(
            f"{attachment.of(family)}/{(attachment.subnet.of(family) or subnets.of(family)).prefixlen}"
            for family in attachment.families
        ),
    )
