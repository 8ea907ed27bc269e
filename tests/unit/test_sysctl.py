"""The list of kernel settings: what is rendered is what a machine is judged by, and each one exists in the kernel."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from site_agent.render.sysctl import Setting, proc_path, render_sysctl, settings
from tests.support.documents import document
from tests.unit.test_rendered_files import changed

SETTING = Setting(name="net.ipv4.conf.eth1.rp_filter", joined="net.ipv4.conf.all.rp_filter", value=2, also=(0,), reason="")


@pytest.mark.parametrize(
    ("found", "joined", "suits"), [(2, 0, True), (2, 1, True), (0, 0, True), (0, 1, False), (1, 0, False), (1, 2, True)]
)
def test_what_is_in_force_is_the_larger_of_both(found: int, joined: int, suits: bool) -> None:
    assert SETTING.suits(found, joined) is suits


def test_a_dot_in_an_interfaces_name_is_part_of_the_name() -> None:
    made = changed(document(), "uplink", "name", to="eth0.100")
    paths = {str(setting.path) for setting in settings(made)}
    assert "/proc/sys/net/ipv4/conf/eth0.100/rp_filter" in paths
    assert "net.ipv4.conf.eth0/100.rp_filter = 2\n" in render_sysctl(made)


def test_the_file_has_each_setting_once_and_nothing_else() -> None:
    made = document()
    rendered = re.findall(r"^([^#\s]\S*) = (\d+)$", render_sysctl(made), re.MULTILINE)
    assert rendered == [(setting.name, str(setting.value)) for setting in settings(made)]
    assert len(dict(rendered)) == len(rendered)


def test_the_kernel_knows_every_one() -> None:
    made = document()
    for name in {*(s.name for s in settings(made)), *(s.joined for s in settings(made) if s.joined)}:
        path = str(proc_path(name)).replace(f"/{made.uplink.name}/", "/lo/").replace(f"/{made.inside.name}/", "/lo/")
        assert Path(path).exists(), f"{name}: this kernel has no such setting"
