"""Server, key and mode are what wandb finds on this machine, and a server has a bounded time to answer."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.wandb_standin import StandIn

from fsamlab.config import TrackerConfig
from fsamlab.tracking import NullTracker, build_tracker, wandb_environment, wandb_tracker
from fsamlab.tracking.wandb_environment import WandbEnvironment, probe

KEY = "0" * 40
RUN = {"run_id": "r", "name": "n", "group": "g", "job_type": "j", "config": {}, "start_step": 0}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home directory, and an empty current directory beside it."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def read_environment():
    """Read the environment in a wandb that has not read another one before."""
    import wandb

    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()
    return wandb_environment.read_environment()


def write_settings(directory, text):
    directory.mkdir(parents=True)
    (directory / "settings").write_text("[default]\n" + text)


@pytest.fixture
def without_wandb(home, monkeypatch):
    """A process that has not imported wandb, without variables of W&B."""
    for name in [name for name in os.environ if name == "NETRC" or name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    return home


def test_nothing_is_configured(home):
    from wandb.sdk.lib import urls

    environment = read_environment()
    assert environment == WandbEnvironment(urls.DEFAULT_BASE_URL, has_key=False, mode=None, proxies={})
    assert urls.DEFAULT_BASE_URL == wandb_environment.DEFAULT_SERVER


def test_where_nothing_is_configured_wandb_is_not_imported(without_wandb):
    environment = wandb_environment.read_environment()
    assert environment == WandbEnvironment(wandb_environment.DEFAULT_SERVER, has_key=False, mode=None, proxies={})
    assert "wandb" not in sys.modules


@pytest.mark.parametrize("place", wandb_environment.PLACES)
def test_wandb_is_asked_where_one_of_its_files_exists(without_wandb, place):
    path = Path(os.path.expanduser(place))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert not wandb_environment.nothing_is_configured()


@pytest.mark.parametrize("name", ["NETRC", "WANDB_API_KEY", "WANDB_MODE", "WANDB_CONFIG_DIR"])
def test_wandb_is_asked_where_one_of_its_variables_exists(without_wandb, monkeypatch, name):
    monkeypatch.setenv(name, "")
    assert not wandb_environment.nothing_is_configured()


def test_wandb_is_asked_in_a_program_that_has_imported_it(without_wandb, monkeypatch):
    assert wandb_environment.nothing_is_configured()
    monkeypatch.setitem(sys.modules, "wandb", object())
    assert not wandb_environment.nothing_is_configured()


def test_variables_win_over_settings_files_and_the_nearer_file_over_the_farther(home, tmp_path, monkeypatch):
    write_settings(home / ".config" / "wandb", "base_url = http://far\nmode = offline\nhttps_proxy = http://proxy:1\n")
    assert read_environment().base_url == "http://far"
    write_settings(tmp_path / "work" / "wandb", "base_url = http://near/\n")
    assert read_environment() == WandbEnvironment("http://near", False, "offline", {"https": "http://proxy:1"})
    monkeypatch.setenv("WANDB_BASE_URL", "http://variable")
    monkeypatch.setenv("WANDB_MODE", "online")
    environment = read_environment()
    assert (environment.base_url, environment.mode) == ("http://variable", "online")


def test_looking_starts_no_process_and_writes_nothing(home, tmp_path):
    (home / ".netrc").write_text("machine")
    code = (
        "from pathlib import Path; from fsamlab.tracking.wandb_environment import read_environment; read_environment();"
        "print(*(task.read_text() for task in Path('/proc/self/task').glob('*/children')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")
    assert sorted(p.name for p in tmp_path.rglob("*")) == [".netrc", "home", "work"]


def test_wandb_config_dir_names_the_settings_file(home, tmp_path, monkeypatch):
    write_settings(tmp_path / "elsewhere", f"api_key = {KEY}\n")
    assert not read_environment().has_key
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "elsewhere"))
    assert read_environment().has_key


@pytest.mark.parametrize(
    ("url", "machine", "found"),
    [
        ("http://host:8080", "host:8080", True),
        ("http://host:8080", "host", False),
        ("http://host", "other", False),
        (None, "api.wandb.ai", True),  # keys of `wandb login` before 0.31
    ],
)
def test_a_key_in_netrc_counts_for_its_own_server(home, monkeypatch, url, machine, found):
    if url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
    (home / ".netrc").write_text(f"machine {machine}\n  login user\n  password {KEY}\n")
    assert read_environment().has_key is found


def test_netrc_may_be_elsewhere(home, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://host")
    monkeypatch.setenv("NETRC", str(tmp_path / "keys"))
    assert not read_environment().has_key
    (tmp_path / "keys").write_text(f"machine host login user password {KEY}")
    assert read_environment().has_key


@pytest.mark.parametrize("variable", ["WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"])
def test_a_key_in_a_variable(home, monkeypatch, variable):
    monkeypatch.setenv(variable, "")
    assert not read_environment().has_key
    monkeypatch.setenv(variable, KEY)
    assert read_environment().has_key


def test_a_damaged_file_is_named_beside_the_missing_key(home):
    (home / ".netrc").write_text("machine")
    assert "netrc" in read_environment().no_key
    (home / ".netrc").unlink()
    write_settings(home / ".config" / "wandb", "no equals sign\n")
    assert "no equals sign" in read_environment().no_key
    assert "\n" not in read_environment().no_key


def test_a_key_of_the_wrong_form_is_one_line(home, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    tracker = build_tracker(TrackerConfig(name="wandb", mode="online"), directory=tmp_path, **RUN)
    assert isinstance(tracker, NullTracker)
    assert [line for line in caplog.messages if "WANDB_API_KEY invalid" in line and "\n" not in line]


def test_an_import_of_wandb_that_hangs_is_given_up(home, tmp_path, monkeypatch, caplog):
    released = threading.Event()
    monkeypatch.setattr(wandb_environment, "import_wandb", released.wait)
    monkeypatch.setattr(wandb_tracker, "GRACE_SECONDS", 0.0)
    tracker = build_tracker(TrackerConfig(name="wandb", mode="online", init_timeout=0.1), directory=tmp_path, **RUN)
    released.set()
    assert isinstance(tracker, NullTracker)
    assert "import of wandb: no answer within 0.1 s" in caplog.text


def environment_of(url):
    return WandbEnvironment(url, has_key=True, mode=None, proxies={})


def test_any_answer_but_an_internal_error_is_an_answer():
    with StandIn() as server:
        probe(environment_of(server.url))
        server.fail(401)
        probe(environment_of(server.url))
        server.fail(503)
        with pytest.raises(OSError, match="503"):
            probe(environment_of(server.url))
        server.stop()
        with pytest.raises(OSError, match="refused"):
            probe(environment_of(server.url))


def test_a_probe_is_bounded_even_where_name_resolution_hangs(monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: time.sleep(20))
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        probe(environment_of("http://host.invalid"), seconds=0.2)
    assert time.monotonic() - began < 2


def test_a_proxy_of_wandbs_settings_is_used():
    with StandIn() as proxy:
        probe(WandbEnvironment("http://host.invalid", True, None, {"http": proxy.url}))
        assert proxy.num_requests == 1


@pytest.mark.parametrize("mode", ["auto", "disabled"])
def test_wandb_mode_disabled_holds_in_auto(home, tmp_path, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_environment, "probe", lambda *a: pytest.fail("asked the server"))
    cfg = TrackerConfig(name="wandb", mode=mode)
    tracker = build_tracker(cfg, directory=tmp_path, **RUN)
    assert isinstance(tracker, NullTracker)


@pytest.mark.parametrize("mode", ["offline", "dryrun"])
def test_wandb_mode_offline_holds_in_auto(home, monkeypatch, mode):
    from fsamlab.tracking import _mode

    monkeypatch.setenv("WANDB_MODE", mode)
    assert _mode(TrackerConfig(name="wandb", mode="auto")) == "offline"
