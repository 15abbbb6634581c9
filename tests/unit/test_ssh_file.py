"""The hosts file, and which job starts on which host."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest

from batchsystems.abstract import BatchSystemError, NeverFits, Resources
from batchsystems.ssh_file import HostLine, read_hosts
from batchsystems.ssh_placement import OVERTAKES, Need, Place, Placement, capacity, why_never, why_waiting

GIB = 1 << 30


def written(directory: Path, text: str) -> str:
    path = directory / "hosts"
    path.write_text(text)
    return str(path)


def place(name: str, cores: int, *, limits: Optional[dict[str, int]] = None) -> Place:
    made = Place(HostLine(name, cores * 1000, GIB, limits=limits or {}))
    made.open = True
    return made


def test_every_key_is_understood(tmp_path: Path) -> None:
    found = read_hosts(
        written(
            tmp_path,
            "# ours\nada@big cores=2.5 memory=1.5G python=/opt/python tmp=/scratch limit.licence=3 drain # old\n\n"
            "localhost memory=512M cores=1\n",
        )
    )

    assert list(found) == ["ada@big", "localhost"]
    big = found["ada@big"]
    assert big == HostLine("ada@big", 2500, 3 * GIB // 2, "/opt/python", "/scratch", {"licence": 3}, True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("one", "no cores="),
        ("one cores=1", "no memory="),
        ("one cores=1 memory=4", "memory=4 is 4 bytes; expected a size such as 4G"),
        ("one cores=none memory=1G", "cores=none"),
        ("one cores=nan memory=1G", "cores=nan"),
        ("one cores=-1 memory=1G", "cores=-1"),
        ("one cores=1 memory=much", "memory=much"),
        ("one cores=1 memory=0", "memory=0"),
        ("one cores=1 cores=2 memory=1G", "given twice"),
        ("one cores=1 memory=1G gpu=1", "'gpu=1'"),
        ("one cores=1 memory=1G limit.x=some", "limit.x=some"),
        ("one cores=1 memory=1G tmp=scratch", "no absolute path"),
        ("first cores=1 memory=1G", "there twice"),
        ("-oProxyCommand=x cores=1 memory=1G", "expected a host"),
        ("cores=1 memory=1G", "expected a host"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, line: str, words: str) -> None:
    path = written(tmp_path, f"first cores=1 memory=1G\n\n{line}\n")

    with pytest.raises(BatchSystemError) as caught:
        read_hosts(path)

    assert f"{path}, line 3: " in str(caught.value)
    assert words in str(caught.value)


def test_a_file_without_hosts_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(BatchSystemError, match="names no host"):
        read_hosts(written(tmp_path, "# nobody\n"))
    with pytest.raises(BatchSystemError, match="cannot be read"):
        read_hosts(str(tmp_path / "none"))


def test_jobs_are_spread_and_never_promised_twice() -> None:
    places = [place("one", 2), place("two", 4)]
    waiting = {str(number): Need(1000, 0) for number in range(9)}

    started = Placement().place(waiting, places)

    assert len(started) == 6
    assert [one.free_cpu() for one in places] == [0, 0]


def test_memory_limits_and_devices_are_counted() -> None:
    host = place("one", 64, limits={"licence": 2, "gpus": 2})
    needs = (
        [Need(0, 0, (("licence", 1),))] * 3 + [Need(0, 0, (("gpus", 1),))] * 3 + [Need(0, GIB // 2 + 1)] * 2
    )

    started = Placement().place({str(number): need for number, need in enumerate(needs)}, [host])

    assert [name for name, _, _ in started] == ["0", "1", "3", "4", "6"]
    assert [booked.gpus for name, _, booked in started if name in "34"] == [(0,), (1,)]


def test_limits_over_all_hosts_hold() -> None:
    places = [place("one", 4), place("two", 4)]

    placement = Placement(cpu=3)
    started = placement.place({str(number): Need(1000, 0) for number in range(9)}, places)
    assert len(started) == 3

    placement.set_limits(5, None)
    assert len(placement.place({str(number): Need(1000, 0) for number in range(3, 9)}, places)) == 2


def test_a_host_to_avoid_is_used_only_where_there_is_no_other() -> None:
    bad, good = place("bad", 4), place("good", 1)
    bad.avoided = True

    started = Placement().place({"a": Need(1000, 0), "b": Need(1000, 0), "large": Need(3000, 0)}, [bad, good])

    assert {name: host.line.name for name, host, _ in started} == {"a": "good", "large": "bad"}


def test_a_large_job_is_overtaken_a_bounded_number_of_times() -> None:
    hosts = [place("one", 2), place("two", 2)]
    placement = Placement()
    waiting = {"large": Need(2000, 0)}
    for host in hosts:
        host.book("holds " + host.line.name, Need(1000, 0))
    for number in range(OVERTAKES):
        small = f"small {number}"
        ((name, host, _),) = placement.place({**waiting, small: Need(1000, 0)}, hosts)
        assert name == small
        del host.booked[small]

    # From now on one of the hosts is kept free, and the other still works.
    for number in range(3):
        started = placement.place(
            {**waiting, f"a{number}": Need(1000, 0), f"b{number}": Need(1000, 0)}, hosts
        )
        assert len(started) <= 1
    for host in hosts:
        del host.booked["holds " + host.line.name]
    assert "large" in [name for name, _, _ in placement.place(waiting, hosts)]


def test_why_a_job_can_never_start() -> None:
    lines = [
        HostLine("wide", 8000, GIB),
        HostLine("deep", 1000, 8 * GIB),
        HostLine("old", 64000, 1 << 40, drain=True),
    ]

    assert why_never("a.1", Need(8000, GIB), lines) is None
    for need, resource in (
        (Need(9000, 0), "cores"),
        (Need(2000, 2 * GIB), "memory"),
        (Need(1, 9 * GIB), "memory"),
    ):
        never = why_never("a.1", need, lines)
        assert isinstance(never, NeverFits)
        assert never.resource == resource
    assert capacity(lines).cpu == 8


def test_why_a_job_has_not_started_yet() -> None:
    small, large, drained = place("small", 2), place("large", 8), place("drained", 9)
    drained.line = HostLine("drained", 9000, GIB, drain=True)
    hosts = {"small": small, "large": large, "drained": drained}

    assert why_waiting(Need(4000, 5), hosts) == "it asks for 4 cores and 5 bytes, and waits for room on large"
    large.open = False
    assert why_waiting(Need(4000, 5), hosts) == (
        "it asks for 4 cores and 5 bytes, and no host that can be reached is large enough: small has 2 cores and "
        "1 GiB; large has 8 cores and 1 GiB, and cannot be reached; drained has 9 cores and 1 GiB, and gets nothing "
        "new (drain)"
    )


def test_what_nobody_counts_here_is_not_needed() -> None:
    resources = Resources(1 / 3, 5, countable={"licence": 1, "other": 1})

    assert Need.of(resources, {"licence"}) == Need(333, 5, (("licence", 1),))
