"""What the vrrp process tells its agent unasked of the other gateway, because the route depends on it."""

from __future__ import annotations

import time

import pytest

from tests.support.namespace import in_namespace
from tests.support.vrrp_pair import KEYS, Lan, wait

pytestmark = [pytest.mark.root, pytest.mark.alone]

LOADED_S = 0.5


@in_namespace
def test_an_unfit_backup_tells_of_the_actives_silence_at_once_and_never_while_it_is_heard() -> None:
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        backup.priority = 0
        active.wait("hears that it is unfit", lambda status: status.peer == "unfit")
        wait(lambda: backup.status and backup.answers[-1].peer_active, "it has told of the Active")
        active.granting = backup.granting = False  # whatever they say now, nobody has asked for; a grant lasts a second
        active.grant()
        backup.priority = 100
        backup.grant()
        wait(lambda: active.status and active.answers[-1].peer == "fit", "and has told so", within=0.8)
        active.granting = True
        backup.priority = 0
        asked_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        backup.grant()
        wait(lambda: backup.status and backup.answers[-1].until_ns >= asked_ns + 10**9, "it has answered this grant")
        assert backup.answers[-1].peer_active, "it hears the Active"
        told = len(backup.answers)
        time.sleep(0.8)  # twice Active_Down_Interval at priority 0
        assert backup.status is not None and backup.answers[told:] == [], "nothing has changed"
        told = len(backup.answers)
        killed_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        active.child.kill()
        wait(lambda: backup.status and len(backup.answers) > told, "it speaks unasked")
        assert not backup.answers[told].peer_active
        assert 0.2 < (backup.answers[told].at_ns - killed_ns) / 1e9 < 0.4 + LOADED_S, (
            "Active_Down_Interval"
        )


@in_namespace
def test_a_successor_says_that_it_listens_until_it_has_heard_somebody_or_could_have() -> None:
    with Lan() as lan:
        active, backup = lan.pair(keys=KEYS)
        backup.child.kill()
        again = lan.start(backup.n, backup.plan, granting=False)
        again.priority = 0
        again.grant()
        wait(lambda: again.status and again.answers, "it acts on its first grant")
        first = again.answers[0]
        assert first.listening == (first.peer == "silent"), "a heard one needs no more listening"
        wait(lambda: again.status and again.answers[-1].peer_active, "it has heard the Active, and says so unasked")
        assert not again.answers[-1].listening
        active.child.kill()
        wait(lambda: again.status and again.answers[-1].peer == "silent", "nobody is there")
        assert not again.answers[-1].listening
