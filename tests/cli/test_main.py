"""What ``hbtrio`` itself writes to standard error."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from hbtrio import cli
from hbtrio.errors import UserError
from support.tenant_texts import TENANT_TEXTS, hostile_in


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=TENANT_TEXTS)
def test_an_error_sends_nothing_to_the_terminal_but_text(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, status in ((UserError(f"no {text}"), 2), (ValueError(text), 70)):

        def fails(words: list[str], error: Exception = error) -> int:
            raise error

        monkeypatch.setattr(cli, "_run", fails)
        assert cli.main(["ctl"]) == status
        said = capsys.readouterr().err
        assert said.endswith("\n")
        assert hostile_in(said.replace("\n", "")) == []
