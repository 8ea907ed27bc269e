"""The operators' side: the table of `api.py` served by aiohttp, on a unix socket for root and on TCP for credentials.

Who asks is known before anything else is looked at. The socket's own file lets in root and the coordinator's user, and both
are admin there: that is how the first credential is made. Whatever is wrong with a request ends in one sentence and leaves
the store as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping

import pydantic
from aiohttp import web

from anycast.content.canonical import encode
from anycast.coordinator import access, api
from anycast.coordinator.access import Caller, Role
from anycast.coordinator.api import ENDPOINTS, Endpoint
from anycast.coordinator.door import Door
from anycast.coordinator.failures import Failures
from anycast.coordinator.leases import DAYS_KEPT, Leases
from anycast.coordinator.openapi import openapi
from anycast.coordinator.refusal import ReadOnly, Refusal
from anycast.coordinator.rollouts import BAKE_S
from anycast.coordinator.service import Missing, Service, Taken
from anycast.coordinator.store import Conflict, Fenced
from anycast.coordinator.why import Why
from anycast.errors import AnycastError, ConfigError, DecodeError, PeerError
from anycast.model import NAME
from anycast.policy.plan import decode_submission
from anycast.policy.rollout import Terms

LEASE_DAYS = 90
REFUSED_PAUSE_S = 0.5
"""Before somebody whose credential means nothing hears so."""
BODY_LIMIT_S = 10.0
"""For a request to come whole."""
SUBMISSION_LIMIT_S = 60.0
"""The same for a fleet's documents, over a narrow way."""
READ_LIMIT_S = 30.0
"""For the other end of a stream to take a status."""
LATEST_MS = 7_258_118_400_000
"""The year 2200, in milliseconds of Unix time: no event is later, and not every larger number is a date."""
REPEAT_S = 5.0
"""A stream says at least that it lives, so that its other end notices when it does not: the command line takes one
that is silent for 10 s for gone, and in a quiet fleet nothing else comes."""

_log = logging.getLogger(__name__)


class Refused(Exception):
    """Ends a request with one sentence."""

    def __init__(self, status: int, error: str, problems: tuple[str, ...] = ()) -> None:
        self.status, self.error, self.problems = status, error, problems
        super().__init__(error)


