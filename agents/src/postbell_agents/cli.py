"""The commands. Exit status: 0 it worked, 1 it did not, 64 the command line or the configuration is wrong."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg
from postbell import Invalid, PostbellError

from . import __version__, config, runtime
from .faults import ConfigFault, Fault, sentence
from .job import Job

EXIT_FAILED = 1
EXIT_USAGE = 64

KINDS = ("validation", "remediation", "reporting", "collecting", "orchestrator")


class Parser(argparse.ArgumentParser):
    """As everywhere in Postbell, a wrong command line is 64."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Says what is wrong."""
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m postbell_agents KIND …`."""
    parser = Parser(prog="postbell_agents", description="Agents of a Postbell mesh that do a real job.")
    parser.add_argument("kind", choices=KINDS)
    _options(parser)
    given = parser.parse_args(arguments)
    return _start(given.kind, given)


def _command(kind: str) -> Callable[[], int]:
    def command() -> int:
        parser = Parser(prog=f"postbell-{kind}", description=f"The {kind} agent of a Postbell mesh.")
        _options(parser)
        return _start(kind, parser.parse_args())

    return command


validation, remediation, reporting, collecting, orchestrator = (_command(kind) for kind in KINDS)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="the TOML file; see agents/examples")
    parser.add_argument("--once", action="store_true", help="handle what waits, do the job, leave: for scheduled jobs")
    parser.add_argument("--failures-ok", action="store_true", help="with --once: exit with 0 though messages failed")
    parser.add_argument("--check", action="store_true", help="read the configuration, and leave")
    parser.add_argument("--verbose", action="store_true", help="log every step")
    parser.add_argument("--version", action="version", version=__version__)


def _start(kind: str, given: argparse.Namespace) -> int:
    level = logging.DEBUG if given.verbose else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        file = config.read(given.config)
        job = _job(kind, file)
        file.finish()
        if given.check:
            return 0
        return 0 if runtime.run(job, once=given.once, failures_ok=given.failures_ok) else EXIT_FAILED
    except (ConfigFault, Invalid) as fault:
        print(f"postbell-{kind}: {fault}", file=sys.stderr)
        return EXIT_USAGE
    except (Fault, PostbellError, psycopg.Error) as fault:
        print(f"postbell-{kind}: {sentence(fault)}", file=sys.stderr)
        return EXIT_FAILED


def _job(kind: str, file: config.Section) -> Job:
    # Only what is asked for is imported: an agent starts in a scheduled job, where a second counts.
    if kind == "validation":
        from .validation.agent import Validation

        return Validation.of(file)
    if kind == "remediation":
        from .remediation.agent import Remediation

        return Remediation.of(file)
    if kind == "reporting":
        from .reporting.agent import Reporting

        return Reporting.of(file)
    if kind == "collecting":
        from .collecting.agent import Collecting

        return Collecting.of(file)
    from .orchestrator.agent import Orchestrator

    return Orchestrator.of(file)
