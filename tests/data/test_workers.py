"""Every way out of a loop that worker processes feed ends in bounded time: real processes, nothing of them left."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.made_data import pictures

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120  # a process that hangs is found out by this; one that does not needs a tenth

# The loop of the test: `batches` is kept alive by the module, as a traceback would keep it.
PRELUDE = """
import os, sys, resource, signal
from pathlib import Path
import torch
from fsamlab.config import ImageFolderConfig
from fsamlab.data import build_data

def data(**fields):
    cfg = ImageFolderConfig(**{"name": "image_folder", "root": ROOT, "batch_size": 4, "eval_batch_size": 5,
                               "image_size": 8, "resize": 8, "num_workers": 2, **fields})
    return build_data(cfg, 0, torch.device("cpu"), Path(ROOT))

if __name__ == "__main__":
    d = data()
    batches = d.train.batches(0)
"""
WAYS = {
    "exception": "next(batches)\n1 / 0",
    "exit": "next(batches)\nsys.exit(3)",
    "interrupt": "next(batches)\nraise KeyboardInterrupt",
    "break, then the end": "for batch in batches:\n    break",
    "two loops at once": "next(batches)\nother = d.test.batches()\nnext(other)\nsys.exit(3)",
    "the end inside evaluation": "other = d.test.batches()\nnext(other)",
    "the end inside a full pass": "other = d.train.full(0)\nnext(other)",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """20 training and 8 test images."""
    return pictures(tmp_path_factory.mktemp("images"), train=10, val=4)


def ends(command, **env):
    """Run a command; return its exit code and output. It and all its children must be gone in time."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=SECONDS)
        end = time.monotonic() + 30
        while group_lives(process.pid):
            assert time.monotonic() < end, "workers are left"
            time.sleep(0.1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


def group_lives(pid):
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def script(root, tmp_path, body):
    path = tmp_path / "loop.py"
    lines = PRELUDE.replace("ROOT", repr(str(root))) + "".join(f"    {line}\n" for line in body.splitlines())
    path.write_text(lines)
    return [sys.executable, str(path)]


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_a_loop_left_in_the_middle(root, tmp_path, way):
    code, _, err = ends(script(root, tmp_path, WAYS[way]))
    expected = {"exception": 1, "exit": 3, "two loops at once": 3, "interrupt": -signal.SIGINT}
    assert code == expected.get(way, 0), err
    assert "Exception ignored" not in err


@pytest.mark.long
@pytest.mark.parametrize(
    "loop",
    [
        "list(d.train.batches(0))",
        "list(d.train.full(0))",
        "d.train.other(0, 20)",
        "d.train.at(torch.arange(20))",
        "list(d.test.batches())",
    ],
)
def test_a_picture_that_cannot_be_read_is_named(tmp_path, loop):
    root = pictures(tmp_path / "images", train=10, val=4)
    part = "val" if "test" in loop else "train"
    bad = root / part / "dog" / "1.png"
    bad.write_bytes(bad.read_bytes()[:60])  # cut off
    body = f"try:\n    {loop}\nexcept Exception as e:\n    error = e\n    print(type(e).__name__, e)"
    code, out, err = ends(script(root, tmp_path, body))
    assert code == 0, err
    assert out.startswith(f"Damaged {bad} cannot be read as an image (")
    assert out.count("\n") == 1


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["sgd", "sam_full"])
def test_a_run_with_a_bad_picture_ends_with_one_line(tmp_path, optimizer):
    root = pictures(tmp_path / "images", train=10, val=4)
    (root / "train" / "cat" / "z.png").write_bytes(b"no picture")
    words = "data=image_folder data.image_size=8 data.resize=8 data.eval_batch_size=4 model.width=2 tracker=none"
    more = f"diagnostics=off train.progress=false data.val_size=0 data.batch_size=7 optimizer={optimizer}"
    own = [f"data.root={root}", f"runs_dir={tmp_path / 'runs'}", "data.num_workers=2"]
    code, _, err = ends([sys.executable, "launch.py", *words.split(), *more.split(), *own])
    assert code == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"error: {root / 'train' / 'cat' / 'z.png'} cannot be read as an image")
    assert "Traceback" not in err


