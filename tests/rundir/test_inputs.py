"""What a run reads from outside: recorded, compared when the run goes on, is skipped or measured; not read in vain."""

import gzip
import json
import logging
import re
import shutil

import pytest
import torch
from support.made_data import pictures
from support.runs import compose_tiny

import fsamlab.run
from fsamlab.command.measurement import measure_run
from fsamlab.config import ConfigError, DataConfig, MeasureConfig
from fsamlab.config.identity import config_hash, run_id
from fsamlab.config.project import PROJECT_ROOT
from fsamlab.run import run
from fsamlab.rundir import checkpoint, inputs
from fsamlab.storage.digests import IDX_FILES
from fsamlab.sweep.launcher import JobLauncher
from fsamlab.sweep.plan import JobPlan
from fsamlab.sweep.submit import choose, start, sweep_lock
from fsamlab.terminal.errors import SweepFailed

IMAGES = (
    "data=image_folder",
    "data.batch_size=4",
    "data.image_size=8",
    "data.resize=8",
    "data.num_workers=0",
    "model.width=2",
    "tracker=none",
    "diagnostics=off",
    "train.num_threads=1",
    "train.epochs=2",
    "train.progress=false",
    "train.checkpoint_every_steps=1",
)


def composed(root, *more):
    from hydra import compose, initialize_config_dir

    from fsamlab.config import typed
    from fsamlab.config.compose import register

    register()
    with initialize_config_dir(config_dir=str(PROJECT_ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", overrides=[*IMAGES, f"data.root={root}", *more]))


@pytest.fixture
def root(tmp_path):
    return pictures(tmp_path / "images", train=4, val=2)


class Stop(Exception):
    pass


@pytest.fixture
def stop_at(monkeypatch):
    """Make training raise after so many steps; None lets it go on."""

    def at(step):
        from fsamlab.run import Bookkeeper

        real = Bookkeeper.__dict__["boundary"] if not hasattr(at, "real") else at.real
        at.real = real

        def boundary(keeper):
            real(keeper)
            if step is not None and keeper.trainer.step >= step:
                raise Stop

        monkeypatch.setattr(Bookkeeper, "boundary", boundary)

    return at


def stopped_and_resumed(config, directory, stop_at, change):
    stop_at(2)
    with pytest.raises(Stop):
        run(config, directory)
    stop_at(None)
    change()
    return run(config, directory)


def test_one_more_picture_is_refused(root, tmp_path, stop_at):
    config, directory = composed(root), tmp_path / "run"
    extra = root / "train" / "cat" / "more.png"
    with pytest.raises(ConfigError, match="12 images") as raised:
        stopped_and_resumed(config, directory, stop_at, lambda: shutil.copy(root / "val" / "dog" / "0.png", extra))
    message = str(raised.value)
    assert message.startswith(f"data.root={root}: has changed since run started (12 images of ")
    assert "13 images" in message
    assert "force=true" in message
    assert "\n" not in message
    extra.unlink()
    assert run(config, directory)["cost/steps"] == 4  # restored: it goes on


@pytest.mark.parametrize("change", ["renamed", "resized", "hidden"])
def test_names_and_sizes_count_and_hidden_files_do_not(root, tmp_path, stop_at, change):
    picture = root / "train" / "cat" / "0.png"

    def act():
        if change == "renamed":
            picture.rename(picture.with_name("9.png"))
        elif change == "resized":
            picture.write_bytes(picture.read_bytes() + b"\0")
        else:
            (root / "train" / "cat" / "._0.png").write_bytes(b"x")

    if change == "hidden":
        assert stopped_and_resumed(composed(root), tmp_path / "run", stop_at, act)["cost/steps"] == 4
    else:
        with pytest.raises(ConfigError, match=r"data.root=.* has changed since run started"):
            stopped_and_resumed(composed(root), tmp_path / "run", stop_at, act)


def test_a_finished_run_is_not_the_result_of_other_data(root, tmp_path, stop_at):
    config, directory = composed(root), tmp_path / "sweep" / "run"
    first = run(config, directory)
    assert run(config, directory) == first  # skipped
    (root / "val" / "dog" / "0.png").unlink()
    with pytest.raises(ConfigError, match=r"data.root=.*12 images .* 11 images"):
        run(config, directory)
    with pytest.raises(ConfigError, match=r"data.root="):
        measure_run(directory, MeasureConfig(diagnostics=compose_tiny("diagnostics=light").diagnostics))
    forced = composed(root, "force=true")
    assert run(forced, directory)["data/num_test"] == 3
    assert run(config, directory)["data/num_test"] == 3
    shutil.rmtree(root)  # a finished run needs its data no more
    assert run(config, directory)["data/num_test"] == 3


def test_a_sweep_compares_what_it_skips_and_the_other_runs_go_on(root, tmp_path, caplog):
    plans = [
        JobPlan.of(config, [], tmp_path / "sweep" / run_id(config))
        for config in (composed(root), composed(root, "seed=1"), compose_tiny("train.max_steps=2"))
    ]
    plan, unfinished, other_data = plans
    run(composed(root), plan.directory)
    run(compose_tiny("train.max_steps=2"), other_data.directory)
    from fsamlab.sweep.launches import write_launch

    write_launch(tmp_path / "sweep", plans, ["launch.py"], PROJECT_ROOT, {"sha": None, "dirty": False, "source": "x"})
    choice = choose(tmp_path / "sweep", plans, False)
    assert (choice.todo, choice.left_out) == ([unfinished], [])
    (root / "train" / "cat" / "0.png").unlink()
    choice = choose(tmp_path / "sweep", plans, False)
    assert choice.todo == [unfinished]
    assert choice.ended == [unfinished, other_data]  # its result is not what the configuration would give now
    (line,) = choice.left_out
    assert re.match(rf"data.root={root}.* has changed since {plan.run_id} started", line)
    assert f"error: {plan.run_id} is left out: {line}" in caplog.text

    class Ends(JobLauncher):
        def run(self, jobs, on_submitted):
            return [None] * len(jobs)

    with (
        sweep_lock(tmp_path / "sweep") as lock,
        pytest.raises(SweepFailed, match=r"1 of 3 runs were left out: data\.root"),
    ):
        start(Ends(), tmp_path / "sweep", choice, lock, argv=[], hydra_overrides=[], on_end=lambda ended: 0)
    assert choose(tmp_path / "sweep", plans, True).todo == plans


def weights(path, seed):
    from fsamlab.models import build_model

    torch.manual_seed(seed)
    config = compose_tiny()
    torch.save(build_model(config.model, 10, 1).state_dict(), path)


def test_other_start_weights_are_refused_and_none_are_needed(tmp_path, stop_at):
    path, directory = tmp_path / "start.pt", tmp_path / "run"
    weights(path, 1)
    config = compose_tiny(f"model.checkpoint={path}", "train.checkpoint_every_steps=1", "train.keep_state=true")
    whole = run(config, tmp_path / "whole")
    with pytest.raises(ConfigError, match=r"model.checkpoint=.* has changed since run started \(content \w+ then"):
        stopped_and_resumed(config, directory, stop_at, lambda: weights(path, 2))
    with pytest.raises(ConfigError, match=r"model.checkpoint=.* has changed since whole started"):
        run(config, tmp_path / "whole")
    path.unlink()
    run(config, directory)
    resumed = checkpoint.load(directory / "checkpoints" / "last.pt")["model"]
    expected = checkpoint.load(tmp_path / "whole" / "checkpoints" / "last.pt")["model"]
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    (directory / "measurements").mkdir()
    row = measure_run(directory, MeasureConfig(diagnostics=compose_tiny("diagnostics=light").diagnostics))
    assert row.exists()
    assert run(config, tmp_path / "whole")["final/test/acc1"] == whole["final/test/acc1"]


def test_start_weights_that_are_replaced_while_they_are_read_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "start.pt"
    weights(path, 1)
    real = fsamlab.run.build

    def replaced_meanwhile(*args, **options):
        built = real(*args, **options)
        weights(path, 2)
        return built

    monkeypatch.setattr(fsamlab.run, "build", replaced_meanwhile)
    with pytest.raises(ConfigError, match=r"model.checkpoint=.* was replaced while the run read the file"):
        run(compose_tiny(f"model.checkpoint={path}"), tmp_path / "run")
    assert not (tmp_path / "run" / "inputs.json").exists()


def test_pretrained_weights_are_read_once(tmp_path, stop_at, monkeypatch):
    """After a checkpoint, the hub may be out of reach."""
    import timm

    real, asked = timm.create_model, []

    def create(name, pretrained=False, **options):
        asked.append(pretrained)
        if pretrained and len(asked) > 1:
            raise OSError("no route to host")
        return real(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create)
    config = compose_tiny(
        "model=timm",
        "model.name=test_resnet",
        "model.pretrained=true",
        "model.width=null",
        "train.checkpoint_every_steps=1",
        "data.num_samples=64",
        "data.test_size=8",
        "data.val_size=0",
    )
    assert stopped_and_resumed(config, tmp_path / "run", stop_at, lambda: None)["cost/steps"] > 2
    assert asked == [True, False]


def test_a_run_from_before_goes_on_with_a_notice(root, tmp_path, stop_at, caplog):
    def forget():
        (tmp_path / "run" / inputs.FILE).unlink()
        (root / "train" / "cat" / "more.png").write_bytes((root / "val" / "dog" / "0.png").read_bytes())
        (root / "train" / "cat" / "more.png").unlink()

    with caplog.at_level(logging.INFO):
        stopped_and_resumed(composed(root), tmp_path / "run", stop_at, forget)
        assert "are not on record" in caplog.text
        (tmp_path / "run" / inputs.FILE).unlink()
        run(composed(root), tmp_path / "run")
        assert "not compared: 1 of the finished runs" in caplog.text
        (tmp_path / "run" / inputs.FILE).write_text('{"data": 3}')
        run(composed(root), tmp_path / "run")
    assert "does not hold digests" in caplog.text


def test_fashion_mnist_is_compared_by_content(tmp_path, monkeypatch):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for number, name in enumerate(IDX_FILES):
        (raw / name).write_bytes(bytes([number] * 50))
    config = compose_tiny()
    config.data = DataConfig(name="fashion_mnist", root=str(tmp_path))
    first = inputs.look(config)["data.root"]
    (raw / IDX_FILES[0]).unlink()
    (raw / f"{IDX_FILES[0]}.gz").write_bytes(gzip.compress(bytes([0] * 50)))
    assert inputs.look(config)["data.root"] == first  # compressed or not
    (raw / IDX_FILES[1]).write_bytes(bytes([9] * 50))
    assert inputs.look(config)["data.root"] != first


def test_foreign_code_is_compared_as_our_own_code_is(tmp_path, monkeypatch, caplog):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("raise ImportError('not to be imported')")
    module = tmp_path / "package" / "net.py"
    module.write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    config = compose_tiny("model.import_path=package.net:build")
    inputs.record(tmp_path, inputs.look(config))
    assert json.loads((tmp_path / inputs.FILE).read_text()).keys() == {"model.import_path"}
    module.write_text("x = 2")
    assert inputs.check(tmp_path, config, inputs.look(config))
    assert "the code of model.import_path=package.net:build has changed" in caplog.text
    strict = compose_tiny("model.import_path=package.net:build", "on_code_change=refuse")
    with pytest.raises(ConfigError, match=r"on_code_change=refuse: the code of model.import_path has changed"):
        inputs.check(tmp_path, strict, inputs.look(strict))


@pytest.mark.long
def test_one_file_is_one_run_however_its_path_is_written(monkeypatch):
    monkeypatch.setenv("HOME", str(PROJECT_ROOT / "conf"))
    spelt = ("runs/a/last.pt", "./runs/a/last.pt", "runs/b/../a/last.pt", f"{PROJECT_ROOT}/runs/a/last.pt")
    hashes = {config_hash(compose_tiny(f"model.checkpoint={path}")) for path in (*spelt, "'~/../runs/a/last.pt'")}
    assert hashes == {config_hash(compose_tiny("model.checkpoint=runs/a/last.pt"))}
    spelt = ("/data/pets", "/data/pets/", "//data/pets", "///data//pets", "/data/x/../pets")
    folders = {config_hash(composed(path)) for path in spelt}
    assert len(folders) == 1
    assert config_hash(composed("data")) == config_hash(composed("./data"))


@pytest.mark.parametrize(
    ("place", "known"), [("model.checkpoint=runs/a/last.pt", "595b4bc4"), ("model.checkpoint=/w/last.pt", "3b532c4f")]
)
def test_plain_paths_keep_their_identity(place, known):
    """The hashes of before paths were normalised."""
    assert config_hash(compose_tiny(place)) == known


def test_plain_roots_keep_their_identity():
    assert config_hash(composed("/data/pets")) == "56c7d460"
    assert config_hash(composed("data/image_folder")) == "75cfdf97"
