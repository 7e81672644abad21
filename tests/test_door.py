import pytest

WRONG = {
    "optimizer.rhoo=1": "optimizer.rhoo: unknown key (did you mean rho?)",
    "+optimizer.rhoo=1": "optimizer.rhoo: unknown key (did you mean rho?)",
    "optimizer.rho=abc": "optimizer.rho=abc: Value 'abc' of type 'str' could not be converted to Float",
    "optimizer.rho=-1": "optimizer.rho=-1.0: must be finite and >= 0",
    "optimizer.rho=nan": "optimizer.rho=nan: must be finite and >= 0",
    "model=resnet19": "model=resnet19: no such option (did you mean resnet18?)",
    "optimizr=sam": "optimizr: unknown key (did you mean optimizer?)",
    "data.augment.cutot=3": "data.augment.cutot: unknown key (did you mean cutout?)",
    "train.epochs=1.5": "train.epochs=1.5: Value '1.5' of type 'float' could not be converted to Integer",
    "name=a/b": "name='a/b': must be usable as one directory name",
    "optimizer.sigma=[": "error:",
    "model.width=-3": "model.width=-3: must be finite and >= 1",
}


@pytest.mark.parametrize("wrong", WRONG)
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