@pytest.mark.long
def test_too_many_open_files_while_workers_start(root, tmp_path):
    """The limit is met somewhere in the middle: some workers have started already."""
    body = (
        "used = len(os.listdir('/proc/self/fd'))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12, used + 12))\n"
        "try:\n    list(data(num_workers=8).train.batches(0))\n"
        "except Exception as e:\n    error = e\n    print(type(e).__name__, e)\n"
        "open(os.devnull).close()  # files can be opened again, to write down what went wrong\n"
        "sys.exit(4)"
    )
    code, out, err = ends(script(root, tmp_path, body))
    assert code == 4, err
    assert out.startswith("ConfigError data.num_workers=8: cannot start the worker processes (Too many open files): ")
    assert "ulimit -n" in out
    assert "Exception ignored" not in err


@pytest.mark.long
def test_no_shared_memory_left_for_the_locks(root, tmp_path):
    """A full /dev/shm, met when the third worker's queue makes its locks."""
    body = (
        "import multiprocessing.context as context\n"
        "real, made = context.BaseContext.Lock, []\n"
        "def lock(self):\n"
        "    made.append(1)\n"
        "    if len(made) > 6:\n        raise OSError(28, 'No space left on device')\n"
        "    return real(self)\n"
        "context.BaseContext.Lock = lock\n"
        "try:\n    list(data(num_workers=8).train.batches(0))\n"
        "except Exception as e:\n    error = e\n    print(type(e).__name__, e)\n"
        "sys.exit(4)"
    )
    code, out, err = ends(script(root, tmp_path, body))
    assert code == 4, err
    assert "data.num_workers=8: cannot start the worker processes (No space left on device): shared memory" in out


def private_mounts():
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/dev/shm"]
    with contextlib.suppress(OSError):
        return subprocess.run(probe, capture_output=True).returncode == 0
    return False


@pytest.mark.long
@pytest.mark.parametrize("size", ["4k", "64k"])
def test_a_small_shared_memory(root, tmp_path, size):
    if not private_mounts():
        pytest.skip("needs a mount namespace of its own")
    body = (
        "try:\n    list(data(image_size=64, resize=64).train.batches(0))\n"
        "except Exception as e:\n    error = e\n    print(type(e).__name__, e)\n"
        "sys.exit(4)"
    )
    inside = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    code, out, err = ends(["unshare", "-rm", "sh", "-c", inside, "sh", *script(root, tmp_path, body)])
    assert code == 4, err
    assert out.startswith("ConfigError data.num_workers=2: ")
    assert "/dev/shm" in out
    assert out.count("\n") == 1


@pytest.mark.long
def test_an_item_that_cannot_be_sent_is_not_waited_for(root, tmp_path):
    """The thread that sends a worker's batches loses one: torch's main process would wait for the batch without end."""
    body = (
        "from fsamlab.data import streamed\n"
        "class Unsendable:\n    def __reduce__(self):\n        raise RuntimeError('cannot be sent')\n"
        "streamed.collate = lambda samples: Unsendable()\n"
        "try:\n    next(batches)\nexcept Exception as e:\n    error = e\n    print(type(e).__name__, e)\n"
        "sys.exit(4)"
    )
    code, out, err = ends(script(root, tmp_path, body))
    assert code == 4, err
    assert out.startswith("ConfigError data.num_workers=2: the worker processes cannot continue (DataLoader worker")


@pytest.mark.long
def test_workers_end_when_the_main_process_is_killed(root, tmp_path):
    code, _, _ = ends(script(root, tmp_path, "next(batches)\nos.kill(os.getpid(), signal.SIGKILL)"))
    assert code == -signal.SIGKILL
