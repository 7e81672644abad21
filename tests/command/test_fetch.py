"""`fsamlab fetch`: which things a command line reads, where they come from, and what it says when they do not come."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torchvision
from PIL import Image
from support.runs import ROOT

from fsamlab.command.fetch import grid
from fsamlab.command.main import main

MODEL = "test_resnet.r160_in1k"  # 0.5 million parameters
WEIGHTS = f"/timm/{MODEL}/resolve/main/model.safetensors"
CIFAR10 = torchvision.datasets.CIFAR10


@pytest.fixture
def cifar(monkeypatch, tmp_path):
    """torchvision's CIFAR-10 whose download writes a few images; returns how often it was called."""
    sys.path.insert(0, str(ROOT / "tests" / "data"))
    from support.made_data import write_cifar

    calls = []

    def download(self):
        if not self._check_integrity():
            calls.append(self.root)
            write_cifar(tmp_path / "data", CIFAR10, "labels", monkeypatch)

    monkeypatch.setattr(CIFAR10, "download", download)
    yield calls
    sys.path.remove(str(ROOT / "tests" / "data"))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A server that holds the weights of MODEL and nothing else; an empty cache; returns the paths asked for."""
    import timm
    from huggingface_hub import constants
    from safetensors.torch import save

    content = save(timm.create_model(MODEL.partition(".")[0]).state_dict())
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            there = self.path == WEIGHTS
            if self.path.startswith("/timm"):
                asked.append(self.path)
            self.send_response(200 if there else 404)
            if there:
                self.send_header("ETag", '"e1"')
                self.send_header("X-Repo-Commit", "0" * 40)
            else:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", str(len(content) if there else 0))
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            if self.path == WEIGHTS:
                self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield asked
    server.shutdown()
    server.server_close()


def fetched(capfd, *words):
    """Return exit code, lines of stdout, lines of stderr."""
    code = main(["fetch", *words])
    out, err = capfd.readouterr()
    return code, out.splitlines(), err.splitlines()


def test_the_grid_is_the_sweepers():
    configs = grid(["+sweeps=quickstart", "seed=7"])  # the command line wins over the file's three seeds
    assert (len(configs), {c.seed for c in configs}) == (7, {7})
    assert len({c.optimizer.name for c in configs}) == 7
    configs = grid(["data=digits,synthetic", "seed=range(2)"])
    assert {(c.data.name, c.seed) for c in configs} == {(d, s) for d in ("digits", "synthetic") for s in (0, 1)}
    assert len(grid([])) == 1


def test_each_thing_is_one_line(capfd):
    code, out, err = fetched(capfd, "data=digits,synthetic", "seed=0,1", "optimizer=sam,fsam")
    assert (code, err) == (0, [])
    assert out == [
        "data digits: comes with scikit-learn, nothing to fetch",
        "data synthetic: is generated, nothing to fetch",
    ]


def test_a_set_is_downloaded_once(cifar, tmp_path, capfd):
    words = ("data=cifar10", f"data.root={tmp_path / 'data'}", "data.batch_size=2,4", "data.val_size=2")
    place = f"data cifar10: {tmp_path / 'data' / 'cifar-10-batches-py'}, 0.1 MB"
    assert fetched(capfd, *words) == (0, [f"{place}, fetched"], [])
    assert fetched(capfd, *words) == (0, [f"{place}, there already"], [])
    assert len(cifar) == 1


def test_a_failure_is_one_line_and_the_others_are_fetched(tmp_path, monkeypatch, capfd):
    def no_network(self):
        raise OSError("no route to host")

    monkeypatch.setattr(CIFAR10, "download", no_network)
    code, out, err = fetched(capfd, "data=cifar10,imagenet,digits", f"data.root={tmp_path}")
    assert code == 1
    assert out == ["data digits: comes with scikit-learn, nothing to fetch"]
    assert len(err) == 2
    assert err[0].startswith("error: data.download=True: could not download cifar10")
    assert "no route to host" in err[0]
    assert f"{tmp_path / 'train'} must hold one folder of images per class" in err[1]
    assert "data=imagenet data.root=PATH" in err[1]


def test_a_folder_of_images_that_is_there(tmp_path, capfd):
    for part in ("train", "val"):
        for kind in ("a", "b"):
            (tmp_path / part / kind).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / part / kind / "x.png")
    words = ("data=image_folder", f"data.root={tmp_path}", "data.batch_size=1")
    assert fetched(capfd, *words) == (0, [f"data image_folder: {tmp_path}, there already"], [])


def test_a_set_of_ones_own_may_download(tmp_path, monkeypatch, capfd):
    (tmp_path / "mine.py").write_text(
        "def build(cfg, seed, device, root):\n    assert cfg.download\n    print('reads', cfg.root)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, out, err = fetched(capfd, "data.import_path='mine:build'", "data.name=mine", "data.root=here")
    assert (code, out, err) == (0, ["reads here", "data mine: read by mine:build"], [])


def test_weights_come_once_and_a_failure_stops_no_other(hub, tmp_path, capfd, monkeypatch):
    place = f"weights {MODEL}: {tmp_path / 'hub' / f'models--timm--{MODEL}'}"
    words = ("model=timm", "model.pretrained=true", f"model.name=test_resnet.nope,{MODEL},resnott")
    code, out, err = fetched(capfd, *words, "optimizer=sam,fsam")
    assert code == 1
    assert out[0].startswith("data digits")
    assert out[1].startswith(place)
    assert out[1].endswith("MB, fetched")
    assert len(out) == len(err) == 2
    assert "the weights of test_resnet.nope could not be loaded (Invalid pretrained tag" in err[0]
    assert "model.name=resnott: is not a model of timm" in err[1]
    assert set(hub) == {WEIGHTS}

    from huggingface_hub import constants

    hub.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as on a node without internet
    code, out, err = fetched(capfd, "model=timm", "model.pretrained=true", f"model.name={MODEL}")
    assert (code, err, hub) == (0, [], [])
    assert out[1].endswith("MB, there already")


@pytest.mark.parametrize("size", [None, 32])
def test_a_model_of_fixed_size_is_built_for_the_images_of_the_run(monkeypatch, capfd, tmp_path, size):
    import timm

    asked = []

    def create_model(name, **options):
        asked.append(options.get("img_size"))
        return made(name, **{**options, "pretrained": False})

    made = timm.create_model
    monkeypatch.setattr(timm, "create_model", create_model)
    where = ("data=synthetic", f"data.image_size={size}") if size else ("data=imagenet", f"data.root={tmp_path}")
    code, out, err = fetched(capfd, *where, "model=timm", "model.name=test_vit", "model.pretrained=true")
    assert out[-1].startswith("weights test_vit: ")
    assert asked == [(size, size) if size else None]  # where there are no images to ask, the model's own
    assert (code, len(err)) == ((0, 0) if size else (1, 1))


def test_weights_that_cannot_be_got(hub, capfd):
    name = "test_vit.r160_in1k"
    code, out, err = fetched(capfd, "model=timm", "model.pretrained=true", f"model.name={name}")
    assert (code, len(out), len(err)) == (1, 1, 1)
    assert f"the weights of {name} could not be loaded" in err[0]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("optimizer=samm",), "optimizer=samm: no such option (did you mean sam?)"),
        (("optimizer.rho=0.1,-1",), "optimizer.rho=-1.0: must be finite and >= 0"),
        (("+sweeps=nope",), "sweeps=nope: no such option"),
        (("data.nme=x",), "data.nme: unknown key (did you mean name?)"),
    ],
)
def test_a_bad_word_is_one_line_and_nothing_is_fetched(words, line, capfd):
    code, out, err = fetched(capfd, *words)
    assert (code, out, len(err)) == (1, [], 1)
    assert line in err[0]


def test_composing_imports_no_torch():
    code = "import sys; from fsamlab.command.fetch import grid; grid(['seed=0,1']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
