"""A fleet's lab as one picture (SVG 1.1): clients above, the transit below them as a bar, then a band a site.

Drawn 480 units wide and as high as the fleet is long, so its letters are 10 pixels high on 400 and 32 on 1,280. It is read
without colour, too: who is off has dashes, who is Active a heavy frame, a dead cable a cross, a way its clients'
letters. No script, no font, no reference to anything outside the file. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from anycast.fleet.schema import Fleet, Site
from anycast_lab.picture.facts import Live, Seen
from anycast_lab.topology import Link, Topology

WIDTH, EDGE, LETTERS = 480, 10, 12
_LINE, _PAD = 15, 6
"""From one line of text to the next, and around them."""
_CLIENT_TOP, _ROOM = 34, 34
"""Where the first row begins; what is left between two rows for their cables."""
_SPINE, _INDENT = 20, 14
_COLUMNS = {"upstream": (40, 96), "outside": (150, 6), "gateway": (172, 150), "inside": (338, 6), "server": (360, 110)}
"""Left edge and width."""
_CHARACTER = 6.6
"""The greatest mean width of a letter of 12 in a sans serif font: what is wider is shortened."""
_DARK, _LIGHT, _OFF = "#1f1f1f", "#f4f7fb", "#e4e4e4"
_FILLS = {"client": "#fdf3dc", "nat": "#fdf3dc", "transit": "#dfe7f3", "upstream": "#dfe7f3", "server": "#ececec"}
_GOOD, _BAD = "#dff0df", "#f6dcdc"


@dataclasses.dataclass(frozen=True, slots=True)
class Box:
    """A machine's place."""

    x: float
    y: float
    w: float
    h: float
    kind: str

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + self.w / 2, self.y + self.h / 2


def draw(topology: Topology, fleet: Fleet, live: Live | None = None) -> str:
    """The whole file; with `live` what is so at one moment, without it the same bytes for the same topology and fleet."""
    return _Picture(topology, fleet, live).text()


