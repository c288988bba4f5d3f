"""The agents' own tables, one file each, in the schema `postbell_agents`: made where they are missing, never changed.

A table that must change gets a new name; an agent of the old version goes on with the old one.
"""

from __future__ import annotations

from importlib.resources import files

from psycopg import sql

from ..database import Connection, one


def ensure(connection: Connection, name: str) -> None:
    """Makes the table of the file `NAME.sql` where it is not there; so only the first start needs the right to create."""
    if one(connection, sql.SQL("select to_regclass(%s) is not null as is_there"), [f"postbell_agents.{name}"])["is_there"]:
        return
    with connection.transaction():
        # Two agents that start together would collide in the catalog.
        connection.execute("select pg_advisory_xact_lock(hashtextextended('postbell_agents.tables', 0))")
        connection.execute("create schema if not exists postbell_agents")
        connection.execute(files(__package__).joinpath(f"{name}.sql").read_bytes())
