"""The pool of connections, on a real database."""

from __future__ import annotations

import time

import psycopg
import pytest
from support import Stage, mesh, until

from postbell_agents.database import Database
from postbell_agents.faults import Unavailable


def test_what_cannot_be_reached_is_said_at_once_with_the_reason() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none", application="test")
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"cannot be reached: .*127\.0\.0\.1"), database.connection():
            raise AssertionError("there is no such database")
    database.close()


def test_a_connection_is_used_again_and_keeps_its_timeout(stage: Stage) -> None:
    database = Database(mesh().database_url, application=stage.schema, statement_timeout_seconds=0.2)
    with database.connection() as first:
        pid = first.info.backend_pid
    with database.connection() as second:
        assert second.info.backend_pid == pid
        with pytest.raises(psycopg.errors.QueryCanceled):
            second.execute("select pg_sleep(20)")
    database.close()
    gone = "select 1 from pg_stat_activity where application_name = %s"
    until(lambda: not stage.run(gone, stage.schema), "all closed")


def test_a_connection_that_was_cut_while_it_rested_is_not_handed_out(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postbell_agents.database.TRUSTED_SECONDS", 0.0)
    database = Database(mesh().database_url, application=stage.schema)
    with database.connection() as first:
        pid = first.info.backend_pid
    stage.run("select pg_terminate_backend(%s)", pid)
    until(lambda: not stage.run("select 1 from pg_stat_activity where pid = %s", pid), "its end")
    with database.transaction() as second:
        assert second.execute("select 1 as n").fetchone() == {"n": 1}
    database.close()


def test_what_a_block_raises_is_rolled_back_and_its_connection_dropped(stage: Stage) -> None:
    stage.run("create table {schema}.t (n int)")
    database = Database(mesh().database_url, application=stage.schema)
    pids = []
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), database.transaction() as connection:
            pids.append(connection.info.backend_pid)
            connection.execute(f"insert into {stage.schema}.t values (1)")
            raise ZeroDivisionError
    assert len(set(pids)) == 2
    assert stage.column("select count(*) from {schema}.t") == [0]
    database.close()


def test_who_waits_for_a_connection_is_told_that_others_have_them(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postbell_agents.database.TAKE_WAIT_SECONDS", 0.2)
    database = Database(mesh().database_url, application=stage.schema, connections_max=1)
    began = time.monotonic()
    with database.connection(), pytest.raises(Unavailable, match="free within"), database.connection():
        raise AssertionError("there is one connection")
    assert time.monotonic() - began >= 0.2
    database.close()
