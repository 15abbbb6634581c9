"""Keys of pools, what is signed with them, addresses of hubs, and what must not be seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchsystems import pool_hub, pool_options
from batchsystems.abstract import BatchSystemError, Capacity, End, EndKind, Reason
from batchsystems.pool_signing import (
    END,
    JOB,
    Forged,
    Key,
    end_as_json,
    end_from_json,
    load_key,
    load_password,
)

KEY = Key(b"k" * 32)


@pytest.mark.parametrize(
    "content",
    [{"command": ["a b", "é", "\udcff", "x\ny"]}, {}, [1, None, 2.5]],
    ids=["text", "empty", "list"],
)
def test_what_was_signed_is_read(content: object) -> None:
    assert KEY.read(JOB, KEY.sign(JOB, content)) == content


def test_nothing_else_is_read() -> None:
    signed = KEY.sign(JOB, {"name": "run.1"})
    for other in (
        signed.replace("run.1", "run.2"),
        signed[1:],
        "",
        " {}",
        "é {}",
        Key(b"x" * 32).sign(JOB, {"name": "run.1"}),
        KEY.sign(END, {"name": "run.1"}),
    ):
        with pytest.raises(Forged):
            KEY.read(JOB, other)


def test_ends_come_back_as_they_were() -> None:
    end = End("run.1", EndKind.KILLED, None, 9, Reason.MEMORY, 5, 0.5, "words", "host")

    assert end_from_json(end_as_json(end)) == end
    assert end_from_json(end_as_json(End("a.b", EndKind.FINISHED, 0))).status == 0


def test_a_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"

    first, second = load_key(str(path)), load_key(str(path))

    assert first.id == second.id
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["key"]


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    load_key(str(path))
    path.chmod(0o644)

    with pytest.raises(BatchSystemError, match="can be read by others"):
        load_key(str(path))


@pytest.mark.parametrize("text", ["", "abc", "zz" * 32, "ab" * 31])
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)

    with pytest.raises(BatchSystemError, match="holds no key"):
        load_key(str(path))


def test_a_password_is_read_from_its_file_if_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "password"
    assert load_password(str(path), default=True) == ""
    with pytest.raises(BatchSystemError, match="there is no"):
        load_password(str(path), default=False)
    path.write_text("se cret\n")
    path.chmod(0o600)

    assert load_password(str(path), default=True) == "se cret"
    assert "se cret" not in repr(pool_hub.address("redis://ada@hub", str(path)))


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("redis://hub", "hub", 6379, False),
        ("rediss://ada@hub.example.org:7000/2", "hub.example.org", 7000, True),
        ("redis://[::1]:1234", "::1", 1234, False),
    ],
)
def test_addresses_of_hubs(url: str, host: str, port: int, tls: bool) -> None:
    found = pool_hub.address(url)

    assert (found.host, found.port, found.tls) == (host, port, tls)


@pytest.mark.parametrize(
    "url", ["", "hub", "http://hub", "redis://", "redis://hub/x", "redis://hub:x", "redis://hub?a=b"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(BatchSystemError, match="expected redis://HOST"):
        pool_hub.address(url)


@pytest.mark.parametrize(
    "url", ["redis://ada:tiger@hub", "redis://:tiger@hub:6379/0", "rediss://ada:tiger@@hub"]
)
def test_a_password_in_an_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BatchSystemError) as caught:
        pool_hub.address(url)

    assert "into a file" in str(caught.value)
    assert "tiger" not in str(caught.value)


def test_sizes_of_nodes() -> None:
    assert pool_options.read_size("64,512G") == Capacity(64.0, 512 << 30, {"gpus": 0})
    assert pool_options.read_size("0.5,1.5M,4") == Capacity(0.5, 3 << 19, {"gpus": 4})
    for wrong in ("64", "64,", ",1G", "0,1G", "-1,1G", "64,-1", "64,1X", "a,1G", "1,1G,x", "1,1G,1,1"):
        with pytest.raises(ValueError):  # noqa: PT011  # any text will do
            pool_options.read_size(wrong)


def test_a_user_is_who_the_process_runs_as(monkeypatch: pytest.MonkeyPatch) -> None:
    name = pool_hub.user_name()
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "somebody else")
    assert pool_hub.user_name() == name

    monkeypatch.setattr("os.geteuid", lambda: 3_999_999_999)
    assert pool_hub.user_name() == "uid3999999999"
