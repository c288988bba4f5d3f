"""The tests of the package: `pytest`, or `python3 -m unittest`, in the folder above."""

import logging
import os

# The tests provoke what an agent logs of its own accord; the loop would complain of subprocesses that block it.
logging.getLogger("postbell").setLevel(logging.CRITICAL)
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

# Nor are they whoever runs the tests.
for name in [name for name in os.environ if name.startswith("POSTBELL_") or name == "ENVIRONMENT"]:
    if name not in ("POSTBELL_BIN", "POSTBELL_TEST_PG", "POSTBELL_TEST_REQUIRE"):
        del os.environ[name]
