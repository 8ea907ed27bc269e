"""Drain, rollout and tokens through the whole path: command line, coordinator, store, TLS, and six agents' ends of it.

The coordinator runs in this process, so that its spans can be seconds; its command line is a process, as an operator's is.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path

import pytest

from anycast.content.canonical import encode
from anycast.content.content import Intent
from anycast.content.state import decode_state, in_force
from anycast.coordinator.access import Caller
from anycast.coordinator.access import Role as AccessRole
from anycast.coordinator.refusal import Refusal
from anycast.policy import rollout, tokens
from anycast.policy.plan import make, submit
from anycast.policy.rollout import Terms
from anycast.reasons import Reason
from tests.support.contents import ALICE, SITES, fleet_text
from tests.support.deciding_fleet import COORDINATED, Fleet, fleet, quick
from tests.support.fleet_looks import begun, slots, state
from tests.support.managed import running

__all__ = ["quick"]

pytestmark = pytest.mark.daemons


def test_a_drain_is_shown_signed_and_rolled_out_and_nobody_else_goes_dark(tmp_path: Path) -> None:
    async def test() -> None:
        async with fleet(tmp_path) as made:
            assert {agent.generation for agent in made.agents.values()} == {1}
            empty = await made.run("plan", str(made.file))
            assert "nothing to do" in empty.stdout, "right after an apply"

            dry = await made.run("drain", "fra", "--dry-run")
            assert "fra" in dry.stdout and "drained" in dry.stdout
            assert "clients  3 tunnels at fra: nobody is moved first" in dry.stdout
            assert made.agents["fra"].announced
            await made.run("drain", "fra", "--yes", "--bake", "1")
            await made.becomes("dark", lambda s: state(s, "fra") == "dark" and s["rollout"]["step"] == "done")
            waited = await made.run("rollout", "--wait")
            assert waited.stdout.startswith("rollout r3: done, 6 of 6 sites\nrollout r3 by alice: generation 3"), waited
            assert {site for site, agent in made.agents.items() if not agent.announced} == {"fra"}
            status = await made.ask("status")
            assert "dark 1 of 2 allowed: fra drain" in status["ledger"], status["ledger"]
            await made.run("drain", "lon", "--yes", "--bake", "1", "--reason", "fibre works & more: 100%")
            await made.becomes("two dark", lambda s: state(s, "lon") == "dark" and s["rollout"]["step"] == "done")
            refused = await made.run("drain", "nyc", "--yes", status=1)
            assert "budget wants 4" in refused.stderr
            assert made.agents["nyc"].announced

            await made.run("undrain", "fra", "--yes", "--bake", "1")
            await made.becomes("back", lambda s: state(s, "fra") == "announcing" and s["rollout"]["step"] == "done")
            await made.becomes("slot back", lambda s: "fra" not in s["ledger"])
            assert (await made.run("history", "verify")).stdout.startswith("history is whole;")
            await what_was_decided_can_be_read(made)

    asyncio.run(test())


async def what_was_decided_can_be_read(made: Fleet) -> None:
    """After a first content, drains of fra and lon, and fra's end of it."""
    begun = [line for line in (await made.ask("history"))["lines"] if line["action"] == "rollout.begin"]
    first, *later = [[(d["site"], d["key"], d["before"], d["after"]) for d in line["diff"]] for line in begun]
    assert {site for site, key, _, _ in first if key == ""} == set(SITES), "of a first content everything is new"
    drained, announced, reason = '"drained"', '"announced"', '"fibre works & more: 100%"'
    words = [("lon", "because.kind", None, '"drain"'), ("lon", "because.why", None, reason)]
    assert later == [
        [("fra", "intent", announced, drained)],
        [*words, ("lon", "intent", announced, drained)],
        [("fra", "intent", drained, announced)],
    ]
    assert [line["reason"] for line in begun] == ["", "", "fibre works & more: 100%", ""]
    shown = (await made.run("history")).stdout
    assert "lon intent: announced -> drained" in shown and "differences more: `anycast diff`" in shown

    assert (await made.run("diff", "1", "5")).stdout.splitlines()[1:] == [
        "  fra intent: announced -> drained",
        "  lon because.kind: - -> drain",
        "  lon because.why: - -> fibre works & more: 100%",
        "  lon intent: announced -> drained",
    ]
    by_hash = await made.run("diff", begun[0]["body"]["hash"][:12])
    assert by_hash.stdout.splitlines()[3:] == ["  lon intent: drained -> announced"], "from what runs"
    assert "nothing differs" in (await made.run("diff", "7", "running")).stdout
    made.file.write_text(COORDINATED.replace("capacity: 1000", "capacity: 900", 1))
    found = await made.ask("diff", str(made.file))
    told = {(d["site"], d["key"], d["before"], d["after"]) for d in found["differences"]}
    unsaid = {(site, key, after, before) for site, key, before, after in words}
    assert told == {("ams", "capacity", "1000", "900"), ("lon", "intent", drained, announced), *unsaid}, found
    why = await made.ask("why", "lon")
    assert "by root: fibre works & more: 100%" in [step["text"].partition(" (")[0] for step in why["trail"]]
    for words, status, said in (
        (("99",), 1, "99: there is no such content"),
        (("0" * 64,), 1, "there is no such content"),
        (("1", "3", "5"), 2, "two can be compared"),
        (("nonsense",), 2, "no generation, hash or fleet file"),
        (("absent.yaml",), 2, "absent.yaml"),
    ):
        refused = await made.run("diff", *words, status=status)
        assert said in refused.stderr and not refused.stdout, refused


