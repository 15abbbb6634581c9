"""What is said to Grid Engine's commands, and what their answers mean. The answers are those of Grid Engine 8.1.9."""

from __future__ import annotations

import signal
from typing import Optional

import pytest

from batchsystems import grid_engine_commands as commands
from batchsystems import grid_engine_ends
from batchsystems.abstract import EndKind, Reason
from batchsystems.grid_engine_commands import ROOM_MEBIBYTES, Site
from batchsystems.scheduled import Line, Node, Request

TOKEN = "0a1b2c3d4e5f"
SITE = Site(True, (Node("n1", 8, 16 << 30, True),), "smp", "h_vmem", True)

QUEUE = f"""<?xml version='1.0'?>
<job_info  xmlns:xsd="http://arc.liv.ac.uk/repos/darcs/sge/source/dist/util/resources/schemas/qstat/qstat.xsd">
  <queue_info>
    <job_list state="running">
      <JB_job_number>3</JB_job_number>
      <JAT_prio>0.50000</JAT_prio>
      <JB_name>run-da96-x.7.{TOKEN}</JB_name>
      <JB_owner>root</JB_owner>
      <state>r</state>
      <JAT_start_time>2026-11-27T03:34:49</JAT_start_time>
      <queue_name>all.q@n1</queue_name>
      <slots>1</slots>
      <tasks>1</tasks>
    </job_list>
    <job_list state="running">
      <JB_job_number>4</JB_job_number>
      <JB_name>sleep</JB_name>
      <state>r</state>
      <queue_name>all.q@n1</queue_name>
      <tasks>1</tasks>
    </job_list>
  </queue_info>
  <job_info>
    <job_list state="pending">
      <JB_job_number>3</JB_job_number>
      <JB_name>run-da96-x.7.{TOKEN}</JB_name>
      <JB_owner>root</JB_owner>
      <state>qw</state>
      <JB_submission_time>2026-11-27T03:34:49</JB_submission_time>
      <queue_name></queue_name>
      <slots>1</slots>
      <tasks>2-6:1</tasks>
    </job_list>
  </job_info>
</job_info>
"""

RECORD = """==============================================================
qname        all.q               
hostname     n1                  
owner        root                
jobname      run-da96.7.{token}
jobnumber    12                  
taskid       {task}                   
qsub_time    Fri Nov 27 03:36:44 2026
start_time   Fri Nov 27 03:36:46 2026
granted_pe   NONE                
slots        1                   
failed       {failed}
exit_status  {status}
ru_wallclock {wallclock}
maxvmem      {maxvmem}
arid         undefined
category     {category}
"""  # noqa: W291  # as it is printed


def record(
    failed: str,
    status: str,
    category: str = "NONE",
    wallclock: str = "0s",
    maxvmem: str = "0.000B",
    task: str = "1",
) -> str:
    return RECORD.format(
        token=TOKEN,
        task=task,
        failed=failed,
        status=status,
        wallclock=wallclock,
        maxvmem=maxvmem,
        category=category,
    )


# -- names and requests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["7", "a.b.c", "-", "x_y"])
def test_a_name_is_read_as_it_was_written(first: str) -> None:
    assert commands.read_name(commands.job_name("da96-x", first, TOKEN)) == ("da96-x", TOKEN)


@pytest.mark.parametrize(
    "name", ["sleep", "run-x.y", "run-x.7.notatoken", f"run-x.{TOKEN}", f"job-x.7.{TOKEN}", ""]
)
def test_what_is_not_ours_is_left_alone(name: str) -> None:
    assert commands.read_name(name) is None


@pytest.mark.parametrize(
    ("request_", "site", "expected"),
    [
        (Request(1, 0, None), SITE, ""),
        (Request(1, 100, 3), SITE, f" -l h_vmem={100 + ROOM_MEBIBYTES}M -l h_rt=180"),
        (Request(3, 101, None), SITE, f" -pe smp 3 -R y -l h_vmem={-(-(101 + ROOM_MEBIBYTES) // 3)}M"),
        (
            Request(3, 101, None),
            SITE._replace(per_slot=False),
            f" -pe smp 3 -R y -l h_vmem={101 + ROOM_MEBIBYTES}M",
        ),
        (Request(1, 100, None), SITE._replace(memory=""), ""),
    ],
)
def test_a_request_is_asked_for(request_: Request, site: Site, expected: str) -> None:
    assert commands.native(request_, site, (), "") == "-b y -shell n -r n -w e" + expected


