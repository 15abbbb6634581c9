"""Every command line in a block of a document is run by a test, or stands here with the reason why not.

What runs them
  - blocks of language ``console``: tests/system/test_documents.py, page by page, in the scene that the page needs
  - ``console on SYSTEM``: tests/servers/test_documents.py, where that system is
  - ``console on toil`` and ``on snakemake``: `make migrate-check`
  - transcripts (``<!-- run -->``) of the pages of examples that tests/unit/test_pages.py runs

NOT_RUN is exact in both directions: a command line of a document that is neither run nor listed fails, and so does a
line here that is in no document any more, or that is run by now.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", CHECKOUT / "benchmarks/README.md",
    *sorted((CHECKOUT / "docs").rglob("*.md")),
]  # fmt: skip

_PIP = "installs from an index of packages"
_APT = "installs packages of the system"
_CRASH = "an hour or more; a sample of it is run in tests/crash"
_BENCH = "measures on a quiet machine; at a small scale: tests/system/test_benchmarks.py"
_ON_REAL_DATA = "minutes, by `make pages`; its script: tests/system/test_examples_on_real_data.py"
_SORT = "20 s with a kill, by `make pages`; on a SLURM and a Grid Engine: tests/servers; here: tests/unit/test_pages.py"
_TWO_MACHINES = "the same port on two machines; the monitor itself, at another port: test_document_scenes.py"

#: Lines that nobody runs here, by document, and the reason.
NOT_RUN: dict[str, dict[str, str]] = {
    "README.md": {
        "git clone ... jobtree; cd jobtree": "clones from somewhere",
        "pip install .": ".ci/check-install installs what `make dist` makes",
        "make demo": "its script: tests/system/test_examples.py",
        "make test": "what runs this",
        "python examples/sort.py --fileToSort big.txt --output sorted.txt --N 1000000 --jobTree sorting --stats":
            _SORT,
        "jobTreeStatus sorting": _SORT,
    },
    "CONTRIBUTING.md": {
        "make lint": ".ci/run",
        ".venv/bin/python -m pytest": "what runs this",
        "make test": "what runs this",
        "make clusters": ".ci/run",
        ".ci/run": "what runs this",
    },
    "benchmarks/README.md": {
        "make bench": _BENCH,
        "make bench ARGS='--only chain --repeat 5'": _BENCH,
        "make bench ARGS='--scale 0.01'": _BENCH,
        "make bench-peers": _BENCH,
        "make figures": _BENCH,
        ".venv/bin/python -m benchmarks.pool_claims": _BENCH,
        ".venv/bin/python -m benchmarks.monitor_cost": _BENCH,
        ".venv/bin/python benchmarks/where_time_goes.py": _BENCH,
    },
    "docs/examples/read_mapping.md": {
        "apt-get install bowtie2 bowtie2-examples samtools": _APT,
        "pip install matplotlib": _PIP,
        "python examples/read_mapping.py --jobTree mapping --output mapped": _ON_REAL_DATA,
        "jobTreeStatus mapping": _ON_REAL_DATA,
        "ls mapped": _ON_REAL_DATA,
        "python examples/read_mapping.py --jobTree mapping --output mapped --reference genome.fa.gz --reads 100000 "
        "sick=sick_1.fq.gz,sick_2.fq.gz healthy=healthy_1.fq.gz,healthy_2.fq.gz": "of the reader's own data",
    },
    "docs/examples/service.md": {
        "apt-get install redis-server": _APT,
        "pip install redis": _PIP,
    },
    "docs/examples/sweep.md": {
        "pip install scikit-learn matplotlib": _PIP,
        "python examples/sweep.py --jobTree sweeping --heatMap sweep.png": _ON_REAL_DATA,
    },
    "docs/explanation/crash-only-tested.md": {
        "make crash": _CRASH,
        "make mutants": _CRASH,
        "make soak": _CRASH,
        "make faults": _CRASH,
        'python -m pytest -m "" tests/crash/test_nfs_client.py tests/crash/test_nfs.py': "what runs this",
    },
    "docs/howto/gridengine.md": {
        ". $SGE_ROOT/default/common/settings.sh": "a file of an installed Grid Engine: that of the tests has variables",
        "pip install 'jobtree[drmaa]'": _PIP,
    },
    "docs/howto/monitor.md": {
        "jobTreeMonitor --port 8765 ./tree": _TWO_MACHINES,
        "ssh -N -L 8765:127.0.0.1:8765 node1": _TWO_MACHINES,
    },
    "docs/howto/pool.md": {
        "exec srun jobTreeNode --hub redis://ada@hub.example.org --cpus 16 --memory 58G "
        "--lifetime 7h --idle 10m --grace 60":
            "wants 16 cores of a SLURM; such nodes, smaller: tests/system/test_glide_in.py",
    },
    "docs/howto/statistics.md": {
        "python examples/read_mapping.py --jobTree mapping --output mapped --stats": _ON_REAL_DATA,
        "jobTreeStats mapping --pretty --categories time,memory --plot statistics.svg": _ON_REAL_DATA,
    },
    "docs/tutorial/index.md": {
        "python step6.py --jobTree tree6-slurm --batchSystem slurm big.txt": "tests/servers/test_tutorial.py runs it",
    },
}  # fmt: skip

#: Pages whose transcripts tests/unit/test_pages.py runs.
TRANSCRIPTS = ("commands", "crawl", "service", "sort")

#: What opens the terminals of blocks of `console on SYSTEM` and `console in SCENE`.
TERMINALS = {
    "on": [CHECKOUT / "tests/servers/test_documents.py"],
    "in": [CHECKOUT / "tests/system/test_document_scenes.py", CHECKOUT / "tests/servers/test_documents.py"],
}

#: Terminals that no test opens, and what does, in an environment of its own: tests/system/migration.py.
MIGRATE_CHECK = {("toil.md", "toil"), ("snakemake.md", "snakemake")}

_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"(?:#!.*\n)?# \w[\w.-]*\.\w+\b")  # it is written, and run by the commands of the page
_RUN_AGAIN = re.compile(r"<!-- run\b.*?<!-- end of run -->", re.DOTALL)
_PROMPT = re.compile(r"^\w*\$ +")
_PROGRAM = re.compile(
    r"(?:exec +|sudo +)?(?:jobTree(?:Run|Status|Kill|Stats|Node|Pool|Monitor)|[\w./-]*python[\d.]*|pip|pipx|git|make"
    r"|apt-get|apt|conda|docker|mkdir|cp|scp|ssh|srun|sbatch|qsub|redis-\w+|systemctl|loginctl|journalctl|crontab"
    r"|mount|curl|cat|cd|export|kill|\(|\.ci/\w+)(?: |$)"
)


def not_run(text: str, transcripts: bool = False) -> Iterator[str]:
    """The command lines of a document that stand in blocks which are not run; transcripts: whether those are run."""
    if transcripts:
        text = _RUN_AGAIN.sub("", text)
    for language, content in _BLOCK.findall(text):
        if language not in ("", "sh", "bash", "shell") or _FILE.match(content):
            continue
        prompted = any(_PROMPT.match(line) for line in content.splitlines())
        for line in content.replace("\\\n", " ").splitlines():
            if _PROMPT.match(line) if prompted else _PROGRAM.match(line):
                yield " ".join(re.split(r" {2,}#", _PROMPT.sub("", line))[0].split())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_each_command_line_is_run_or_listed(document: Path) -> None:
    name = document.relative_to(CHECKOUT).as_posix()
    found = set(not_run(document.read_text(encoding="utf-8"), document.stem in TRANSCRIPTS))

    assert found == set(NOT_RUN.get(name, {})), "run it, in a block of `console`, or say why not"


def test_documents_that_are_spoken_of_are_there() -> None:
    assert set(NOT_RUN) <= {document.relative_to(CHECKOUT).as_posix() for document in DOCUMENTS}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_each_terminal_of_a_document_is_one_that_a_test_opens(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for place, name in set(re.findall(r"^```console (on|in) (\w+)$", text, re.MULTILINE)):
        if (document.name, name) in MIGRATE_CHECK:
            continue
        tests = "".join(path.read_text(encoding="utf-8") for path in TERMINALS[place])
        assert f'"{document.name}"' in tests, f"console {place} {name}"
        assert f'"{name}"' in tests, f"console {place} {name}"

    for language, _ in _BLOCK.findall(text):
        assert not language.startswith("console") or re.fullmatch(r"console(?: (?:on|in) \w+)?", language)


def test_what_is_not_run_is_found() -> None:
    """The test of the test."""
    text = "\n".join(
        [
            "```",
            "$ jobTreeStatus tree  # look",
            "what came",
            "$ ls",
            "```",
            "```console",
            "$ pwd",
            "/",
            "```",
            "```",
            "python pipeline.py \\",
            "--jobTree tree",
            "a picture",
            "```",
            "<!-- run -->",
            "```",
            "$ date",
            "```",
            "<!-- end of run -->",
            "",
        ]  # fmt: skip
    )

    assert list(not_run(text)) == ["jobTreeStatus tree", "ls", "python pipeline.py --jobTree tree", "date"]
    assert list(not_run(text, transcripts=True)) == [
        "jobTreeStatus tree",
        "ls",
        "python pipeline.py --jobTree tree",
    ]
