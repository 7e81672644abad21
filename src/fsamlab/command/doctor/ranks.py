"""Two processes that train one model together; this module starts the second one, rank.py is the training."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

from fsamlab.command.doctor.items import FAILED, WORKS, Item

NETWORK = "set GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME to a network interface that works; one process is not affected"


def ranks(backend: str) -> Iterator[Item]:
    """Yield whether two ranks train as one process does; `gloo` on the CPU, `nccl` with a GPU for each rank."""
    topic = f"2 ranks, {backend}"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    code = f"from fsamlab.command.doctor.rank import train; train({backend!r}, 1, {port})"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # Not at the top: both processes import torch at the same time.
        from fsamlab.command.doctor.rank import CLOSE, STEPS, apart, train

        try:
            far = apart(train(backend, 0, port))
        except RuntimeError as e:
            yield Item(topic, (str(e).splitlines() or ["failed"])[0][:200], FAILED, NETWORK)
            return
    finally:
        other.kill()
        other.wait()
    if far > CLOSE:
        yield Item(topic, f"weights differ by {far:.1e} from those of one process", FAILED, NETWORK)
    else:
        yield Item(topic, f"{STEPS} steps of F-SAM give the weights of one process", WORKS)
