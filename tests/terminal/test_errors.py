import pytest
from hydra import compose, initialize_config_dir
from support.marks import long_but
from support.runs import TINY, compose_tiny

WRONG = {
    "optimizer.rhoo=1": "optimizer.rhoo: unknown key (did you mean rho?)",
    "+optimizer.rhoo=1": "optimizer.rhoo: unknown key (did you mean rho?)",
    "optimizer.rho=abc": "optimizer.rho=abc: Value 'abc' of type 'str' could not be converted to Float",
    "optimizer.rho=-1": "optimizer.rho=-1.0: must be finite and >= 0",
    "optimizer.rho=nan": "optimizer.rho=nan: must be finite and >= 0",
    "model=resnet19": "model=resnet19: no such option (did you mean resnet18?)",
    "optimizr=sam": "optimizr: unknown key (did you mean optimizer?)",
    "optimizer.parameters.mine=1": "optimizer.parameters.mine: unknown key; optimizer.parameters is one value: write",
    "task.lss=a:b": "task.lss: unknown key (did you mean loss?)",
    "task=regression": "task: is a section with keys of its own, not one value; write task.KEY=VALUE, KEY one of",
    "task.metrics=a:b": "task.metrics: must be a list, for example 'task.metrics=[VALUE, ...]'",
    "task.options=3": "task.options: must be a mapping of names to values, for example 'task.options={NAME: VALUE}'",
    "seed={a: 1}": "seed={'a': 1}: Value '{'a': 1}' of type 'dict' could not be converted to Integer",
    "data.augment=true": "data.augment: is a section with keys of its own, not one value; write data.augment.KEY=VALUE",
    "data.augment.cutot=3": "data.augment.cutot: unknown key (did you mean cutout?)",
    "train.epochs=1.5": "train.epochs=1.5: Value '1.5' of type 'float' could not be converted to Integer",
    "name=a/b": "name='a/b': must have 1 to 120 printable characters",
    "optimizer.sigma=[": "error:",
    "optimizer.parameters.sigma=1": "optimizer.parameters.sigma: unknown key; set optimizer.sigma",
    "optimizer.parameters.sigm=1": "optimizer.parameters.sigm: unknown key (did you mean optimizer.sigma?)",
    "optimizer.parametrs.sigma=1": "optimizer.parametrs: unknown key (did you mean parameters?)",
    "+optimizer.parameters.lmda=1": "no choice made here has it (did you mean optimizer.lmbda?); leave it out",
    "optimizer.base.lr=1": "optimizer.base: is one value, without keys of its own; write optimizer.base=VALUE",
    "diagnostics.quantities.x=1": "diagnostics.quantities.x=1: diagnostics.quantities is a list: write",
    "seed.x=1": "seed: is one value, without keys of its own; write seed=VALUE",
    "model.width=-3": "model.width=-3: must be finite and >= 1",
}


@pytest.mark.parametrize("wrong", long_but(tuple(WRONG)[:8], WRONG))
def test_a_wrong_command_is_one_line_and_leaves_nothing(launch, tmp_path, wrong):
    done = launch(wrong)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert WRONG[wrong] in done.stderr
    assert not (tmp_path / "runs").exists()


def test_all_jobs_of_a_sweep_are_checked_before_the_first_starts(launch, tmp_path):
    done = launch("-m", "optimizer.rho=0.1,-1,nan")
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2
    assert "optimizer.rho=-1.0: must be finite and >= 0" in lines[0]
    assert "no job was started" in lines[1]
    assert not list(tmp_path.glob("runs/*/*"))


def test_order_paper_limits_sigma(launch):
    done = launch("optimizer.order=paper", "optimizer.ema_init=zero", "optimizer.sigma=20")
    assert "optimizer.sigma=20.0: order=paper needs sigma < 1/(1-lmbda)" in done.stderr


def test_help_is_a_page_with_every_group(launch):
    done = launch("--help")
    assert done.returncode == 0
    for word in ("optimizer ", "quickstart", "optimizer.rho", "+sweeps=", "experiment"):
        assert word in done.stdout


def test_cfg_job_prints_the_composed_config(launch):
    done = launch("--cfg", "job", "optimizer=sgd")
    assert done.returncode == 0
    assert "name: sgd" in done.stdout


def test_cfg_of_a_sweep_is_one_line(launch):
    done = launch("-m", "--cfg", "job", "optimizer=sgd,sam")
    assert done.returncode == 1
    assert done.stderr == "error: --cfg=job: shows one run: leave out -m. `fsamlab check` shows the jobs of a sweep\n"


