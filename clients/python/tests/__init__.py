"""The tests of the package: `pytest`, or `python3 -m unittest`, in the folder above."""

import logging

# What an agent logs of its own accord is what the tests provoke; the loop would complain of subprocesses that block it.
logging.getLogger("postbell").setLevel(logging.CRITICAL)
logging.getLogger("asyncio").setLevel(logging.CRITICAL)
