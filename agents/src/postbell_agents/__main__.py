"""`python -m postbell_agents validation --config …`."""

import sys

from .cli import main

sys.exit(main())