class Rest:
    """One application for both kinds of listener."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.app = web.Application(client_max_size=api.LONGEST_SUBMISSION, middlewares=[_one_sentence])
        for each in ENDPOINTS:
            self.app.router.add_route(each.method, each.path, self._handler(each))
        self._streams: set[asyncio.Task[object]] = set()
        self.app.on_shutdown.append(self._end_streams)

    async def _end_streams(self, app: web.Application) -> None:
        """They have no end of their own: who watches would keep a coordinator that is told to stop for seconds."""
        for task in self._streams:
            task.cancel()

    def _handler(self, endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        answer = getattr(self, f"_{endpoint.name}")

        async def handle(request: web.Request) -> web.StreamResponse:
            who = await self._caller(request)
            if endpoint.role is not None and not who.may(endpoint.role, () if endpoint.per_site else None):
                raise Refused(403, f"{who.name} is {who.role}, and this is for {endpoint.role}")
            for name in request.match_info.values():
                if not NAME.fullmatch(name):
                    raise Refused(400, f"{name[:63]!r} is no name")
            arguments = {}
            if endpoint.body is not None and not endpoint.signed:
                arguments["body"] = await _body(request, endpoint.body)
            made = await answer(request, who, **arguments)
            return made if isinstance(made, web.StreamResponse) else web.json_response(text=made.model_dump_json())

        return handle

    async def _caller(self, request: web.Request) -> Caller:
        transport = request.transport
        assert transport is not None
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family == socket.AF_UNIX:
            uid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
            if uid in (0, os.geteuid()):
                return Caller("root" if uid == 0 else f"uid-{uid}", Role.ADMIN)
            raise Refused(403, "this socket is root's")
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        who = None
        if scheme.lower() == "bearer":
            with contextlib.suppress(DecodeError):
                who = await self._service.caller(*access.read_token(given.strip()))
        if who is None:
            await asyncio.sleep(REFUSED_PAUSE_S)
            raise Refused(401, "a credential is needed: `anycast access add` makes one where the coordinator runs")
        if isinstance(request.protocol, Door):
            request.protocol.know()
        return who

    async def _openapi(self, request: web.Request, who: Caller) -> web.StreamResponse:
        return web.json_response(openapi(self._service.version))

    async def _status(self, request: web.Request, who: Caller) -> api.Status:
        return self._service.status()

    async def _watch(self, request: web.Request, who: Caller) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        known = self._service.removals
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            # Whoever's credential is taken back sees no more from then on: the stream would else last as long as they like.
            with contextlib.suppress(ConnectionResetError, TimeoutError, Refused, PeerError):
                async for status in self._service.watch(REPEAT_S):
                    if known != self._service.removals:
                        known = self._service.removals
                        await self._caller(request)
                    async with asyncio.timeout(READ_LIMIT_S):
                        await response.write(b"event: status\ndata: " + status + b"\n\n")
        finally:
            self._streams.discard(task)
        return response

    async def _history(self, request: web.Request, who: Caller) -> api.History:
        asked = {name: _number(request, name) for name in ("after", "limit", "verify")}
        limit = min(asked["limit"] or api.MOST_LINES, api.MOST_LINES)
        lines, broken, (last, hash_) = await self._service.history(asked["after"], limit, verify=bool(asked["verify"]))
        found = await self._service.diffs(lines) if _number(request, "diff") else {}
        told = tuple(api.history_line(line, found.get(line.seq)) for line in lines)
        return api.History(lines=told, first_broken=broken, last=last, last_hash=hash_)

    async def _contents(self, request: web.Request, who: Caller) -> api.Contents:
        return await self._service.contents()

    async def _content(self, request: web.Request, who: Caller) -> api.KeptContent:
        return await self._service.content(request.match_info["content"])

    async def _why(self, request: web.Request, who: Caller) -> Why:
        site, gateway, at = request.match_info["site"], request.match_info.get("gateway"), _number(request, "at")
        return await self._service.why(site, gateway, min(at, LATEST_MS) / 1000 or None)

    _why_gateway = _why

    async def _state(self, request: web.Request, who: Caller) -> web.StreamResponse:
        text = encode(self._service.state().model_dump(mode="json"))
        return web.Response(text=text, content_type="application/json")

    async def _leases(self, request: web.Request, who: Caller) -> Leases:
        return await self._service.leases(min(_number(request, "days") or LEASE_DAYS, DAYS_KEPT))

    async def _failures(self, request: web.Request, who: Caller) -> Failures:
        return await self._service.failures()

    async def _documents(self, request: web.Request, who: Caller) -> api.Documents:
        return self._service.documents()

    async def _begin_rollout(self, request: web.Request, who: Caller) -> api.RolloutStatus:
        try:
            submission = decode_submission(await _read(request, api.LONGEST_SUBMISSION, SUBMISSION_LIMIT_S))
        except DecodeError as exc:
            raise Refused(400, str(exc)) from exc
        terms = Terms(
            bake_s=float(_number(request, "bake") or BAKE_S),
            blind=bool(_number(request, "blind")),
            despite=bool(_number(request, "despite_worst_case")),
            unannounced=bool(_number(request, "despite_unannounced")),
            reason=_words(request, "reason"),
        )
        return await self._service.submit(who, submission, terms)

    async def _command_rollout(self, request: web.Request, who: Caller, body: api.Command) -> api.RolloutStatus:
        return await self._service.command(who, body.word, body.reason)

    async def _recover(self, request: web.Request, who: Caller, body: api.Recover) -> api.Recovered:
        return await self._service.recover(who, body)

    async def _observed(self, request: web.Request, who: Caller, body: api.Observation) -> api.Done:
        name = request.match_info["name"]
        if who.role is not Role.ADMIN and who.name != name:
            raise Refused(403, f"{who.name} says nothing in the name of {name}")
        self._service.observed(name, body)
        return api.Done()

    async def _access(self, request: web.Request, who: Caller) -> api.Credentials:
        return await self._service.credentials()

    async def _add_access(self, request: web.Request, who: Caller, body: api.NewCredential) -> api.Secret:
        return await self._service.add_credential(who, body)

    async def _remove_access(self, request: web.Request, who: Caller) -> api.Done:
        await self._service.remove_credential(who, request.match_info["name"])
        return api.Done()


async def _body(request: web.Request, model: type[pydantic.BaseModel]) -> pydantic.BaseModel:
    text = await _read(request, api.LONGEST_BODY, BODY_LIMIT_S)
    try:
        json.loads(text)  # pydantic's own words for bad JSON give an offset and no more
        return model.model_validate_json(text)
    except (ValueError, RecursionError) as exc:
        if not isinstance(exc, pydantic.ValidationError):
            raise Refused(400, "the request is not JSON") from exc
        problems = tuple(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in exc.errors())
        raise Refused(400, "the request cannot be used", problems) from exc


async def _read(request: web.Request, longest: int, limit_s: float) -> bytes:
    """The request's body, of which never more is taken than may come."""
    too_long = Refused(413, f"the request is longer than {longest >> 10} KiB")
    if (request.content_length or 0) > longest:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(limit_s):
            async for part in request.content.iter_any():
                body += part
                if len(body) > longest:
                    raise too_long
    except TimeoutError:
        raise Refused(408, f"the request has not come whole within {limit_s:.0f} s") from None
    return bytes(body)


def _number(request: web.Request, name: str) -> int:
    text = request.query.get(name, "0")
    if not text.isascii() or not text.isdigit() or len(text) > 16 or int(text) > api.LARGEST_NUMBER:
        raise Refused(400, f"{name} is no whole number up to 2**53")
    return int(text)


def _words(request: web.Request, name: str) -> str:
    text = request.query.get(name, "")
    if len(text) > api.LONGEST_WORDS or not text.isprintable():
        raise Refused(400, f"{name} is longer than {api.LONGEST_WORDS} characters, or more than one line of text")
    return text


@web.middleware
async def _one_sentence(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as exc:
        # RFC 9110 15.5.2: who is asked for a credential is told of which kind.
        return _refusal(exc.status, exc.error, exc.problems, {"WWW-Authenticate": "Bearer"} if exc.status == 401 else {})
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        # RFC 9110 15.5.6: a method that is not allowed is answered with those that are.
        allowed = {name: exc.headers[name] for name in ("Allow",) if name in exc.headers}
        return _refusal(exc.status, f"{request.method} {request.path}: {(exc.reason or 'refused').lower()}", (), allowed)
    except ReadOnly as exc:
        return _refusal(409, str(exc))
    except Refusal as exc:
        return _refusal(409, "it is not taken", exc.problems)
    except Missing as exc:
        return _refusal(404, str(exc))
    except (Conflict, Fenced, Taken) as exc:
        return _refusal(409, str(exc))
    except (PeerError, ConfigError) as exc:
        _log.error("%s %s: %s", request.method, request.path, exc)
        return _refusal(503, str(exc))
    except AnycastError as exc:
        return _refusal(400, str(exc))


def _refusal(
    status: int, error: str, problems: tuple[str, ...] = (), headers: Mapping[str, str] | None = None
) -> web.Response:
    text = api.Refusal(error=error, problems=problems).model_dump_json()
    return web.json_response(text=text, status=status, headers=headers)