class _Picture:
    def __init__(self, topology: Topology, fleet: Fleet, live: Live | None) -> None:
        self.topology, self.fleet, self.live = topology, fleet, live
        self.boxes = dict[str, Box]()
        self.bands = dict[str, float]()
        """By site: the top of its band."""
        self.height = 0.0
        self._place()
        self.letters = {name: chr(ord("A") + i % 26) for i, name in enumerate(self._clients())}

    # Places.

    def _clients(self) -> list[str]:
        lab = self.fleet.lab
        return [] if lab is None else [name for name in lab.connected if name in self.topology.nodes]

    def _heads(self) -> list[str]:
        """What the clients' side hangs on: the transit and its peers, or the plain routers where no site speaks BGP."""
        lab = self.fleet.lab
        assert lab is not None
        return list(lab.carriers or lab.routers)

    def _place(self) -> None:
        lab = self.fleet.lab
        assert lab is not None
        top = float(_CLIENT_TOP)
        clients = self._clients()
        high = _high(3 if self.live else 2)
        step = (WIDTH - 2 * EDGE) / max(1, len(clients))
        for i, name in enumerate(clients):
            self.boxes[name] = Box(EDGE + i * step + 4, top, min(step - 8, 150), high, "client")
        top += high + _ROOM
        if lab.nat:
            for name in lab.nat:
                mine = [self.boxes[c] for c in clients if lab.connected[c].behind == name]
                x, end = (mine[0].x, mine[-1].x + mine[-1].w) if mine else (EDGE, EDGE + 150.0)
                self.boxes[name] = Box(x, top, end - x, _high(1), "nat")
            top += _high(1) + _ROOM
        heads = self._heads()
        if lab.peers:  # one below the other, each a bit further in, so that the spine of the upper one passes
            for i, name in enumerate(heads):
                x = EDGE + i * _INDENT
                self.boxes[name] = Box(x, top + i * (_high(1) + 8), WIDTH - EDGE - x, _high(1), "transit")
            top += (len(heads) - 1) * (_high(1) + 8)
        else:
            step = (WIDTH - 2 * EDGE) / max(1, len(heads))
            for i, name in enumerate(heads):
                self.boxes[name] = Box(EDGE + i * step, top, step - (0 if len(heads) == 1 else 8), _high(1), "transit")
        top += _high(1) + 12
        for name, site in self.fleet.sites.items():
            self.bands[name] = top
            top = self._place_site(name, site, top + 22) + 14
        rest = [n for n in self.topology.nodes if n not in self.boxes]
        for name in rest:
            self.boxes[name] = Box(EDGE, top, WIDTH - 2 * EDGE, _high(2), "other")
            top += _high(2) + 10
        self.height = top + 4

    def _place_site(self, name: str, site: Site, top: float) -> float:
        lab = self.fleet.lab
        assert lab is not None
        lines = 4 if self.live else 1
        columns = {
            "upstream": [lab.machine_of(u) for u in site.upstreams],
            "gateway": list(site.gateways),
            "server": [s for s, server in lab.servers.items() if server.site == name],
        }
        row = _high(lines) + 16
        bottom = top + row * max(1, *(len(found) for found in columns.values())) - 16
        for kind, found in columns.items():
            x, w = _COLUMNS[kind]
            for i, node in enumerate(n for n in found if n in self.topology.nodes and n not in self.boxes):
                # What stands alone in its column stands in its middle.
                y = (top + bottom - _high(lines)) / 2 if len(found) == 1 else top + i * row
                high = _high(lines) if kind == "gateway" else _high(1)
                self.boxes[node] = Box(x, y + (_high(lines) - high) / 2, w, high, kind)
        for node, switch in lab.switches.items():
            if switch.site == name and node in self.topology.nodes and switch.side in ("uplink", "inside"):
                x, w = _COLUMNS["outside" if switch.side == "uplink" else "inside"]
                self.boxes[node] = Box(x, top - 2, w, bottom - top + 4, "switch")
        return bottom

    # Lines.

    def text(self) -> str:
        said = f"Lab {self.topology.name}" + (f", {self.live.at}" if self.live else "")
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height:g}" width="100%"'
            f' font-family="sans-serif" font-size="{LETTERS}" fill="{_DARK}">',
            f"<title>{escape(said)}</title>",
            f'<rect width="{WIDTH}" height="{self.height:g}" fill="#ffffff"/>',
            f'<text x="{EDGE}" y="20" font-weight="bold">{escape(said)}</text>',
        ]
        for name, top in self.bands.items():
            lines.append(f'<line x1="{EDGE}" y1="{top:g}" x2="{WIDTH - EDGE}" y2="{top:g}" stroke="#c8c8c8"/>')
            lines.append(f'<text x="{EDGE + 30}" y="{top + 15:g}" font-weight="bold">{escape(self._site_line(name))}</text>')
        for cable in self.topology.links:
            lines += self._cable(cable)
        for name, box in self.boxes.items():
            lines += self._machine(name, box)
        for cable in self.topology.links:  # above the machines: some stand close together
            lines += self._mark(cable)
        return "\n".join([*lines, "</svg>", ""])

    def _site_line(self, name: str) -> str:
        site = self.fleet.sites[name]
        asn = f", AS {site.asn}" if site.asn is not None else ""
        outside = site.vrrp.outside if site.vrrp is not None else None
        shared = f", VRRP {outside.of(outside.families[0])}" if outside is not None else ""
        return _cut(f"site {name}{asn}{shared}", WIDTH - 2 * EDGE - 30)

    def _points(self, cable: Link) -> list[tuple[float, float]]:
        """Nothing for a cable that is said in words in its machine's box."""
        a, b = (self.boxes[end.node] for end in cable.ends())
        return [] if "other" in (a.kind, b.kind) else _path(a, b)

    def _dead(self, cable: Link) -> bool:
        return self.live is not None and cable in self.live.dead

    def _users(self, cable: Link) -> str:
        ways = self.live.ways if self.live is not None else {}
        return "".join(sorted({self.letters[client] for client, way in ways.items() if cable in way.cables}))

    def _cable(self, cable: Link) -> Iterator[str]:
        if points := self._points(cable):
            path = " ".join(f"{x:g},{y:g}" for x, y in points)
            look = 'stroke="#555555"'
            if self._dead(cable):
                look += ' stroke-dasharray="3 3"'
            elif self._users(cable):
                look = 'stroke="#1b5faa" stroke-width="3"'
            yield f'<polyline points="{path}" fill="none" {look}/>'

    def _mark(self, cable: Link) -> Iterator[str]:
        if not (points := self._points(cable)):
            return
        x, y = _halfway(points)
        if self._dead(cable):
            yield f'<text x="{x:g}" y="{y + 5:g}" text-anchor="middle" font-size="16" font-weight="bold">×</text>'
        elif users := self._users(cable):
            word = _cut(users, 40)
            wide = 6 + 8 * len(word)
            frame = f'x="{x - wide / 2:g}" y="{y - 8:g}" width="{wide}" height="16"'
            yield f'<rect {frame} rx="8" fill="#ffffff" stroke="#1b5faa"/>'
            yield f'<text x="{x:g}" y="{y + 4:g}" text-anchor="middle" font-weight="bold">{escape(word)}</text>'

    def _machine(self, name: str, box: Box) -> Iterator[str]:
        state = self.live.states.get(name, "on") if self.live else "on"
        seen = self.live.gateways.get(name) if self.live else None
        fill = _OFF if state != "on" else _shade(box.kind, seen)
        dashes = "" if state == "on" else ' stroke-dasharray="5 3"'
        heavy = 3 if seen is not None and seen.role == "active" else 1
        place = f'x="{box.x:g}" y="{box.y:g}" width="{box.w:g}" height="{box.h:g}"'
        if box.kind == "switch":
            yield f'<rect {place} fill="#777777"><title>{escape(name)}: a switch</title></rect>'
            return
        yield f'<rect {place} rx="4" fill="{fill}" stroke="{_DARK}" stroke-width="{heavy}"{dashes}/>'
        for i, line in enumerate(self._says(name, box, state, seen)):
            weight = ' font-weight="bold"' if i == 0 else ""
            text = escape(_cut(line, box.w - 2 * _PAD))
            yield f'<text x="{box.x + _PAD:g}" y="{box.y + _PAD + 10 + i * _LINE:g}"{weight}>{text}</text>'

    def _says(self, name: str, box: Box, state: str, seen: Seen | None) -> Sequence[str]:
        word = name if state == "on" else f"{name}: {state}"
        if box.kind == "client":
            behind = self.fleet.lab.connected[name].behind if self.fleet.lab is not None else ""
            lines = [f"{self.letters[name]}  {word}", f"behind {behind}"]
            if self.live is not None:
                way = self.live.ways.get(name)
                lines.append("asks nobody" if way is None else f"→ {way.last}" if way.arrived else f"✗ ends at {way.last}")
            return lines
        if box.kind == "gateway" and seen is not None:
            if state != "on":
                return [word]
            return [f"{word} {seen.role.capitalize()}".strip(), seen.says, seen.reason, seen.routes]
        if box.kind == "other":
            peers = [end.node for cable in self.topology.links_of(name) for end in cable.ends() if end.node != name]
            return [word, "cables to " + ", ".join(dict.fromkeys(peers))]
        return [word]


