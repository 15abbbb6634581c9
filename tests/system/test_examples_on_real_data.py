"""The examples that work on real data: what they find is what the tools find when they are run without us."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
import signal
import subprocess
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.requirements import missing, require
from tests.system.legacy_script import CHECKOUT
from tests.system.pipelines import Pipeline, variables, wait_until
from tests.system.waiting import Running, gone

DATA = Path("/usr/share/doc/bowtie2/examples")

#: The bowtie2 that is found first: it notes each call, and from the fourth on it hangs while there is a file "hold".
HANGING_BOWTIE2 = """\
#!/bin/sh
echo "$$" >> {here}/calls
if [ -e {here}/hold ] && [ "$(wc -l < {here}/calls)" -ge 4 ]; then
    echo "$$" >> {here}/hanging
    exec sleep 1000
fi
exec {bowtie2} "$@"
"""


@pytest.mark.slow
def test_sweep(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
    from sklearn.svm import SVC

    ran = Pipeline(tmp_path, name=str(CHECKOUT / "examples" / "sweep.py")).run("--steps", "2")

    ran.succeeded()
    images, unseen, digits, expected = train_test_split(
        *load_digits(return_X_y=True),
        test_size=0.25,
        random_state=0,
        stratify=load_digits().target,
    )
    searches = [
        GridSearchCV(model, settings, cv=StratifiedKFold(5)).fit(images, digits)
        for model, settings in (
            (SVC(), {"C": [0.1, 100.0], "gamma": [1e-5, 1e-1]}),
            (RandomForestClassifier(random_state=0), {"n_estimators": [5, 100], "max_depth": [2, 12]}),
        )
    ]
    best = max(searches, key=lambda search: search.best_score_)
    assert ran.out.splitlines() == [
        f"best: {best.best_estimator_}",
        f"accuracy: {best.best_score_:.4f} in the sweep, {best.score(unseen, expected):.4f} on images never seen",
    ]
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def mapping(tmp_path: Path) -> Pipeline:
    """Reads of two samples, few enough to be mapped in a moment."""
    for tool in ("bowtie2", "samtools"):
        require(tool)
    if not (DATA / "reads").is_dir():
        missing(f"{DATA}/reads is not there (Debian: apt-get install bowtie2-examples)")
    for name, number in (("reads_1", 300), ("reads_2", 300), ("longreads", 120)):
        with gzip.open(DATA / "reads" / f"{name}.fq.gz", "rt") as reads:
            (tmp_path / f"{name}.fq").write_text("".join(itertools.islice(reads, 4 * number)))
    return Pipeline(tmp_path, name=str(CHECKOUT / "examples" / "read_mapping.py"))


ARGUMENTS = (
    "pairs=reads_1.fq,reads_2.fq",
    "long=longreads.fq",
    "--reads",
    "60",
    "--output",
    "mapped",
    "--maxThreads",
    "2",
)
PIECES = 5 + 2


def alignments(bam: Path) -> list[str]:
    """What is in a file of alignments, without its header, in an order that does not depend on how it was made."""
    found = subprocess.run(["samtools", "view", str(bam)], capture_output=True, text=True, check=True)
    return sorted(found.stdout.splitlines())


def mapped_directly(directory: Path, name: str, *reads: str) -> list[str]:
    """The alignments of a sample by the tools alone, all reads at once."""

    def call(*command: str) -> None:
        subprocess.run(command, cwd=directory, check=True, capture_output=True)

    index = directory / "direct"
    if not index.with_suffix(".1.bt2").exists():
        (directory / "direct.fa").write_bytes(
            gzip.decompress((DATA / "reference" / "lambda_virus.fa.gz").read_bytes())
        )
        call("bowtie2-build", "direct.fa", "direct")
    group = ("--rg-id", name, "--rg", f"SM:{name}")
    call("bowtie2", "--local", *group, "-x", "direct", *reads, "-S", f"direct-{name}.sam")
    return alignments(directory / f"direct-{name}.sam")


@pytest.mark.slow
def test_read_mapping_that_is_killed_half_way(mapping: Pipeline) -> None:
    here = mapping.directory
    shim = mapping.write("first/bowtie2", HANGING_BOWTIE2.format(here=here, bowtie2=require("bowtie2")))
    shim.chmod(0o755)
    path = {"PATH": f"{here}/first{os.pathsep}{os.environ['PATH']}"}
    (here / "hold").touch()
    with open(here / "log", "wb") as log:
        master = subprocess.Popen(
            mapping.command(*ARGUMENTS), cwd=here, env=variables(path), stdout=log, stderr=log
        )
    try:
        wait_until(
            lambda: len(mapping.notes("hanging")) == 2, "two pieces that hang, after some that did not"
        )
    finally:
        os.kill(master.pid, signal.SIGKILL)
        master.wait()
    assert not list((here / "mapped").iterdir()), "killed too late to be half-way"
    called = len(mapping.notes("calls"))
    finished = called - 2
    assert 2 <= finished <= 3
    (here / "hold").unlink()

    ran = mapping.run(*ARGUMENTS, env=path)

    ran.succeeded()
    assert "Continuing job tree" in ran.err
    assert (
        len(mapping.notes("calls")) - called == PIECES - finished
    )  # nothing that was finished was mapped again
    for name, reads in (
        ("pairs", ["-1", "reads_1.fq", "-2", "reads_2.fq"]),
        ("long", ["-U", "longreads.fq"]),
    ):
        bam = here / "mapped" / f"{name}.bam"
        direct = mapped_directly(here, name, *reads)
        assert alignments(bam) == direct
        assert len(direct) == {"pairs": 600, "long": 120}[name]
        # Both are refused unless the alignments are in order and the index is theirs.
        subprocess.run(["samtools", "quickcheck", str(bam)], check=True)
        counted = subprocess.run(
            ["samtools", "idxstats", str(bam)], capture_output=True, text=True, check=True
        )
        flags = [int(line.split("\t")[1]) for line in direct]
        assert int(counted.stdout.split("\t")[2]) == sum(not flag & 4 for flag in flags)
        line = next(line for line in ran.out.splitlines() if line.startswith(name)).split()
        assert line[1:3] == [str(len(direct)), f"{sum(not flag & 4 for flag in flags) / len(direct):.1%}"]
    assert (here / "mapped" / "coverage.png").read_bytes().startswith(b"\x89PNG")
    assert mapping.leftovers() == []


def test_read_mapping_says_what_a_sample_looks_like(mapping: Pipeline) -> None:
    ran = mapping.run("pairs:reads_1.fq")

    assert ran.status == 2
    assert "pairs:reads_1.fq: not NAME=READS" in ran.err


def redis_server_below(master: int) -> list[int]:
    """The redis-server that runs below a master: its pid, or none."""
    return [
        process.pid
        for process in psutil.Process(master).children(recursive=True)
        if process.name() == "redis-server"
    ]


@pytest.mark.parametrize("victim", ["nobody", "server", "master"])
def test_service(tmp_path: Path, victim: str) -> None:
    """A real redis-server is killed while one text is being counted and the others are; that one is a pipe, which
    nobody can read before we write."""
    require("redis-server")
    texts = ["to be or not to be", "not a word, not a sound", "be that as it may"]
    paths = [tmp_path / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths[:-1], texts):
        path.write_text(text)
    os.mkfifo(paths[-1])
    pipeline = Pipeline(tmp_path, name=str(CHECKOUT / "examples" / "service.py"))
    command = pipeline.command(*map(str, paths))
    master = Running(tmp_path, command, 1)

    def is_being_counted() -> bool:
        told = pipeline.program("jobTreeStatus", "--json", str(pipeline.tree))
        done = json.loads(told.out)["counts"]["done"] if told.status == 0 else 0
        return bool(done >= len(texts) - 1 and redis_server_below(master.pid))

    wait_until(is_being_counted, "all texts but one")
    (server,) = redis_server_below(master.pid)
    if victim == "server":
        os.kill(server, signal.SIGKILL)
    elif victim == "master":
        master.send(signal.SIGKILL)
        master.ended()
        assert gone([server])
        master = Running(tmp_path, command, 2)
    if victim != "nobody":
        wait_until(lambda: redis_server_below(master.pid) not in ([], [server]), "another redis-server")
    with open(paths[-1], "w") as pipe:  # waits until somebody reads
        pipe.write(texts[-1])
    ran = master.ended()

    ran.succeeded()
    counted = {line.split()[1]: int(line.split()[0]) for line in ran.out.splitlines()}
    expected = Counter(re.findall("[a-z]+", " ".join(texts)))
    assert sorted(counted.values()) == sorted(dict(expected.most_common(10)).values())
    assert all(expected[word] == number for word, number in counted.items())
    assert pipeline.leftovers() == []
    assert gone([server])


def test_read_mapping_says_which_file_is_missing_and_no_more_than_fits_on_a_screen(mapping: Pipeline) -> None:
    ran = mapping.run("pairs=reads_1.fq,reads_3.fq")

    assert ran.status == 2
    assert f"not there: {mapping.directory}/reads_3.fq" in ran.err
    assert len(ran.err.splitlines()) < 10