def test_machines_are_left_out_and_the_users_words_come_last() -> None:
    found = commands.native(Request(1, 0, None), SITE, {"n2", "n1"}, "-q short.q")

    assert found.endswith(" -l hostname=!(n1|n2) -q short.q")


def test_tasks_are_removed_by_name() -> None:
    name = commands.job_name("da96", "*", TOKEN)
    assert list(commands.qdel("ada", name, [3, 1, 2, 7])) == [
        ["qdel", "-u", "ada", name, "-t", "1-3", name, "-t", "7"]
    ]
    many = list(commands.qdel("ada", name, range(1, 2000, 2)))
    assert sum(command.count("-t") for command in many) == 1000
    assert max(map(len, many)) < 400


# -- the queue ---------------------------------------------------------------------------------------------------


def names(token: str) -> dict[int, str]:
    return {index: f"da96-x.{6 + index}" for index in range(1, 6)} if token == TOKEN else {}


def test_the_queue_tells_which_jobs_wait_and_run() -> None:
    running, waiting = commands.read_queue(QUEUE, names) or []

    assert (running.state, running.host, running.jobs) == ("r", "n1", {1: "da96-x.7"})
    assert (running.run, running.token, running.array) == ("da96-x", TOKEN, "3")
    assert (waiting.state, waiting.host) == ("qw", "")
    assert waiting.jobs == {2: "da96-x.8", 3: "da96-x.9", 4: "da96-x.10", 5: "da96-x.11"}, "6 is nobody's"


@pytest.mark.parametrize("text", ["", QUEUE[:-20], "error: commlib error"])
def test_an_answer_that_is_cut_off_says_nothing(text: str) -> None:
    assert commands.read_queue(text, names) is None


def test_an_array_whose_description_is_gone_has_no_names() -> None:
    running, _ = commands.read_queue(QUEUE, lambda token: {}) or []
    assert running.jobs == {}


@pytest.mark.parametrize(
    ("state", "running", "never"),
    [
        ("qw", False, None),
        ("hqw", False, EndKind.KILLED),
        ("Eqw", False, EndKind.LOST),
        ("Ehqw", False, EndKind.LOST),
        ("t", True, None),
        ("r", True, None),
        ("Rr", True, None),
        ("dr", True, None),
        ("S", True, None),
        ("", False, None),
    ],
)
def test_states_are_told_apart(state: str, running: bool, never: Optional[EndKind]) -> None:
    line = Line("3", [1], "3", state, "", None, "", "n1", TOKEN, {}, "da96")

    assert grid_engine_ends.is_running(line) is running
    assert grid_engine_ends.will_never_start(line) is never
    assert not grid_engine_ends.is_over(line)
    assert grid_engine_ends.end_of("da96.7", line, True, "", "") is None


# -- the accounts ------------------------------------------------------------------------------------------------

LIMIT = "37  : qmaster enforced h_rt, h_cpu, or h_vmem limit"
KILLED = "137                  (Killed)"


@pytest.mark.parametrize(
    ("text", "kind", "status", "number", "reason"),
    [
        (record("0    ", "3"), EndKind.FINISHED, 3, None, None),
        (record("0    ", "139"), EndKind.FINISHED, 139, None, None),
        (record("100 : assumedly after job", KILLED), EndKind.KILLED, None, 9, Reason.SIGNAL),
        (
            record("100 : assumedly after job", "139 (Segmentation fault)"),
            EndKind.KILLED,
            None,
            11,
            Reason.SIGNAL,
        ),
        (record("26  : opening input/output file", "0"), EndKind.LOST, None, None, None),
        (record("27  : searching requested shell", "0"), EndKind.LOST, None, None, None),
        (record("21  : in recognizing job", "0"), EndKind.LOST, None, None, None),
        (record("", ""), EndKind.LOST, None, None, None),
        (record(LIMIT, KILLED, "-l h_rt=2", "3s", "1.801MB"), EndKind.KILLED, None, 9, Reason.TIME),
        (
            record(LIMIT, KILLED, "-l h_rt=600,h_vmem=500M", "40s", "501.2M"),
            EndKind.KILLED,
            None,
            9,
            Reason.MEMORY,
        ),
        (record(LIMIT, KILLED, "-l h_rt=600,h_vmem=500M", "601", "3M"), EndKind.KILLED, None, 9, Reason.TIME),
        (
            record(LIMIT, KILLED, "-l h_vmem=500M -pe smp 2", "9s", "1.1GB"),
            EndKind.KILLED,
            None,
            9,
            Reason.MEMORY,
        ),
        (record(LIMIT, KILLED, "-l h_vmem=500M", "9s", "3M"), EndKind.KILLED, None, 9, Reason.MEMORY),
        (record(LIMIT, KILLED, "NONE", "9s", "3M"), EndKind.KILLED, None, 9, Reason.SIGNAL),
    ],
)
def test_each_end_is_told_apart(
    text: str, kind: EndKind, status: Optional[int], number: Optional[int], reason: Optional[Reason]
) -> None:
    (line,) = commands.read_accounts(text)
    end = grid_engine_ends.end_of("da96.7", line, False, "", "")

    assert end is not None
    assert (end.kind, end.status, end.signal, end.reason) == (kind, status, number, reason)
    assert end.host == "n1"
    if kind is not EndKind.FINISHED:
        assert "Grid Engine says of job 12.1 on n1: failed" in end.detail


