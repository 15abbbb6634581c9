"""The arguments by which jobTreeNode and jobTreePool find the hub, and the connection that they mean."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from batchsystems.abstract import BatchSystemError
from jobtree.errors import UsageError

if TYPE_CHECKING:
    from batchsystems.pool_hub import Hub


def add_hub(to: argparse.ArgumentParser) -> None:
    """Add them."""
    from batchsystems.pool_signing import KEY_FILE, PASSWORD_FILE

    hub = to.add_argument_group("the hub, and how it lets you in")
    hub.add_argument(
        "--hub", required=True, metavar="URL", help="redis://[USER@]HOST[:PORT], or rediss:// for TLS"
    )
    hub.add_argument(
        "--passwordFile",
        metavar="FILE",
        help=f"a file with the password for the hub; default: {PASSWORD_FILE}, if it is there",
    )
    hub.add_argument(
        "--keyFile",
        metavar="FILE",
        default=KEY_FILE,
        help=f"your signing key, the same file on all machines; default: {KEY_FILE}",
    )
    hub.add_argument("--ca", metavar="FILE", help="certificates by which the hub's is checked (TLS)")
    hub.add_argument("--certificate", metavar="FILE", help="your own certificate, if the hub wants one (TLS)")
    hub.add_argument("--certificateKey", metavar="FILE", help="the key of that")


@contextlib.contextmanager
def hub(arguments: argparse.Namespace) -> Iterator[Hub]:
    """The hub, which lets us in. Whatever keeps one from it is a UsageError, also later."""
    from batchsystems import pool_hub
    from batchsystems.pool_signing import load_key

    try:
        where = pool_hub.address(
            arguments.hub,
            arguments.passwordFile,
            arguments.ca,
            arguments.certificate,
            arguments.certificateKey,
        )
        found = pool_hub.Hub(where, load_key(arguments.keyFile))
        try:
            found.check()
            yield found
        finally:
            found.close()
    except BatchSystemError as error:
        raise UsageError(str(error)) from error
