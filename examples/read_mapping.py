"""Reads of DNA to sorted, indexed alignments, and a plot of the coverage: with bowtie2 and samtools.

    apt-get install bowtie2 bowtie2-examples samtools
    python examples/read_mapping.py --jobTree mapping --output mapped

Without other arguments it maps what bowtie2-examples brings, reads of the phage lambda, to that phage's genome. Or:
    ... --reference genome.fa.gz sick=sick_1.fq.gz,sick_2.fq.gz healthy=healthy_1.fq.gz,healthy_2.fq.gz

The reads of a sample are split, the pieces mapped in parallel, and merged: the same result, however they are split.
"""

import argparse
import gzip
import itertools
import json
import os
import shutil
import subprocess
from typing import IO, Any, NamedTuple

from matplotlib.figure import Figure

from jobtree import Stack, Target

DATA = "/usr/share/doc/bowtie2/examples"
READS = f"{DATA}/reads"
SAMPLES = [f"pairs={READS}/reads_1.fq.gz,{READS}/reads_2.fq.gz", f"long={READS}/longreads.fq.gz"]
WINDOW = 100  # so many positions are one step in the plot


class Summary(NamedTuple):
    """What is told of a sample."""

    name: str
    reads: int
    mapped: int
    depths: list[int]  # at each position of the genome


def map_all(target: Target, reference: str, samples: list[Any], reads: int, output: str) -> Any:
    """The first target: makes the index, in which the reads are looked up. Its children are the samples."""
    genome = os.path.join(target.getGlobalTempDir(), "genome")  # there until all samples are done
    with opened(reference) as packed, open(genome + ".fa", "w") as plain:
        shutil.copyfileobj(packed, plain)
    call("bowtie2-build", "--quiet", genome + ".fa", genome)
    rest = (genome, reads, output)
    children = [target.addChildTargetFn(map_sample, (*sample, *rest), memory="200M") for sample in samples]
    summaries = [child.rv() for child in children]
    return target.setFollowOnFn(plot, (summaries, output), memory="500M").rv()


def map_sample(target: Target, name: str, files: list[str], genome: str, reads: int, output: str) -> Any:
    """Splits the reads of a sample. Its children map the pieces; its follow-on merges them."""
    here = target.getGlobalTempDir()
    pieces = zip(*(split(file, reads, os.path.join(here, f"{n}-")) for n, file in enumerate(files)))
    mapped = []
    for number, piece in enumerate(pieces):
        mapped.append(os.path.join(here, f"{number}.bam"))
        target.addChildTargetFn(map_piece, (name, piece, genome, mapped[-1]), time=2, memory="500M")
    return target.setFollowOnFn(merge, (name, mapped, output), memory="500M").rv()


def map_piece(target: Target, name: str, piece: tuple[str, ...], genome: str, bam: str) -> None:
    """Maps the reads of one piece, or its pairs of reads, and sorts them by their place in the genome."""
    sam = os.path.join(target.getLocalTempDir(), "mapped.sam")  # gone when this target has ended
    reads = ["-U", piece[0]] if len(piece) == 1 else ["-1", piece[0], "-2", piece[1]]
    group = ("--rg-id", name, "--rg", f"SM:{name}")
    call("bowtie2", "--local", "--quiet", *group, "-x", genome, *reads, "-S", sam)
    call("samtools", "sort", "-o", bam, sam)


def merge(name: str, pieces: list[str], output: str) -> Summary:
    """Merges the pieces of a sample, indexes the whole, and says what is in it."""
    bam = os.path.join(output, name + ".bam")
    call("samtools", "merge", "-f", "-c", "-p", "-o", bam + ".tmp", *pieces)
    call("samtools", "index", bam + ".tmp", bam + ".bai")
    os.replace(bam + ".tmp", bam)
    flags = json.loads(call("samtools", "flagstat", "-O", "json", bam))["QC-passed reads"]
    depths = [int(line.split("\t")[2]) for line in call("samtools", "depth", "-a", bam).splitlines()]
    return Summary(name, flags["primary"], flags["primary mapped"], depths)


def plot(summaries: list[Summary], output: str) -> list[Summary]:
    """Draws the coverage of all samples, one below the other. Returns what it was given: the result of the run."""
    figure = Figure(figsize=(9, 2.4 * len(summaries)), layout="constrained")
    for axes, found in zip(figure.subplots(len(summaries), sharex=True, squeeze=False)[:, 0], summaries):
        edges = [*range(0, len(found.depths), WINDOW), len(found.depths)]
        means = [sum(found.depths[a:b]) / (b - a) for a, b in zip(edges, edges[1:])]
        axes.stairs(means, edges, fill=True)
        axes.set(title=f"{found.name}: {found.mapped} of {found.reads} reads", ylabel="depth")
    axes.set_xlabel(f"position in the genome (means of {WINDOW})")
    figure.savefig(os.path.join(output, "coverage.png"))
    return summaries


def call(*command: str) -> str:
    """Run a program; what it prints. If it fails the target does, with what it complained of in its log."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def opened(path: str) -> IO[str]:
    return gzip.open(path, "rt") if path.endswith(".gz") else open(path)


def split(path: str, reads: int, prefix: str) -> list[str]:
    """Cut a FASTQ file, four lines a read, into files of so many reads."""
    pieces: list[str] = []
    with opened(path) as lines:
        while piece := list(itertools.islice(lines, 4 * reads)):
            pieces.append(f"{prefix}{len(pieces)}.fq")
            with open(pieces[-1], "w") as file:
                file.writelines(piece)
    return pieces


def read_sample(text: str) -> tuple[str, list[str]]:
    name, _, files = text.partition("=")
    paths = [os.path.abspath(path) for path in files.split(",")]
    if not name or not files or os.sep in name or len(paths) > 2:
        raise argparse.ArgumentTypeError(f"{text}: not NAME=READS or NAME=READS,MATES")
    return name, paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("samples", nargs="*", type=read_sample, help="NAME=READS or NAME=READS,MATES")
    parser.add_argument("--reference", default=f"{DATA}/reference/lambda_virus.fa.gz", help="the genome")
    parser.add_argument("--reads", type=int, default=1000, help="reads in a piece; default: 1000")
    parser.add_argument("--output", default="mapped", help="the directory of the results; default: mapped")
    Stack.addJobTreeOptions(parser)
    options = parser.parse_args()
    if missing := [tool for tool in ("bowtie2", "samtools") if shutil.which(tool) is None]:
        parser.error(f"not installed: {', '.join(missing)}")
    samples = options.samples or [read_sample(text) for text in SAMPLES]
    reference, output = os.path.abspath(options.reference), os.path.abspath(options.output)
    files = [reference, *(path for _, paths in samples for path in paths)]
    if missing := [path for path in files if not os.path.isfile(path)]:
        parser.error(f"not there: {', '.join(missing)} (those of {DATA}: apt-get install bowtie2-examples)")
    os.makedirs(output, exist_ok=True)
    stack = Stack(Target.makeTargetFn(map_all, (reference, samples, options.reads, output), memory="1G"))
    if stack.startJobTree(options):
        raise SystemExit(1)
    print(f"{'sample':<12}{'reads':>8}{'mapped':>9}{'mean depth':>12}{'covered':>9}")
    for name, reads, mapped, depths in stack.result():
        covered, depth = sum(d > 0 for d in depths) / len(depths), sum(depths) / len(depths)
        print(f"{name:<12}{reads:>8}{mapped / reads:>9.1%}{depth:>12.1f}{covered:>9.1%}")


if __name__ == "__main__":
    main()
