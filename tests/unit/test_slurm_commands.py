"""What is said to SLURM's commands, and what their answers mean."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from batchsystems import slurm_commands as commands
from batchsystems import slurm_ends
from batchsystems.abstract import BackendOption, EndKind, Reason, Resources, Submission
from batchsystems.scheduled import Line, Refusal, Request, read_tasks, write_tasks
from batchsystems.slurm_options import OPTIONS


def line(state: str, wait_status: int = 0, reason: str = "None", job: str = "29") -> Line:
    return Line(
        "28", [1], job, state, reason, wait_status, "2026-11-20T09:46:15", "n1", "token", {1: "RUN.7"}, "RUN"
    )


@pytest.mark.parametrize(
    ("state", "wait_status", "reason", "kind", "status", "number", "why"),
    [
        ("COMPLETED", 0, "None", EndKind.FINISHED, 0, None, None),
        ("FAILED", 3 << 8, "NonZeroExitCode", EndKind.FINISHED, 3, None, None),
        ("FAILED", 139 << 8, "NonZeroExitCode", EndKind.FINISHED, 139, None, None),
        ("FAILED", 9, "JobLaunchFailure", EndKind.KILLED, None, 9, Reason.SIGNAL),
        ("FAILED", 15, "JobLaunchFailure", EndKind.KILLED, None, 15, Reason.SIGNAL),
        ("FAILED", 139, "JobLaunchFailure", EndKind.KILLED, None, 11, Reason.SIGNAL),
        ("FAILED", 53, "JobLaunchFailure", EndKind.LOST, None, None, None),
        ("FAILED", 127 << 8, "NonZeroExitCode", EndKind.FINISHED, 127, None, None),
        ("OUT_OF_MEMORY", 253, "OutOfMemory", EndKind.KILLED, None, None, Reason.MEMORY),
        ("FAILED", 125, "OutOfMemory", EndKind.KILLED, None, None, Reason.MEMORY),
        ("TIMEOUT", 9, "TimeLimit", EndKind.KILLED, None, None, Reason.TIME),
        ("DEADLINE", 0, "DeadLine", EndKind.KILLED, None, None, Reason.TIME),
        ("NODE_FAIL", 0, "NodeDown", EndKind.KILLED, None, None, Reason.NODE),
        ("PREEMPTED", 0, "None", EndKind.KILLED, None, None, Reason.PREEMPTED),
        ("CANCELLED", 15, "None", EndKind.KILLED, None, None, Reason.SIGNAL),
        ("BOOT_FAIL", 0, "None", EndKind.LOST, None, None, None),
        ("REVOKED", 0, "None", EndKind.LOST, None, None, None),
    ],
)
def test_each_end_is_told_apart(
    state: str, wait_status: int, reason: str, kind: EndKind, status: object, number: object, why: object
) -> None:
    end = slurm_ends.end_of("RUN.7", line(state, wait_status, reason), False, "", "")

    assert end is not None
    assert (end.kind, end.status, end.signal, end.reason) == (kind, status, number, why)
    assert end.host == "n1"
    if kind is not EndKind.FINISHED:
        assert state in end.detail


@pytest.mark.parametrize(
    "state", ["PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "A_NEW_STATE", ""]
)
def test_what_is_not_known_to_be_an_end_is_none(state: str) -> None:
    assert slurm_ends.end_of("RUN.7", line(state), True, "", "") is None


def test_what_we_have_cancelled_is_cancelled_whatever_it_did_then() -> None:
    for state, status in (("COMPLETED", 0), ("CANCELLED", 15), ("FAILED", 1 << 8)):
        end = slurm_ends.end_of("RUN.7", line(state, status), True, "", "")
        assert end is not None
        assert end.reason is Reason.CANCELLED


def test_memory_kills_without_control_groups_are_known_by_what_slurm_printed() -> None:
    """There they are FAILED by signal 9. The line must be of this job, and not of another one of the array."""
    said = "slurmstepd-n1: error: StepId={}.batch exceeded memory limit (75787264 > 62914560), being killed\n"

    mine = slurm_ends.end_of("RUN.7", line("FAILED", 9), False, "", said.format(29))
    other = slurm_ends.end_of("RUN.7", line("FAILED", 9), False, "", said.format(291))

    assert mine is not None
    assert other is not None
    assert (mine.reason, other.reason) == (Reason.MEMORY, Reason.SIGNAL)
    assert "75787264" in mine.detail


def test_a_machine_that_could_not_start_the_job_loses_it() -> None:
    evidence = "on_node RUN.7 lost [Errno 28] No space left on device: '/log'\n"

    end = slurm_ends.end_of("RUN.7", line("FAILED", 75 << 8), False, "", evidence)
    its_own = slurm_ends.end_of("RUN.7", line("FAILED", 75 << 8), False, "", "")

    assert end is not None
    assert its_own is not None
    assert end.kind is EndKind.LOST
    assert "No space left" in end.detail
    assert (its_own.kind, its_own.status) == (EndKind.FINISHED, 75)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("PartitionConfig", EndKind.KILLED),
        ("PartitionTimeLimit", EndKind.KILLED),
        ("JobHeldUser", EndKind.KILLED),
        ("JobHeldAdmin", EndKind.KILLED),
        ("DependencyNeverSatisfied", EndKind.KILLED),
        ("AssocMaxCpuPerJobLimit", EndKind.KILLED),
        ("QOSMaxWallDurationPerJobLimit", EndKind.KILLED),
        ("launch failed requeued held", EndKind.LOST),
        ("Priority", None),
        ("Resources", None),
        ("PartitionDown", None),
        ("BeginTime", None),
        ("AssocGrpCpuLimit", None),
        ("QOSMaxJobsPerUserLimit", None),
        ("Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions", None),
    ],
)
def test_what_waits_in_vain(reason: str, kind: object) -> None:
    assert slurm_ends.will_never_start(line("PENDING", reason=reason)) is kind
    assert slurm_ends.will_never_start(line("RUNNING", reason=reason)) is None


def test_lists_of_tasks() -> None:
    assert read_tasks("31-35:2") == [31, 33, 35]
    assert read_tasks("0-2,7%5") == [0, 1, 2, 7]
    assert read_tasks("[1-3]") == [1, 2, 3]
    assert read_tasks("N/A") == []
    assert read_tasks("0-2,...") == []
    assert write_tasks([7, 2, 0, 1]) == "0-2,7"
    everything = [number for number in range(1000) if number % 7]
    assert read_tasks(write_tasks(everything)) == everything


def test_arguments_are_never_too_long_for_a_command() -> None:
    tasks = {str(array): range(0, 1000, 2) for array in range(92)}  # 46,000 tasks, no two of them neighbours

    found = list(commands.cancel_commands("RUN", tasks))

    assert all(sum(len(word) + 1 for word in command) < 12_000 for command in found)
    assert all(command[:2] == ["scancel", "--name=RUN"] for command in found)
    ids = [word.split("_") for command in found for word in command[2:]]
    assert sum(len(read_tasks(tasks)) for _, tasks in ids) == 46_000


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Unable to contact slurm controller (connect failure)", Refusal.AWAY),
        ("Socket timed out on send/recv operation", Refusal.UNKNOWN),
        (
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            Refusal.LIMIT,
        ),
        ("Invalid job array specification", Refusal.LIMIT),
        ("Slurm temporarily unable to accept job, sleeping and retrying", Refusal.LIMIT),
        ("error: invalid partition specified: nope; Invalid partition name specified", Refusal.NEVER),
        (
            "Memory specification can not be satisfied; Requested node configuration is not available",
            Refusal.NEVER,
        ),
        ("Invalid account or account/partition combination specified", Refusal.NEVER),
        ("Requested time limit is invalid (missing or exceeds some limit)", Refusal.NEVER),
        ("Required partition not available (inactive or drain)", Refusal.OTHER),
        ("I have never heard of this", Refusal.OTHER),
    ],
)
def test_refusals_are_told_apart(words: str, kind: Refusal) -> None:
    assert commands.why_refused(1, words) is kind
    assert commands.why_refused(None, words) is Refusal.UNKNOWN


def test_requests_are_rounded_up() -> None:
    assert Request.of(Resources(0.5, 1, 61), None) == Request(1, 1, 2)
    assert Request.of(Resources(2.1, (1 << 30) + 1), 30) == Request(3, 1025, 30)
    assert Request.of(Resources(0, 0), None) == Request(1, 0, None)
    assert Request.of(Resources(1, 0, None, {"gpus": 2}), None).gpus == 2


def test_a_submission_says_everything_that_must_be_said() -> None:
    command = commands.sbatch(
        "RUN", "t 7", [0, 1, 5], Request(2, 300, 90, 1), "/a %dir/t", ["n2", "n1"], ["--qos=x"]
    )

    assert command[0] == "sbatch"
    assert {
        "--parsable", "--no-requeue", "--job-name=RUN", "--comment=t 7", "--array=0-1,5", "--cpus-per-task=2",
        "--mem=300M", "--time=90", "--gres=gpu:1", "--exclude=n1,n2", "--output=/a %%dir/t", "--open-mode=append",
    } <= set(command)  # fmt: skip
    assert command[-1] == "--qos=x"


def test_the_script_holds_nothing_that_a_shell_or_sbatch_could_misread() -> None:
    hostile = ("a\r\nb", "#SBATCH --hold", "END", "é\udcff", "$(x)`y`'\"\\")
    job = Submission(
        "RUN.7", hostile, env={"A": "\r\nEND\n", "SLURM_JOB_ID": "1", "SLURM_CONF": "/c"}, cwd="/w"
    )

    lines = commands.script(sys.executable, {0: job}, ["HOME"]).split("\n")

    assert lines[0] == "#!/bin/sh"
    assert shlex.split(lines[1])[1:4] == [sys.executable, "-I", "-S"]
    assert lines[3:] == ["END", ""]
    assert lines[2].isascii()
    told = json.loads(lines[2])
    assert tuple(told["jobs"]["0"]["command"]) == hostile
    assert told["env"] == {"A": "\r\nEND\n", "SLURM_CONF": "/c"}


def test_variables_that_change_what_commands_say_do_not_reach_them() -> None:
    given = {"PATH": "/bin", "SLURM_CONF": "/c", "SLURM_TIME_FORMAT": "relative", "SQUEUE_FORMAT": "%i",
             "SLURM_JOB_ID": "1", "SBATCH_ACCOUNT": "mine", "SBATCH_WAIT": "1", "SECRET": "x"}  # fmt: skip

    found = commands.environment(given)

    assert found == {"PATH": "/bin", "SLURM_CONF": "/c", "SBATCH_ACCOUNT": "mine", "SLURM_BITSTR_LEN": "0"}


def test_numbers_of_submissions() -> None:
    assert commands.submitted_id("205\n") == "205"
    assert commands.submitted_id("205;cluster\n") == "205"
    assert commands.submitted_id("Submitted\n") is None


def test_nodes_and_limits() -> None:
    node = "NodeName=n1 CPUTot=8 CPUEfctv=6 Gres=gpu:tesla:4(S:0-1) OS=Linux 6.1 #1 SMP RealMemory=4000 State={} "
    node += "Partitions=a,b"
    found = commands.read_nodes("\n".join(node.format(s) for s in ("IDLE", "MIXED+DRAIN", "DOWN*")), ["b"])
    limits = commands.read_limits("MaxArraySize            = 500\nMinJobAge               = 20 sec\n"
                                  "AccountingStorageType   = accounting_storage/slurmdbd\n")  # fmt: skip

    assert [(n.cpus, n.memory, n.usable, n.gpus) for n in found] == [
        (6, 4000 << 20, True, 4), (6, 4000 << 20, False, 4), (6, 4000 << 20, False, 4)
    ]  # fmt: skip
    assert commands.read_nodes(node.format("IDLE"), ["c"]) == []
    assert (limits.array_size, limits.min_job_age, limits.accounting, limits.job_count) == (
        500,
        20.0,
        True,
        10000,
    )


def test_an_end_that_the_accounts_do_not_know_has_no_exit_status() -> None:
    """After slurmdbd was killed there are such lines, for ever."""
    good = "1_0|2|RUN|FAILED|7:0|2026-11-20T09:46:15|2026-11-20T09:46:18|n1"
    found = commands.read_accounts(
        f"{good}\n{good.replace('2026-11-20T09:46:18', 'Unknown')}\n1_[3-7:2]|1|RUN|CANCELLED by 0|0:0|x|y|\n"
    )

    assert [(line.state, line.wait_status, line.tasks) for line in found] == [
        ("FAILED", 7 << 8, [0]), ("FAILED", None, [0]), ("CANCELLED", 0, [3, 5, 7])
    ]  # fmt: skip
    end = slurm_ends.end_of("RUN.7", found[1], False, "", "")
    assert end is not None
    assert end.kind is EndKind.LOST


@pytest.mark.parametrize(
    ("given", "minutes"),
    [("90", 90), ("1:30:00", 90), ("1:30:01", 91), ("10:30", 11), ("2-0", 2880), ("1-1:30", 1530)],
)
def test_time_limits(given: str, minutes: int) -> None:
    assert option("slurmTime").convert(given) == minutes
    assert option("slurmTime").convert(minutes) == minutes


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("slurmTime", "soon"), ("slurmTime", "0"), ("slurmTime", "-5"), ("slurmTime", "1:2:3:4"),
        ("slurmArgs", "--array=1-5"), ("slurmArgs", "-J x"), ("slurmArgs", "-Jx"), ("slurmArgs", "--requeue"),
        ("slurmArgs", "'unfinished"), ("slurmMaxJobs", "0"), ("slurmInterval", "0"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(name: str, given: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        option(name).convert(given)


def option(name: str) -> BackendOption:
    return next(option for option in OPTIONS if option.name == name)
