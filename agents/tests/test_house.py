"""The house: what is pure stays pure, agents do not import each other's jobs, files stay rooms one can know by heart."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src" / "postbell_agents"
LINES_MAX = 300

#: The modules that decide, with data and the time given: tested in microseconds.
PURE = (
    "validation/rules.py",
    "validation/statements.py",
    "remediation/fixes.py",
    "remediation/statements.py",
    "reporting/alert.py",
    "reporting/digest.py",
    "collecting/sources.py",
    "collecting/records.py",
    "collecting/state.py",
    "orchestrator/assign.py",
    "orchestrator/asked.py",
    "orchestrator/settings.py",
)
#: Each touches the world, or the clock.
IMPURE = {"threading", "time", "socket", "smtplib", "urllib.request", "http.client", "subprocess", "postbell"}
#: Beside its own folder, an agent imports these of another's: what a rule means has one place.
SHARED = {"validation.rules", "validation.statements"}
AGENTS = {"validation", "remediation", "reporting", "collecting", "orchestrator"}


def imported(file: Path) -> set[str]:
    """Modules, those of the package from its root."""
    found = set()
    here = file.relative_to(SOURCES).parent.parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*here[: len(here) - node.level + 1]] if node.level else []
            module = [*base, *(node.module or "").split(".")]
            found.add(".".join(part for part in module if part))
    return found


@pytest.mark.parametrize("name", PURE)
def test_what_is_pure_touches_nothing(name: str) -> None:
    assert not imported(SOURCES / name) & IMPURE
    assert "datetime.now(" not in (SOURCES / name).read_text()


def test_an_agent_does_not_need_another() -> None:
    for file in SOURCES.glob("*/*.py"):
        own = file.parent.name
        for module in imported(file):
            agent = module.split(".")[0]
            assert agent not in AGENTS - {own} or module in SHARED, f"{file} imports {module}"


def test_what_is_shared_knows_no_agent() -> None:
    for file in SOURCES.glob("*.py"):
        if file.name not in ("cli.py", "__main__.py"):
            assert not {module.split(".")[0] for module in imported(file)} & AGENTS, file


def test_no_file_is_too_large_to_know_by_heart() -> None:
    for file in [*SOURCES.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]:
        assert len(file.read_text().splitlines()) <= LINES_MAX, file


def test_the_library_is_this_repositorys_or_none() -> None:
    # No public index takes a version with a label after the +.
    version = (
        (Path(__file__).parents[2] / "clients/python/postbell/version.py")
        .read_text()
        .rpartition('VERSION = "')[2]
        .split('"')[0]
    )
    assert "+" in version
    assert f'"postbell=={version}"' in (Path(__file__).parents[1] / "pyproject.toml").read_text()
