"""``python -m site_agent.sync FD``: see `process`."""

import sys

from site_agent.sync.process import main

sys.exit(main(sys.argv[1:]))
