"""Files that are wrong are told apart, by file and key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from postbell_agents import cli, config
from postbell_agents.config import Section
from postbell_agents.database import Table, columns, table
from postbell_agents.faults import ConfigFault


def section(**values: Any) -> Section:
    return Section(values, "file: ", {"SECRET": "s3"})


def test_values_come_with_their_types_and_secrets_from_the_environment() -> None:
    of = section(a="x", n=3, s=1, f=True, l=["a", "b"], e="env:SECRET", h={"k": "env:SECRET"})
    assert (of.text("a"), of.whole("n", 0, 0, 9), of.seconds("s", 0, 0, 9), of.flag("f", False)) == ("x", 3, 1.0, True)
    assert (of.texts("l"), of.text("e"), of.mapping("h")) == (("a", "b"), "s3", {"k": "s3"})
    of.finish()


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda s: s.text("missing"), "file: missing: is missing"),
        (lambda s: s.text("n"), "must be a string"),
        (lambda s: s.whole("n", 0, 0, 2), "from 0 to 2, not 3"),
        (lambda s: s.whole("f", 0, 0, 2), "whole number"),
        (lambda s: s.seconds("a", 0, 0, 2), "number of seconds"),
        (lambda s: s.choice("a", ("b", "c")), "one of b, c"),
        (lambda s: s.text("e"), "the environment variable NONE is not set"),
        (lambda s: s.sections("a"), r"\[\[a\]\]"),
        (lambda s: s.finish(), "is not known here"),
    ],
)
def test_what_is_wrong_is_named(ask: Any, sentence: str) -> None:
    with pytest.raises(ConfigFault, match=sentence):
        ask(section(a="x", n=3, f=True, e="env:NONE"))


def test_a_misspelt_key_is_a_fault_also_deep_inside() -> None:
    of = section(rules=[{"name": "r", "collumn": "x"}])
    [rule] = of.sections("rules")
    rule.text("name")
    with pytest.raises(ConfigFault, match=r"rules\[r\].collumn: is not known"):
        of.finish()


def test_names_of_tables() -> None:
    assert table(section(t="s.x"), "t") == Table(("s", "x"))
    assert table(section(t=["s", "x.y"]), "t") == Table(("s", "x.y"))
    for bad in ("a.b.c", "", ".x", "x" * 64):
        with pytest.raises(ConfigFault):
            table(section(t=bad), "t")
    with pytest.raises(ConfigFault):
        columns(section(c=["ok", "x" * 64]), "c")


def test_a_file_that_is_none_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="cannot be read"):
        config.read(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(ConfigFault, match="is no TOML"):
        config.read(tmp_path / "bad.toml")


def test_the_command_says_what_is_wrong_and_exits_64(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "v.toml"
    file.write_text('[database]\nurl = "postgres://localhost/x"\n[[rules]]\nname = "r"\ncheck = "sound"\n')
    assert cli.main(["validation", "--config", str(file)]) == 64
    assert "rules[r].check: must be one of not_null" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["validation"])
    assert ended.value.code == 64


EXAMPLES = Path(__file__).parents[1] / "examples"


VARIABLES = ("DATABASE_URL", "ALERTS_WEBHOOK_URL", "ALERTS_WEBHOOK_AUTHORIZATION", "SMTP_PASSWORD", "PARTNER_AUTHORIZATION")


@pytest.mark.parametrize("kind", cli.KINDS)
def test_the_examples_are_right_also_what_is_commented_out(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*VARIABLES, "MESH_DATABASE_URL"):
        monkeypatch.setenv(name, "https://example.com/x")
    example = EXAMPLES / f"{kind}.toml"
    assert cli.main([kind, "--config", str(example), "--check"]) == 0
    # A sentence has a space after its #, what can be switched on has none.
    whole = tmp_path / example.name
    whole.write_text(re.sub(r"^#(?=\S)", "", example.read_text(), flags=re.MULTILINE))
    assert cli.main([kind, "--config", str(whole), "--check"]) == 0
