"""The commands on studies against a real PostgreSQL that asks for a password."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from jorge_tune.cli import main
from jorge_tune.cli.study_options import make_study
from tests.study.servers import PrivatePostgresql
from tests.study.small_studies import small_plan


@pytest.fixture(scope="module")
def server():
    folder = Path(tempfile.mkdtemp(prefix="jt-pg-"))
    try:
        with PrivatePostgresql(folder, password="s3cr@t/word").running() as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["study", *map(str, arguments)])
    return ended.value.code


def test_a_wrong_password_is_one_message_that_does_not_repeat_it(server, capsys, monkeypatch):
    monkeypatch.setenv("JORGE_TUNE_STORAGE", server.url("wr0ng-one"))
    assert run("status", "--name", "small") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "password" in err
    assert "wr0ng" not in err
    assert "Traceback" not in err


def test_a_study_on_a_server_is_shown_with_its_password_masked(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JORGE_TUNE_STORAGE", server.url())
    make_study(small_plan(), None, tmp_path / "runs")
    for command in (("status",), ("status", "--format", "json"), ("launch", "node1"), ("stop",)):
        assert run(*command, "--name", "small") == 0
    written = capsys.readouterr()
    for secret in ("s3cr@t", "s3cr%40t"):
        assert secret not in written.out + written.err
    assert "postgres:***@127.0.0.1" in written.out
    assert not [
        p for p in tmp_path.rglob("*") if p.is_file() and (b"s3cr@t" in p.read_bytes() or b"s3cr%40t" in p.read_bytes())
    ]
