"""``python -m site_agent.vrrp FD``: see `process`."""

import sys

from site_agent.vrrp.process import main

sys.exit(main(sys.argv[1:]))