def _shade(kind: str, seen: Seen | None) -> str:
    if seen is not None:
        return _GOOD if seen.says == "serving" else _BAD
    return _FILLS.get(kind, _LIGHT)


def _high(lines: int) -> int:
    return 2 * _PAD + lines * _LINE - 2


def _cut(text: str, width: float) -> str:
    """As much of `text` as fits."""
    room = max(1, int(width / _CHARACTER))
    return text if len(text) <= room else text[: room - 1] + "…"


def _path(a: Box, b: Box) -> list[tuple[float, float]]:
    """A cable's corners: up and down above the sites, along the spine from the transit, and from column to column."""
    if a.y > b.y or (a.y == b.y and a.x > b.x):
        a, b = b, a
    ax, by = a.middle[0], b.middle[1]
    if a.kind == "transit":
        return [(a.x + _SPINE - EDGE, a.y + a.h), (a.x + _SPINE - EDGE, by), (b.x, by)]
    if a.kind in ("client", "nat") or a.x == b.x:
        return [(ax, a.y + a.h), (ax, b.y)]
    if a.x > b.x:
        a, b = b, a
    left, right = a.x + a.w, b.x
    # To a switch, which is a bar as high as the band, a cable goes straight.
    y1, y2 = a.middle[1], b.middle[1]
    if "switch" in (a.kind, b.kind):
        y = y2 if a.kind == "switch" else y1
        return [(left, y), (right, y)]
    x = (left + right) / 2
    return [(left, y1), (x, y1), (x, y2), (right, y2)]


def _halfway(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The middle of the last stretch: there no two cables run along each other."""
    (ax, ay), (bx, by) = points[-2:]
    return (ax + bx) / 2, (ay + by) / 2
