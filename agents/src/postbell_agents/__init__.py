"""Agents of a Postbell mesh that do a real job on a Postgres database.

Each folder is one agent: its rules (pure), its statements, and the job that brings both together. These modules are shared:
`config` (files), `database` (connections), `alerts` and `metrics` (rows that the mesh shows), `runtime` (how an agent lives).
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("postbell-agents")
except PackageNotFoundError:  # Run from the source tree.
    __version__ = "0"
