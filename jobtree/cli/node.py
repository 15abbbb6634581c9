"""jobTreeNode: make this machine, or a part of it, a node of a pool."""

from __future__ import annotations

import argparse
import logging
import re
import socket
import sys
from collections.abc import Sequence
from typing import Callable, Optional, TypeVar

from jobtree.cli import pool_arguments, program
from jobtree.quantities import parse_duration, parse_memory

_NAME = "jobTreeNode"
_Value = TypeVar("_Value")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit status."""
    return program.run(_NAME, _command, argv)


def _parser() -> argparse.ArgumentParser:
    parser = program.parser(
        _NAME,
        "Make this machine, or a part of it, a node of a pool: it takes jobs of the user who runs it, as they fit, "
        "until it is told to end (Ctrl-C, SIGTERM). SIGUSR1: take nothing more, and end with the last job.",
        "  jobTreeNode --hub redis://hub.example.org --cpus 8 --memory 32G",
    )
    pool_arguments.add_hub(parser)
    offer = parser.add_argument_group("what it offers")
    end = parser.add_argument_group("when it ends, and its jobs")
    offer.add_argument(
        "--cpus", type=_type(_cores), metavar="N", help="cores for jobs; default: those of this machine"
    )
    offer.add_argument(
        "--memory", type=_type(parse_memory), metavar="SIZE", help="memory for jobs; default: this machine's"
    )
    offer.add_argument(
        "--gpus",
        type=int,
        metavar="N",
        help="graphics cards for jobs, numbered from 0; default: those that CUDA_VISIBLE_DEVICES names, or all",
    )
    end.add_argument(
        "--nodeTimeout", type=_type(parse_duration), default=120.0, metavar="TIME",
        help="silence after which its jobs are given to others; it ends them after two thirds of that; default: 2 min",
    )  # fmt: skip
    offer.add_argument(
        "--place", type=_place, metavar="NAME",
        help="share this machine with the nodes of other users of the same place: together they run no more than the "
        "largest of them may",
    )  # fmt: skip
    end.add_argument(
        "--grace", type=_type(parse_duration), default=10.0, metavar="TIME",
        help="what jobs get between SIGTERM and SIGKILL when the node is told to end; default: 10 s",
    )  # fmt: skip
    end.add_argument(
        "--idle", type=_type(parse_duration), metavar="TIME", help="end after so long without a job"
    )
    end.add_argument(
        "--lifetime", type=_type(parse_duration), metavar="TIME",
        help="take nothing more after so long, and end with the last job",
    )  # fmt: skip
    offer.add_argument(
        "--host", default=socket.gethostname(), metavar="NAME", help="its name; default: this host's"
    )
    return parser


def _type(parse: Callable[[str], _Value]) -> Callable[[str], _Value]:
    def read(text: str) -> _Value:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _cores(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e6:
        raise ValueError(f"{text!r} is no number of cores; expected one that is more than 0")
    return number


def _place(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9._-]+", text) is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no name of a place; expected letters, digits, '.', '_', '-'"
        )
    return text


def _command(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    from batchsystems.machine import usable_cores, usable_memory
    from batchsystems.pool_node import Node, NodeSettings

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stderr)
    with pool_arguments.hub(arguments) as hub:
        settings = NodeSettings(
            cpu=arguments.cpus if arguments.cpus is not None else usable_cores(),
            memory=arguments.memory if arguments.memory is not None else usable_memory(),
            timeout=arguments.nodeTimeout,
            place=arguments.place or "",
            grace=arguments.grace,
            idle=arguments.idle,
            lifetime=arguments.lifetime,
            host=arguments.host,
            gpus=arguments.gpus,
        )
        return Node(hub, settings).run()