def test_what_we_have_cancelled_is_cancelled() -> None:
    (line,) = commands.read_accounts(record("100 : assumedly after job", KILLED))
    end = grid_engine_ends.end_of("da96.7", line, True, "", "")
    assert end is not None
    assert end.reason is Reason.CANCELLED


def test_a_machine_that_could_not_run_it_is_no_end_of_the_jobs_own() -> None:
    (line,) = commands.read_accounts(record("0", "75"))
    said = grid_engine_ends.end_of("da96.7", line, False, "", "on_node da96.7 lost No space left on device\n")
    its_own = grid_engine_ends.end_of("da96.7", line, False, "", "")

    assert said is not None
    assert (said.kind, said.detail) == (EndKind.LOST, "No space left on device")
    assert its_own is not None
    assert (its_own.kind, its_own.status) == (EndKind.FINISHED, 75)


def test_records_of_several_tasks_and_of_others_are_told_apart() -> None:
    text = record("0", "1", task="1") + record("0", "2", task="2") + record("0", "3", task="undefined")
    text += record("0", "4").replace("run-da96.7", "else-da96.7")

    assert [(line.tasks, line.token, line.run) for line in commands.read_accounts(text)] == [
        ([1], TOKEN, "da96"),
        ([2], TOKEN, "da96"),
    ]


# -- what there is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("4G", 4 << 30), ("1.5M", 3 << 19), ("100", 100), ("2k", 2000), ("2K", 2048), ("NONE", 0), ("", 0)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert commands.bytes_of(text) == size


HOST = """hostname              n1
load_scaling          NONE
complex_values        {complexes}
load_values           load_avg=2.932617,load_short=3.565430, \\
                      load_medium=2.932617,num_proc=2,mem_free=23125.730469M, \\
                      mem_total=24105.562500M,swap_total=0.000000M
processors            2
"""


@pytest.mark.parametrize(
    ("complexes", "expected"),
    [
        ("h_vmem=4G,slots=4", (4, 4 << 30)),
        ("NONE", (None, int(24105.5625 * (1 << 20)))),
        ("slots=2", (2, int(24105.5625 * (1 << 20)))),
    ],
)
def test_machines_are_read(complexes: str, expected: tuple[Optional[int], int]) -> None:
    assert commands.read_host(HOST.format(complexes=complexes), "h_vmem") == expected


def test_slots_of_all_queues_of_a_machine_count_and_one_that_is_up_is_enough() -> None:
    text = """<job_info><queue_info>
      <Queue-List><name>a.q@n1</name><slots_total>4</slots_total><state>au</state></Queue-List>
      <Queue-List><name>b.q@n1</name><slots_total>2</slots_total></Queue-List>
      <Queue-List><name>a.q@n2</name><slots_total>4</slots_total><state>d</state></Queue-List>
    </queue_info></job_info>"""

    assert commands.read_instances(text) == {"n1": (6, True), "n2": (4, False)}
    assert commands.read_instances(text[:40]) == {}


def test_how_a_resource_is_counted_is_read() -> None:
    text = """#name               shortcut   type      relop requestable consumable default  urgency
#------------------------------------------------------------------------------------------
h_vmem              h_vmem     MEMORY    <=    YES         JOB         100M     0
mem_free            mf         MEMORY    <=    YES         NO          0        0
"""
    assert commands.read_consumable(text, "h_vmem") == "JOB"
    assert commands.read_consumable(text, "mf") == "NO"
    assert commands.read_consumable(text, "nothing") is None


def test_signals_of_our_own_kill_have_a_number() -> None:
    (line,) = commands.read_accounts(record("100 : assumedly after job", KILLED))
    assert line.wait_status == signal.SIGKILL
