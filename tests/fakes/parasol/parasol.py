"""Parasol's client for tests: speaks the formats of the real one to the hub in $FAKE_PARASOL."""

import json
import os
import signal
import socket
import sys


def main() -> int:
    directory = os.environ["FAKE_PARASOL"]
    words = sys.argv[1:]
    with open(os.path.join(directory, "calls"), "a") as calls:
        calls.write(" ".join(word for word in words if not word.startswith("-"))[:40] + "\n")
    try:
        if os.path.exists(os.path.join(directory, "tricks", "down")):
            raise ConnectionRefusedError
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.path.join(directory, "hub"))
            connection.sendall(json.dumps(words).encode() + b"\n")
            answer = json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))
        if os.path.exists(os.path.join(directory, "tricks", "mute")):
            raise TimeoutError
    except (OSError, ValueError):
        if "add" in words:
            os.kill(os.getpid(), signal.SIGSEGV)
        print("rudpSend timed out", file=sys.stderr)
        print(f"Couldn't send '{words[-1]}' command to paraHub", file=sys.stderr)
        return 255
    sys.stdout.write(answer["out"])
    sys.stderr.write(answer["err"])
    return int(answer["status"])


if __name__ == "__main__":
    sys.exit(main())
