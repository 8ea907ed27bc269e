"""One offer or activation judged by what lies on the disk, and what follows put there: in a process of its own where it is
large.

To read the content of 500 sites with 200 prefixes each holds the interpreter for 150 ms and more, again and again, and no
thread gets in between: JSON and pydantic do it in one piece. A lease is renewed every sixth of it (167 ms). So what is
longer than `SMALL` is judged by a child, which ends with its work; what is small, as any fleet of some ten sites is, costs
less in a thread than a process costs to start. Either way it is `judge`, and what comes back is what one gateway goes by.

The child is told what to do on its standard input, comes after everything that holds the lease, and ends with the agent.
One that is ended in the middle leaves the record before it or after it, as an agent would; the coordinator says it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import sys
from pathlib import Path

import pydantic

from anycast.content.record import Record
from anycast.errors import AnycastError, ConfigError, DecodeError, PeerError
from anycast.link_offer import unframed
from anycast.operators_file import OperatorsFile
from anycast.policy import acceptance
from anycast.policy.acceptance import Identity, Refusal
from anycast.reasons import Reason
from site_agent import content_store, priority
from site_agent.checks.exec import SETPRIV
from site_agent.content_brief import Known, known
from site_agent.socket_child import ROOTS

SMALL = 256 * 1024
"""Bytes of the message and of the record: below it is judged in a few milliseconds."""
LIMIT_S = 60.0
"""For a child, on a machine that has other things to do."""
FAREWELL_S = 1.0


class Kind(enum.StrEnum):
    OFFER = "offer"
    FRAME = "frame"
    """An offer as it came over the link, unread."""
    ACTIVATION = "activation"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Whose record lies where, and what it is asked."""

    me: Identity
    record: Path
    operators: Path
    kind: Kind
    data: bytes = b""
    """The message; a child reads it behind all else."""

    @property
    def size(self) -> int:
        """Bytes that have to be read."""
        try:
            return len(self.data) + self.record.stat().st_size
        except OSError:
            return len(self.data)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What lies on the disk now, and what is wrong with what came."""

    known: Known
    refused: str = ""
    """The refusal, its word first; empty where it was taken, or was there already."""
    reason: Reason | None = None
    """The alarm that stands because of it."""


_WORK = pydantic.TypeAdapter(Work)
_OUTCOME = pydantic.TypeAdapter(Outcome)


def judge(work: Work) -> Outcome:
    """Return when the disk has it. Raises DecodeError where what lies there already cannot be believed."""
    before = content_store.load(work.record)
    try:
        operators = OperatorsFile(work.operators).read()
    except ConfigError as exc:
        return _refused(work, before, f"{Refusal.UNTRUSTED}: {exc}")
    try:
        data = unframed(work.data) if work.kind is Kind.FRAME else work.data
    except DecodeError as exc:
        return _refused(work, before, f"{Refusal.MALFORMED}: {exc}")
    judged = acceptance.activate if work.kind is Kind.ACTIVATION else acceptance.offer
    answer = judged(before, work.me, operators, data)
    if answer.record is not before:
        try:
            content_store.store(work.record, answer.record)
        except AnycastError as exc:
            return _refused(work, before, f"not stored: {exc}")
    return Outcome(known=known(answer.record, work.me.site), refused=answer.detail, reason=answer.reason)


def _refused(work: Work, record: Record, why: str) -> Outcome:
    return Outcome(known=known(record, work.me.site), refused=why, reason=Reason.CONTENT_REFUSED)


class Judge:
    """Of one agent: one judgement at a time. Use from the event loop's thread."""

    def __init__(self) -> None:
        self._last: asyncio.subprocess.Process | None = None

    async def judged(self, work: Work) -> Outcome:
        """`judge`, where it delays nothing. Raises AnycastError where it could not be done, and then nothing was."""
        # One that a dead disk holds does not even die of SIGKILL: it may still write the record, and many would fill the
        # memory.
        if self._last is not None and self._last.returncode is None:
            raise PeerError("the judge of contents", "the one before was killed and has not ended")
        if await asyncio.to_thread(lambda: work.size) <= SMALL:
            return await asyncio.to_thread(judge, work)
        told, status, complaint = await self._in_child(_WORK.dump_json(dataclasses.replace(work, data=b"")), work.data)
        try:
            if status == 0:
                return _OUTCOME.validate_json(told)
        except pydantic.ValidationError as exc:
            raise PeerError("the judge of contents", "says what means nothing") from exc
        raise PeerError("the judge of contents", complaint or f"ended with {status}")

    async def _in_child(self, head: bytes, data: bytes) -> tuple[bytes, int | None, str]:
        """What it says, its exit status, and the last line that it complained in."""
        program = (sys.executable, "-m", "site_agent.content_judge")
        command = (SETPRIV, "--pdeathsig=KILL", *priority.ordinary_prefix(), *program)
        try:
            child = self._last = await asyncio.create_subprocess_exec(
                *command, env={"PYTHONPATH": ROOTS, "LANG": "C.UTF-8"}, cwd="/", start_new_session=True,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        except OSError as exc:
            raise PeerError("the judge of contents", f"cannot be started: {exc.strerror}") from exc
        try:
            async with asyncio.timeout(LIMIT_S):
                told, complaint = await child.communicate(head + b"\n" + data)
        except TimeoutError:
            raise PeerError("the judge of contents", f"took longer than {LIMIT_S:g} s") from None
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(FAREWELL_S):
                        await child.wait()
        return told, child.returncode, complaint.decode(errors="replace").strip().rpartition("\n")[2]


def main() -> int:
    """The child."""
    head, _, data = sys.stdin.buffer.read().partition(b"\n")
    work = dataclasses.replace(_WORK.validate_json(head), data=data)
    try:
        sys.stdout.buffer.write(_OUTCOME.dump_json(judge(work)))
    except AnycastError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
