"""Server, key and mode are found where wandb finds them, without importing it."""

import subprocess
import sys
import textwrap
import time

import pytest
from support.wandb_standin import StandIn

from fsamlab.config import TrackerConfig
from fsamlab.tracking import NullTracker, build_tracker, wandb_environment
from fsamlab.tracking.wandb_environment import WandbEnvironment, probe, read_environment

KEY = "0" * 40


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home directory, and an empty current directory beside it."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def write_settings(directory, text):
    directory.mkdir(parents=True)
    (directory / "settings").write_text("[default]\n" + text)


def test_nothing_is_configured(home):
    from wandb.sdk.lib import urls

    environment = read_environment()
    assert environment == WandbEnvironment(urls.DEFAULT_BASE_URL, has_key=False, mode=None, proxies={})


def test_variables_win_over_settings_files_and_the_nearer_file_over_the_farther(home, tmp_path, monkeypatch):
    write_settings(home / ".config" / "wandb", "base_url = http://far\nmode = offline\nhttps_proxy = http://proxy:1\n")
    assert read_environment().base_url == "http://far"
    write_settings(tmp_path / "work" / "wandb", "base_url = http://near/\n")
    assert read_environment() == WandbEnvironment("http://near", False, "offline", {"https": "http://proxy:1"})
    monkeypatch.setenv("WANDB_BASE_URL", "http://variable")
    monkeypatch.setenv("WANDB_MODE", "online")
    environment = read_environment()
    assert (environment.base_url, environment.mode) == ("http://variable", "online")


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


def test_what_is_found_is_what_wandb_finds(home, tmp_path, monkeypatch):
    write_settings(home / ".config" / "wandb", "base_url = http://far\nmode = offline\n")
    write_settings(tmp_path / "work" / "wandb", f"api_key = {KEY}\n")
    monkeypatch.setenv("WANDB_HTTP_PROXY", "http://proxy:1")
    code = """
        from wandb.sdk import wandb_setup
        s = wandb_setup.singleton().settings
        print(s.base_url, bool(s.api_key), s.mode, s.http_proxy)
    """
    theirs = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    ).stdout.split()
    ours = read_environment()
    assert theirs == [ours.base_url, str(ours.has_key), ours.mode, ours.proxies["http"]]


def test_unreadable_files_are_a_value_error(home):
    (home / ".netrc").write_text("machine")
    with pytest.raises(ValueError, match="netrc"):
        read_environment()
    write_settings(home / ".config" / "wandb", "no equals sign\n")
    with pytest.raises(ValueError, match="unreadable W&B settings"):
        read_environment()


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
    tracker = build_tracker(
        cfg, run_id="r", name="n", group="g", job_type="j", config={}, directory=tmp_path, start_step=0
    )
    assert isinstance(tracker, NullTracker)


@pytest.mark.parametrize("mode", ["offline", "dryrun"])
def test_wandb_mode_offline_holds_in_auto(home, monkeypatch, mode):
    from fsamlab.tracking import _mode

    monkeypatch.setenv("WANDB_MODE", mode)
    assert _mode(TrackerConfig(name="wandb", mode="auto")) == "offline"
