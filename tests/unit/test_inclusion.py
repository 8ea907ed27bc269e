"""What is needed of an operator's own files: found where it is missing, and nothing is written."""

from __future__ import annotations

from pathlib import Path

from site_agent.inclusion import needs
from site_agent.paths import Paths
from site_agent.rendering import mask


def test_each_need_is_found_and_met(tmp_path: Path) -> None:
    ours = tmp_path / "etc/site-agent"
    for folder in ("etc/sysctl.d", "etc/apparmor.d/local", "etc/systemd/system/multi-user.target.wants", "etc/site-agent"):
        (tmp_path / folder).mkdir(parents=True)
    paths = Paths(etc_dir=ours)
    assert [need.met for need in needs(paths, tmp_path)] == [False], "only sysctl.d on a machine without the others"
    (ours / "sysctl.conf").write_text("")
    (tmp_path / "etc/sysctl.d/60-site-agent.conf").symlink_to(ours / "sysctl.conf")
    (tmp_path / "etc/nftables.conf").write_text(f'flush ruleset\n# include "{ours}/nftables.conf"\n')
    (tmp_path / "etc/apparmor.d/usr.lib.ipsec.charon").write_text("")
    unit = tmp_path / "etc/systemd/system/multi-user.target.wants/strongswan.service"
    unit.symlink_to("/lib/systemd/system/strongswan.service")
    sysctl, nftables, apparmor, charon = needs(paths, tmp_path)
    assert (sysctl.met, nftables.met, apparmor.met, charon.met) == (True, False, False, False)
    assert charon.mend == "systemctl disable --now strongswan.service"
    (tmp_path / "etc/nftables.conf").write_text(f'flush ruleset\ninclude "{ours}/nftables.conf"\n')
    (tmp_path / "etc/apparmor.d/local/usr.lib.ipsec.charon").write_text(f"{ours}/** r,\n")
    unit.unlink()
    assert [need.met for need in needs(paths, tmp_path)] == [True, True, True]


def test_a_changed_key_shows_as_another_number_and_equal_keys_as_one() -> None:
    line = 'md5-password "%s";'
    assert mask(line % "b25l", line % "b25l") == (line % "(key 1, not shown)", line % "(key 1, not shown)")
    assert mask(line % "b25l", line % "dHdv") == (line % "(key 1, not shown)", line % "(key 2, not shown)")