def test_an_option_that_yaml_reads_as_false_is_one_line(tmp_path):
    from hydra import compose, initialize_config_dir

    from fsamlab.config.compose import register
    from fsamlab.terminal import errors

    (tmp_path / "config.yaml").write_text("defaults:\n  - config_schema\n  - data: digits\n  - study: mine\n")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.yaml").write_text("defaults:\n  - override /diagnostics: off\n")
    register()
    with initialize_config_dir(config_dir=str(tmp_path), version_base="1.3"), pytest.raises(ValueError) as e:  # noqa: PT011
        compose("config")
    assert 'override /diagnostics: "off"' in errors.one_line(e.value)


OPTION_FILES = {
    "stray": (
        "batchsize: 3",
        "data.batchsize: unknown key in conf/data/stray.yaml (did you mean batch_size?); data has",
    ),
    "wrong": (
        "batch_size: abc",
        "data.batch_size=abc: Value 'abc' of type 'str' could not be converted to Integer (in",
    ),
}


@pytest.mark.parametrize("name", OPTION_FILES)
def test_a_wrong_line_in_an_option_file_names_key_and_file(tmp_path, name):
    """And a key that does not exist says which keys do."""
    from hydra import compose, initialize_config_dir

    from fsamlab.config.compose import register
    from fsamlab.terminal import errors

    line, words = OPTION_FILES[name]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"{name}.yaml").write_text(
        f"defaults:\n  - /schema/data/images@_here_\n  - _self_\nname: digits\n{line}\n"
    )
    (tmp_path / "config.yaml").write_text(f"defaults:\n  - config_schema\n  - data: {name}\n")
    register()
    with initialize_config_dir(config_dir=str(tmp_path), version_base="1.3"), pytest.raises(Exception) as e:  # noqa: PT011
        compose("config")
    assert words in errors.one_line(e.value)
    if name == "stray":
        assert "batch_size, download, drop_last" in errors.one_line(e.value)


def test_a_key_of_another_option_is_not_called_a_slip():
    from fsamlab.terminal.errors import unknown_anywhere

    line = unknown_anywhere("data.num_samples")
    assert line == "data.num_samples: the chosen option of data has no such key, but options of schema synthetic"


@pytest.mark.parametrize(
    "word",
    ["tracker=null", "data=5", "model=true", "train=[default]", "optimizer=[sam,fsam]", "optimizer=sam,null",
     "experiment=[1]", "diagnostics=1.5", "optimizer=range(0,3)", f"optimizer={'x' * 300}", "tracker='a\nb'"],
)  # fmt: skip
def test_a_group_takes_the_name_of_an_option(word):
    from fsamlab.config import ConfigError
    from fsamlab.config.compose import check_words

    with pytest.raises(ConfigError, match="must be the name of one option") as e:
        check_words([word])
    assert str(e.value).startswith(word.split("=")[0] + "=")
    assert str(e.value).isprintable()


@pytest.mark.parametrize("word", ["optimizer.nesterov=-1", "force=2", "data.augment.flip=0.5", "tracker={}"])
def test_a_word_that_would_mean_something_else_is_refused(word):
    from fsamlab.config import ConfigError
    from fsamlab.config.compose import check_words

    with pytest.raises(ConfigError, match=r"must be true or false|changes nothing"):
        check_words([word])


def test_words_that_are_right_pass():
    from fsamlab.config.compose import check_words

    check_words(["optimizer=sam,fsam", "optimizer=glob(s*)", "+experiment=[a,b]", "~tracker", "optimizer={rho: 1}"])
    check_words(
        [
            "seed=range(0,3)",
            "name=null",
            "force=1",
            "train.progress=false",
            "data.augment.flip=true,false",
            "hydra.launcher.num_jobs=2",
            "hydra/launcher=slurm",
        ]
    )


def test_a_number_of_thousands_of_digits_is_one_line():
    from fsamlab.config import ConfigError
    from fsamlab.config.compose import check_words

    with pytest.raises(ConfigError, match="cannot be read"):
        check_words(["seed=" + "9" * 5000])


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("optimizer=glob(smam*)", "optimizer=glob(smam*): names no value"),
        ("seed=range(0,0)", "seed=range(0,0): names no value"),
        ("seed=range(0,5,0)", "seed=range(0,5,0): range() arg 3 must not be zero"),
        ("seed=range(0,1000000000)", "seed=range(0,1000000000): gives the sweep more than 100000 jobs"),
        ("seed=range(0.0,1.0,0.0)", "seed=range(0.0,1.0,0.0):"),
    ],
)
def test_a_sweep_has_at_least_one_job_and_an_end(word, words):
    from fsamlab.config import ConfigError
    from fsamlab.config.compose import composing, grid

    with composing() as context, pytest.raises(ConfigError) as e:
        grid(context.config_loader, ["optimizer.rho=0.1,0.2", word])
    assert words in str(e.value)


def test_a_check_that_breaks_ends_before_the_run(capsys, monkeypatch):
    """Hydra makes a warning of what a callback raises, and starts the run."""
    from fsamlab.command.launch import CheckBeforeRun

    def broken(config):
        raise TypeError("unforeseen")

    monkeypatch.setattr("fsamlab.command.launch.typed", broken)
    with pytest.raises(SystemExit) as e:
        CheckBeforeRun().on_run_start({})
    assert e.value.code == 1
    assert "error: TypeError: unforeseen" in capsys.readouterr().err


