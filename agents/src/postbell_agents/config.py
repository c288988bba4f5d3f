"""Configuration files: TOML, each value asked for by name and type, each fault named by file and key.

A key that nobody asked for is a fault too: a misspelt bound must not be a bound that is not there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from .faults import ConfigFault

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T", int, float)

#: A string that begins so is the name of an environment variable: secrets do not belong in files.
FROM_ENVIRONMENT = "env:"


class Section:
    """A table of the file."""

    def __init__(self, values: Mapping[str, Any], path: str, environ: Mapping[str, str] = os.environ) -> None:
        self._values = dict(values)
        self._path = path
        self._environ = environ
        self._asked: set[str] = set()
        self._sections: list[Section] = []

    def fault(self, key: str, sentence: str) -> NoReturn:
        """Raises what is wrong with a key."""
        raise ConfigFault(f"{self._path}{key}: {sentence}")

    def has(self, key: str) -> bool:
        """Whether it is there."""
        return key in self._values

    def is_table(self, key: str) -> bool:
        """Whether what is there is a table."""
        return isinstance(self._values.get(key), dict)

    def _take(self, key: str) -> Any:
        self._asked.add(key)
        return self._values.get(key)

    def text_or_none(self, key: str) -> str | None:
        """A string, read from the environment where it says `env:NAME`."""
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self.fault(key, f"must be a string, not {value!r}")
        return self._resolved(key, value)

    def _resolved(self, key: str, value: str) -> str:
        if not value.startswith(FROM_ENVIRONMENT):
            return value
        name = value.removeprefix(FROM_ENVIRONMENT)
        found = self._environ.get(name)
        if not found:
            self.fault(key, f"the environment variable {name} is not set")
        return found

    def text(self, key: str, default: str | None = None) -> str:
        """The same, which must be there where there is no default."""
        value = self.text_or_none(key)
        if value is None:
            value = default
        return value if value is not None else self.fault(key, "is missing")

    def choice(self, key: str, of: tuple[str, ...], default: str | None = None) -> str:
        """One of these words."""
        value = self.text(key, default)
        return value if value in of else self.fault(key, f"must be one of {', '.join(of)}, not {value!r}")

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._take(key)
        if value is None:
            return default
        return value if isinstance(value, bool) else self.fault(key, f"must be true or false, not {value!r}")

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number within bounds."""
        value = self._take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fault(key, f"must be a whole number from {low} to {high}, not {value!r}")
        return value

    def seconds(self, key: str, default: float, low: float, high: float) -> float:
        """A duration within bounds."""
        value = self._take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            self.fault(key, f"must be a number of seconds from {low:g} to {high:g}, not {value!r}")
        return float(value)

    def texts(self, key: str, default: tuple[str, ...] | None = ()) -> tuple[str, ...]:
        """Strings, or one."""
        value = self._take(key)
        if value is None:
            return default if default is not None else self.fault(key, "is missing")
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(one, str) and one for one in values):
            self.fault(key, f"must be a list of strings, not {value!r}")
        return tuple(values)

    def mapping(self, key: str) -> dict[str, str]:
        """Names to strings, each of which may be `env:NAME`."""
        value = self._take(key)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            self.fault(key, f"must be a table of strings, not {value!r}")
        return {name: self._resolved(f"{key}.{name}", one) for name, one in value.items()}

    def anything(self, key: str) -> Any:
        """A value of any type, to be compared with a column; None where it is not there."""
        value = self._take(key)
        if isinstance(value, (list, dict)):
            self.fault(key, "must be a single value")
        return value

    def section(self, key: str) -> Section:
        """A table; empty where it is not there."""
        value = self._take(key)
        if not isinstance(value or {}, dict):
            self.fault(key, "must be a table")
        return self._inner(value or {}, f"{self._path}{key}.")

    def sections(self, key: str) -> list[Section]:
        """An array of tables, `[[key]]`."""
        value = self._take(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            self.fault(key, f"must be an array of tables: [[{key}]]")
        return [self._inner(one, f"{self._path}{key}[{_label(one, n)}].") for n, one in enumerate(value, 1)]

    def _inner(self, values: Mapping[str, Any], path: str) -> Section:
        inner = Section(values, path, self._environ)
        self._sections.append(inner)
        return inner

    def finish(self) -> None:
        """Every key was asked for; raises the first that was not."""
        for key in self._values:
            if key not in self._asked:
                self.fault(key, f"is not known here; known are {', '.join(sorted(self._asked))}")
        for inner in self._sections:
            inner.finish()


def _label(values: Mapping[str, Any], number: int) -> str:
    name = values.get("name")
    return name if isinstance(name, str) else str(number)


def read(path: Path, environ: Mapping[str, str] = os.environ) -> Section:
    """The file's outermost table."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise ConfigFault(f"{path} cannot be read: {fault.strerror}") from fault
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise ConfigFault(f"{path} is no TOML: {fault}") from fault
    return Section(values, f"{path}: ", environ)