def test_maintenance_and_degrade_have_words_and_an_end_in_the_ledger(tmp_path: Path) -> None:
    async def test() -> None:
        async with fleet(tmp_path) as made:
            words = ("--for", "2h", "--reason", "new optics", "--yes")
            await made.run("maintenance", "fra", *words, "--bake", "1")
            await made.becomes("dark", lambda s: state(s, "fra") == "dark" and s["rollout"]["step"] == "done")
            ledger = (await made.ask("status"))["ledger"]
            assert re.fullmatch(r"dark 1 of 2 allowed: fra maintenance by alice until \d\d:\d\d", ledger), ledger
            told = str(made.agents["fra"].darkness.describe()["drained"])
            assert "maintenance until 20" in told and "new optics" in told, told

            # Another word about it, and another way to be dark: the same slot.
            (slot,) = await slots(made)
            await made.run("degrade", "fra", "--prepend", "2", "--yes", "--bake", "1")
            await made.becomes("worse", lambda s: "fra degrade by alice" in s["ledger"] and s["rollout"]["step"] == "done")
            assert made.agents["fra"].announced and made.agents["fra"].worse
            (fra,) = [site for site in (await made.ask("status"))["sites"] if site["site"] == "fra"]
            assert (fra["state"], fra["why"]) == ("announcing", "degrade by alice")
            assert await slots(made) == [slot], "never two slots, and never a moment without one"
            await asyncio.sleep(2)
            assert "dark 1 of 2" in (await made.ask("status"))["ledger"], "announcing worse gives no slot back"

            await made.run("drain", "lon", "--for", "1 s", "--yes", "--bake", "1")
            await made.becomes("two", lambda s: state(s, "lon") == "dark" and s["rollout"]["step"] == "done")
            await made.becomes("overdue", lambda s: any("dark_overdue: lon drain by alice" in each for each in s["alarms"]))
            assert not made.agents["lon"].announced, "no clock ends anything"
            refused = await made.run("degrade", "nyc", "--yes", status=1)
            assert "budget wants 4" in refused.stderr, "it moves clients, so it counts"

            for site in ("lon", "fra"):
                await made.run("undrain", site, "--yes", "--bake", "1")
                await made.becomes("back", lambda s, site=site: site not in s["ledger"] and s["rollout"]["step"] == "done")
            assert not (await made.ask("status"))["alarms"]
            assert not made.agents["fra"].worse
            for words in (("--for", "tomorrow", "--reason", "x"), ("--for", "2h", "--reason", "")):
                await made.run("maintenance", "fra", *words, "--yes", status=2)

    asyncio.run(test())