LATE = {  # values that only the built pieces can judge
    "model.import_path=math:sqrt model.width=null": "model.import_path=math:sqrt: cannot be called with",
    "data.import_path=os:getcwd": "data.import_path=os:getcwd: cannot be called with",
    "data.batch_size=1000": "data.batch_size=1000: must be <= ",
    "model.checkpoint=no/such/file.pt": "model.checkpoint=no/such/file.pt:",
}


@pytest.mark.parametrize("wrong", long_but(("data.batch_size=1000",), LATE))
def test_a_command_that_is_wrong_in_the_run_leaves_no_directory(launch, tmp_path, wrong):
    done = launch(*TINY, *wrong.split())
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert LATE[wrong] in done.stderr
    assert not list((tmp_path / "runs").glob("**/*")), list((tmp_path / "runs").glob("**/*"))


def test_what_a_run_has_trained_and_files_of_others_stay(tmp_path):
    from fsamlab.run import discard_untrained

    run = tmp_path / "study" / "run"
    run.mkdir(parents=True)
    for name in ("status.json", "run.log", "metrics.jsonl", "notes.txt"):
        (run / name).touch()
    discard_untrained(run)
    assert [p.name for p in run.iterdir()] == ["notes.txt"]
    (run / "metrics.jsonl").write_text("{}\n")
    (run / "status.json").touch()
    discard_untrained(run)
    assert (run / "status.json").exists()


@pytest.mark.parametrize("text", ["CUDA out of memory. Tried", "DefaultCPUAllocator: can't allocate memory"])
def test_too_little_memory_is_one_line(text):
    from fsamlab.terminal.errors import one_line

    assert one_line(RuntimeError(f"{text}: more\nlines")).startswith(f"out of memory: {text}")
    assert one_line(MemoryError()) is not None
    assert one_line(RuntimeError("shapes differ")) is None


def test_a_finished_run_in_a_closed_directory_is_one_line(tmp_path, monkeypatch, capfd):
    import os
    from types import SimpleNamespace

    from fsamlab.command.launch import CheckBeforeRun
    from fsamlab.storage.writing import write_json

    directory = tmp_path / "r"
    directory.mkdir()
    config = SimpleNamespace(force=False, hydra=SimpleNamespace(run=SimpleNamespace(dir=str(directory))))
    monkeypatch.setattr("fsamlab.command.launch.typed", lambda config: None)
    write_json(directory / "status.json", {"status": "finished"})
    monkeypatch.setattr(os, "access", lambda path, mode: path != directory)  # root may write everywhere
    with pytest.raises(SystemExit, match="0"):
        CheckBeforeRun().on_run_start(config)
    assert capfd.readouterr().out == f"already finished: {directory} (read-only)\n"
    config.force = True
    with pytest.raises(SystemExit, match="1"):
        CheckBeforeRun().on_run_start(config)
    assert capfd.readouterr().err == f"error: {directory}: the run's directory cannot be written\n"
    assert [p.name for p in directory.iterdir()] == ["status.json"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_stands_in_the_place_of_a_run_directory_is_named(tmp_path, capsys, kind):
    from fsamlab.run import run
    from fsamlab.terminal import errors

    directory = tmp_path / "run"
    if kind == "file":
        directory.write_text("")
    else:
        directory.symlink_to(tmp_path / "gone")
    assert errors.call(lambda: run(compose_tiny(), directory)) == 1
    line = capsys.readouterr().err.strip()
    assert line.startswith(f"error: {directory}")
    assert line.endswith("move it away")
    assert "\n" not in line


@pytest.mark.long
@pytest.mark.parametrize("text", ["defaults:\n  - override /data: digits\n", "name: mine\n"], ids=["override", "key"])
def test_a_sweep_without_its_first_line_says_so(launch, tmp_path, text):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(text)
    done = launch("-m", "+sweeps=mine", f"hydra.searchpath=[file://{tmp_path}]")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: sweeps/mine.yaml: the first line of a sweep is `# @package")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: bad\nseed: [1\n", "line 3: is not YAML: expected ',' or ']'"),
        ("name: a\nname: b\n", "line 2: is not YAML: found duplicate key name"),
        ("a\tb: [}\n", r"line 1: is not YAML: found character '\t'"),
    ],
)
def test_an_option_or_a_sweep_that_is_not_yaml_is_one_line(tmp_path, capsys, text, message):
    from fsamlab.terminal import errors

    file = tmp_path / "config.yaml"
    file.write_text(text)

    def composed():
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            compose("config")

    assert errors.call(composed) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file}, {message}")
    assert len(error.splitlines()) == 1
