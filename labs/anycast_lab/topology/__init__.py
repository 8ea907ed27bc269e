"""A containerlab topology file, read strictly: the part of the format that `linux` nodes, bridges and their links need.

containerlab itself reads the same files. Where it would do something that the embedded runner cannot, this loader refuses
the key by name instead of ignoring it, because a lab that silently differs between the two runners proves nothing. What
both read, they read alike: containerlab's own loader (`labs/tools/load`) is asked by the tests.

    variables.py    environment and magic variables        inheritance.py  defaults, kinds, groups, nodes → nodes
    walker.py       YAML with lines                        links.py        brief and extended links
    definitions.py  one level's keys                       stages.py       what waits for what
    model.py        the result
"""

from anycast_lab.topology.definitions import NAME
from anycast_lab.topology.document import load
from anycast_lab.topology.links import DEFAULT_MTU
from anycast_lab.topology.model import STAGES, Bind, Dummy, Endpoint, Link, Node, Topology, Wait

__all__ = ["DEFAULT_MTU", "NAME", "STAGES", "Bind", "Dummy", "Endpoint", "Link", "Node", "Topology", "Wait", "load"]