def test_a_content_that_loses_clients_stops_at_the_canary_site_and_is_taken_back(tmp_path: Path) -> None:
    """Every check of the agents stays green; only what clients do tells."""

    async def test() -> None:
        async with fleet(tmp_path) as made:
            await asyncio.sleep(8)  # a baseline
            made.file.write_text(COORDINATED.replace("capacity: 1000", "capacity: 900"))
            await made.run("plan", str(made.file), "-o", str(tmp_path / "p2"), status=3)
            from anycast.content.canonical import hash_of
            from anycast.policy.plan import decode_plan

            bad = hash_of(decode_plan((tmp_path / "p2").read_bytes()).content)
            for agent in made.agents.values():
                agent.broken_by, agent.canary = bad, None
            await made.run("apply", str(tmp_path / "p2"), "--bake", "5")
            await made.becomes("stopped", lambda s: s["rollout"]["step"] == "stopped", within_s=60)
            status = await made.ask("status")
            assert "gate_failed" in status["rollout"]["reason"]
            assert len(status["rollout"]["changed"]) == 1
            assert any("decrypted" in alarm for alarm in status["alarms"])
            runs = [agent.contents.active for agent in made.agents.values()]
            assert all(active is not None and active.hash != bad for active in runs)
            assert all(agent.announced for agent in made.agents.values())

    asyncio.run(test())


def test_nobody_is_sent_to_a_site_whose_own_prefix_no_upstream_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, address = "2001:db8:f::/56", "2001:db8:f::1"
    more = {"sin": f'unicast_prefix: {{ipv6: "{own}"}}\n    service_address: {{ipv6: "{address}"}}'}
    monkeypatch.setitem(globals(), "COORDINATED", fleet_text(more=more) + COORDINATED.removeprefix(fleet_text()))
    missing = f"no upstream has {own} of sin now: clients of fra would be sent to {address} without a way"

    async def test() -> None:
        async with fleet(tmp_path) as made:
            sin, to = made.agents["sin"], ("drain", "fra", "--to", "sin")

            async def tells(own: tuple[str, ...] | None) -> None:
                sin.own = own
                sin.link.changed()
                async with asyncio.timeout(20):
                    while made.service.state().gateways["sin-gw1"].own != own:
                        await asyncio.sleep(0.05)

            refused = await made.run(*to, "--yes", status=1)
            assert f"way      {missing}\n" in refused.stdout
            assert f"refused: {missing} (--despite-unannounced --reason TEXT does it all the same)\n" in refused.stderr
            silent = await made.run(*to, "--yes", "--despite-unannounced", status=2)
            assert "--despite-unannounced wants a reason" in silent.stderr
            await tells((own,))
            assert "way " not in (await made.run(*to, "--dry-run")).stdout
            await tells(None)
            assert "way      whether sin announces" in (await made.run(*to, "--dry-run")).stdout, "said, and not refused"
            await tells(())
            assert made.agents["fra"].announced and len(await begun(made)) == 1

            await made.run(*to, "--yes", "--bake", "1", "--despite-unannounced", "--reason", "a route of our own")
            line = (await begun(made))[-1]
            assert (line["body"]["way"], line["body"]["despite"]) == ([missing], "--despite-unannounced")


