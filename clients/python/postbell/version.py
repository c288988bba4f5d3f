"""The package's version; pyproject.toml reads it here.

The label `source` says that it was built from this repository: no public index takes a version with a label, so the pin in
agents/pyproject.toml cannot be answered by somebody else's package of this name.
"""

VERSION = "0.1.0+source"