def test_an_undrain_that_is_taken_back_darkens_nobody_beyond_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its slot has returned when the site announced; two others have failed since, which is all that may be dark."""
    monkeypatch.setattr(rollout, "ACTIVATE_LIMIT_S", 6.0)

    async def test() -> None:
        async with fleet(tmp_path) as made:
            await made.run("drain", "fra", "--yes", "--bake", "1", "--reason", "optics")
            await made.becomes("done", lambda s: s["rollout"]["step"] == "done")
            await made.becomes("dark", lambda s: "dark 1 of 2" in s["ledger"])
            await made.run("undrain", "fra", "--yes", "--bake", "2", "--without-evidence")
            await made.becomes("back", lambda s: s["rollout"]["step"] == "baking")
            assert (await made.ask("rollout", "pause"))["paused"]
            await made.becomes("its slot is back", lambda s: s["rollout"]["paused"] and "dark 0 of 2" in s["ledger"])
            for site in ("sin", "nyc"):
                made.agents[site].serves = False
            await made.becomes("two fail", lambda s: "dark 2 of 2" in s["ledger"])
            await made.run("rollout", "abort")
            await made.becomes("it waits", lambda s: "budget_spent" in s["rollout"]["waits_for"])
            made.agents["nyc"].serves = True
            await made.becomes("it has room", lambda s: s["rollout"]["step"] == "stopped")
            assert not made.agents["fra"].announced
            await made.becomes("in its words", lambda s: "fra drain by alice" in s["ledger"] and "2 of 2" in s["ledger"])

    asyncio.run(test())


def test_a_site_that_serves_nobody_already_stops_no_change_of_the_fleet(tmp_path: Path) -> None:
    """Its charon is gone. It takes the new content as all do, and is not waited for."""

    async def test() -> None:
        async with fleet(tmp_path) as made:
            made.agents["fra"].serves = False
            await made.becomes("dark", lambda s: [x["site"] for x in s["sites"] if x["state"] == "dark"] == ["fra"])
            await made.becomes("the first content's slots are back", lambda s: "rollout" not in s["ledger"])
            made.file.write_text(COORDINATED.replace("capacity: 1000", "capacity: 900"))
            await made.run("plan", str(made.file), "-o", str(tmp_path / "p2"), status=3)
            await made.run("apply", str(tmp_path / "p2"), "--bake", "1")
            await made.becomes("done", lambda s: s["rollout"]["step"] == "done", within_s=50)
            assert {agent.generation for agent in made.agents.values()} == {3}
            assert [name for name, agent in made.agents.items() if not agent.announced] == ["fra"]

    asyncio.run(test())


def test_what_could_be_too_much_for_another_site_is_refused_or_waits_until_somebody_says_why(tmp_path: Path) -> None:
    async def test() -> None:
        async with fleet(tmp_path) as made:
            too_many = "at worst 500 tunnels all land on nyc, which has 600 and a capacity of 1000: 100 too many"
            await tunnels(made, nyc=600)
            # Signed while fra has three tunnels; the numbers are no facts of a plan.
            await made.run("drain", "fra", "--dry-run")
            state_, contents = decode_state(encode(made.service.state().model_dump(mode="json")).encode())
            running_ = in_force(state_, contents)
            assert running_ is not None
            drained = running_.with_intent("fra", Intent.DRAINED)
            signed = submit(make(state_, contents, drained, made.service.documents().documents), ALICE)
            await tunnels(made, fra=500)
            with pytest.raises(Refusal) as caught:
                await made.service.submit(Caller("root", AccessRole.ADMIN), signed, Terms(bake_s=1.0))
            assert caught.value.problems == (
                f"fra goes dark: {too_many} (--despite-worst-case --reason TEXT does it all the same)",
            )
            refused = await made.run("drain", "fra", "--yes", status=1)
            assert f"refused: fra goes dark: {too_many} (--despite-worst-case" in refused.stderr
            silent = await made.run("drain", "fra", "--yes", "--despite-worst-case", status=2)
            assert "wants a reason" in silent.stderr
            assert made.agents["fra"].announced and len(await begun(made)) == 1

            words = ("--despite-worst-case", "--reason", "the rack burns")
            await made.run("drain", "fra", "--yes", "--bake", "1", *words)
            await made.becomes("dark", lambda s: state(s, "fra") == "dark" and s["rollout"]["step"] == "done")
            line = (await begun(made))[-1]
            assert line["reason"] == "the rack burns" and line["body"]["worst_case"] == [f"fra goes dark: {too_many}"]
            await tunnels(made, fra=3)
            await made.run("undrain", "fra", "--yes", "--bake", "1")
            await made.becomes("back", lambda s: state(s, "fra") == "announcing" and s["rollout"]["step"] == "done")

            # Clients come while the site before it bakes.
            made.file.write_text(COORDINATED.replace("interface: eth1", "interface: eth7", 2))
            await made.run("plan", str(made.file), "-o", str(tmp_path / "p2"), status=3)
            applying = asyncio.create_task(made.run("apply", str(tmp_path / "p2"), "--bake", "3"))
            async with asyncio.timeout(30):  # looked at in this process: the command still runs
                while (r := made.service.status().rollout) is None or (r.generation, r.step) != (7, "activating"):
                    await asyncio.sleep(0.01)
            await tunnels(made, fra=500)
            await applying
            await made.becomes("waits", lambda s: too_many in s["rollout"]["waits_for"])
            status = await made.ask("status")
            assert status["rollout"]["waits_for"].startswith("fra is changed: ") and status["rollout"]["step"] == "waiting"
            assert "`anycast rollout override --reason TEXT` goes on" in status["rollout"]["waits_for"]
            await asyncio.sleep(1)
            assert (await made.ask("status"))["rollout"]["site"] == "fra", "it waits"
            await made.run("rollout", "override", "--reason", "", status=1)
            await made.run("rollout", "override", "--reason", "tonight or never")
            await made.becomes("done", lambda s: s["rollout"]["step"] == "done")
            (said,) = [each for each in (await made.ask("history"))["lines"] if each["action"] == "rollout.override"]
            assert (said["reason"], said["body"]["worst_case"]) == ("tonight or never", [f"fra is changed: {too_many}"])

    asyncio.run(test())


async def tunnels(made: Fleet, **counts: int) -> None:
    """These sites' gateways count so many from now on, and the coordinator knows it."""
    for site, count in counts.items():
        made.agents[site].tunnels = count
        made.agents[site].link.changed()
    async with asyncio.timeout(10):
        while any(made.service.state().tunnels.get(site) != count for site, count in counts.items()):
            await asyncio.sleep(0.05)


def test_a_coordinator_killed_in_the_middle_of_a_drain_breaks_nothing_and_its_successor_goes_on(tmp_path: Path) -> None:
    async def test() -> None:
        made = Fleet(tmp_path)
        async with contextlib.AsyncExitStack() as first:
            service = await made.serve(first)
            port = made.files.port
            made.make_agents()
            async with running(*made.agents.values()):
                await made.becomes("heard", lambda s: len(s["sites"]) == len(SITES))
                await made.first_content()
                # A drained site is not baked: it is looked at here, in this process, while the command still runs.
                draining = asyncio.create_task(made.run("drain", "fra", "--yes", status=None))
                async with asyncio.timeout(30):
                    while (under_way := service.status().rollout) is None or under_way.step not in ("activating", "baking"):
                        await asyncio.sleep(0.01)
                await first.aclose()
                done = await draining
                assert done.returncode in (0, 3), "its answer may be lost with the coordinator"
                assert "Traceback" not in done.stderr, done
                await asyncio.sleep(3)
                dark = {site for site, agent in made.agents.items() if not agent.announced}
                assert dark <= {"fra"}
                async with contextlib.AsyncExitStack() as second:
                    await made.serve(second, port)
                    await made.becomes("done", lambda s: s["rollout"]["step"] == "done", within_s=60)
                    assert {site for site, agent in made.agents.items() if not agent.announced} == {"fra"}

    asyncio.run(test())


def test_dns_wrong_at_one_site_darkens_that_one_and_wrong_at_all_darkens_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "WINDOW_S", 3.0)
    monkeypatch.setattr(tokens, "SPACING_S", 3.0)

    async def test() -> None:
        async with fleet(tmp_path) as made:
            wrong: set[str] = set()

            async def look() -> None:
                while True:
                    for site, agent in made.agents.items():
                        agent.looks("dns", passes=site not in wrong)
                    await asyncio.sleep(0.5)

            looking = asyncio.create_task(look())
            try:
                wrong.add("sin")
                await made.becomes("a token", lambda s: state(s, "sin") == "dark", within_s=60)
                assert "sin token dns" in (await made.ask("status"))["ledger"]
                assert {site for site, agent in made.agents.items() if not agent.announced} == {"sin"}
                wrong.clear()
                await made.becomes("back", lambda s: state(s, "sin") == "announcing")
                await made.becomes("slot back", lambda s: s["ledger"].startswith("dark 0"))

                wrong.update(SITES)
                darkest = 0
                for _ in range(60):
                    await asyncio.sleep(0.2)
                    darkest = max(darkest, sum(not agent.announced for agent in made.agents.values()))
                assert darkest <= 1, "the check is blamed, not the sites"
                refused = {str(agent.darkness.describe()["token_refused"]) for agent in made.agents.values()}
                assert any(Reason.CHECK_SUSPECTED in word for word in refused), refused
            finally:
                looking.cancel()

    asyncio.run(test())
