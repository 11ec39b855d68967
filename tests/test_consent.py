"""A settings file that was found, not named: what it may set, and how the user consents to the rest."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from duet_sdk import AsyncDuetClient
from duet_sdk.cli.app import app
from duet_sdk.consent import ALLOWED, FoundFile, forget, needing_consent, trust, trusted
from duet_sdk.environment import config_dir
from duet_sdk.errors import ConfigError
from duet_sdk.settings import Settings, load_settings

FAR = 'generator = "vllm/m@http://far.example/v1"\nreasoner = "scripted/17"\n'
LEDGER = 'ledger = "sqlite:///l.db"\nreasoner = "scripted/17"\ngenerator = "scripted/a"\n'
# What no found file may set without consent, and why. A new option is either here or in `ALLOWED`.
NEEDS_CONSENT = {
    "pair": "a folder or a hub name: models, prompts and servers of its choice",
    "calibration": "a path",
    "ledger": "a path or a host",
    "gateway": "who may ask, from which hosts and pages",
}


def found(text: str) -> None:
    Path("duet.toml").write_text(text, encoding="utf-8")


def duet(*arguments: str, stdin: str | None = None):
    return CliRunner().invoke(app, arguments, input=stdin)


def test_every_setting_is_allowed_to_a_found_file_or_named_as_in_need_of_consent():
    assert set(ALLOWED) | set(NEEDS_CONSENT) == set(Settings.model_fields)
    assert not set(ALLOWED) & set(NEEDS_CONSENT)


def test_an_option_that_is_on_no_list_needs_consent():
    assert needing_consent({"proxy": "http://evil"}) == ["proxy"]
    assert needing_consent({"budget": {"signal_tokens": 1, "ledger": "x"}}) == ["budget.ledger"]
    assert needing_consent({"generator": {"model": "vllm/m", "proxy": "x"}}) == ["generator.proxy"]
    assert needing_consent({"generator": {"model": "vllm/m", "options": {"proxy": "x"}}}) == ["generator.options.proxy"]


@pytest.mark.parametrize(
    "text",
    [
        '[budget]\nsignal_tokens = 64\ncost_usd = "0.01"\n[prices."x"]\ninput_usd = 1\noutput_usd = 2\n',
        'gate = "never"\non_cut = "keep"\non_failure = "raise"\nsignal_scope = "turn"\nhandoff = "instruct"\n',
        '[prompts]\nreasoner = "Plan."\n[generator_params]\ntemperature = 0.2\nstop = ["END"]\n',
        'reasoner = "transformers/embedded"\ngenerator = "scripted/a"\n',
        'reasoner = "vllm/Qwen/Qwen3-4B"\ngenerator = ["vllm/m@http://localhost:1/v1", "vllm/m@https://[::1]/v1"]\n',
        'reasoner = "scripted/a"\n[generator]\nmodel = "vllm/m"\nbase_url = "http://127.9.8.7:8101/v1/"\n'
        "price = {gpu_hour_usd = 2}\ncontext_tokens = 4096\noptions = {read_s = 5}\n",
        '[on_failure]\nchain = "outage"\nfallback_pair = ["scripted/a", "vllm/m@http://127.0.0.1:1"]\n'
        "[on_failure.retry]\nattempts = 2\n",
    ],
)
def test_limits_prices_prompts_policies_and_loopback_models_need_no_consent(text):
    found(text)
    load_settings()


@pytest.mark.parametrize(
    "url",
    [
        "http://far.example/v1",
        "http://10.0.0.7/v1",
        "http://192.168.1.1/v1",
        "http://169.254.169.254/v1",
        "http://0.0.0.0:8000/v1",
        "http://[::]/v1",
        "http://[::ffff:127.0.0.1]/v1",
        "http://localhost.evil.example/v1",
        "http://evil.localhost/v1",
        "http://localhost./v1",
        "http://127.0.0.1.nip.io/v1",
        "http://127.1/v1",
        "http://127.0.0.256/v1",
        "http://2130706433/v1",
        "http://0x7f000001/v1",
        "http://0177.0.0.1/v1",
        "http://127.0.0.1@evil.example/v1",
        "http://127.0.0.1:80@evil.example/v1",
        "http://127.0.0.1#@evil.example/v1",
        "http://127.0.0.1?@evil.example/v1",
        "http://127.0.0.1\\\\@evil.example/v1",
        "http://127.0.0.1\\t.evil.example/v1",
        "http://evil.example/@127.0.0.1/v1",
        "http://127.0.0.1/v1/../../x%2e",
        "http://１２７.0.0.1/v1",
        "HTTP://127.0.0.1/v1",
        "//127.0.0.1/v1",
        "unix:///tmp/x",
    ],
)
def test_no_other_spelling_passes_for_a_loopback_address(url):
    assert needing_consent({"generator": {"model": "vllm/m", "base_url": url}}) == ["generator.base_url"]
    assert needing_consent({"generator": f"vllm/m@{url}"}) == ["generator"]
    assert needing_consent({"generator": ["scripted/a", f"vllm/m@http://127.0.0.1/v1@{url}"]}) == ["generator.1"]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (FAR, "generator"),
        ('[generator]\nmodel = "vllm/m"\napi_key_env = "AWS_SECRET_ACCESS_KEY"\n', "generator.api_key_env"),
        ('[generator]\nmodel = "vllm/m"\napi_key = "k"\n', "generator.api_key"),
        ('[generator]\nmodel = "vllm/m"\nboundary = "any"\n', "generator.boundary"),
        ('[generator]\nmodel = "vllm/m"\noptions = {headers = {X = "y"}}\n', "generator.options.headers"),
        ('[generator]\nmodel = "vllm/m"\noptions = {trust_env = true}\n', "generator.options.trust_env"),
        ('[generator]\nmodel = "vllm/m"\noptions = {tokenizer = "./t"}\n', "generator.options.tokenizer"),
        ('generator = "litellm/openai/gpt-5"\n', "generator"),
        ('[generator]\nmodel = "litellm/openai/m"\nbase_url = "http://127.0.0.1:1/v1"\n', "generator.base_url"),
        ('generator = "transformers/Qwen/Qwen3-4B"\n', "generator"),
        ('generator = "transformers/./model"\n', "generator"),
        ('generator = "vllm/./model"\n', "generator"),
        ('generator = "vllm/../m@http://127.0.0.1:1/v1"\n', "generator"),
        ('generator = "vllm-engine/m"\n', "generator"),
        ('generator = "someones-plugin/m"\n', "generator"),
        ('[on_failure]\nfallback_pair = ["scripted/a", "litellm/x/y"]\n', "on_failure.fallback_pair.1"),
        ("[generator_params]\nextra_body = {a = 1}\n", "generator_params.extra_body"),
        ('pair = "./pair"\n', "pair"),
        ('calibration = "../c.json"\n', "calibration"),
        ('ledger = "sqlite:////home/me/.bashrc"\n', "ledger"),
        ('[ledger]\nurl = "redis://h:1/0"\npassword_env = "HOME"\n', "ledger"),
        ('pair = "p"\nledger = "sqlite:///x"\n', "pair, ledger"),
    ],
)
def test_what_reaches_out_needs_consent(text, keys):
    if ("generator =" in text and "reasoner" not in text) or "[generator]" in text:
        text = f'reasoner = "scripted/17"\n{text}'
    found(text)
    for read in (load_settings, Settings, AsyncDuetClient):
        with pytest.raises(ConfigError) as refused:
            read()
        said = str(refused.value)
        assert f"{Path().resolve() / 'duet.toml'} was found in the working folder and sets {keys}, which" in said
        assert f"run `duet trust {Path().resolve()}`" in said
    load_settings("duet.toml")


def test_a_model_that_another_source_names_gets_no_address_from_a_found_file(monkeypatch):
    found('reasoner = "scripted/17"\n[generator]\nbase_url = "http://127.0.0.1:1/v1"\n')
    monkeypatch.setenv("DUET_GENERATOR__MODEL", "litellm/openai/gpt-5")
    with pytest.raises(ConfigError, match=r"sets generator\.base_url, which needs your consent"):
        load_settings()


def test_a_file_that_is_named_is_consented_to(monkeypatch):
    found(FAR)
    assert load_settings("duet.toml").generator == load_settings(Path("duet.toml")).generator
    monkeypatch.setenv("DUET_CONFIG", "duet.toml")
    assert load_settings().generator == Settings().generator == "vllm/m@http://far.example/v1"


def test_consent_holds_until_the_file_changes():
    found(FAR)
    assert duet("trust").exit_code == 0
    load_settings()
    found(FAR + "# changed\n")
    with pytest.raises(ConfigError, match="needs your consent"):
        load_settings()
    found(FAR)
    load_settings()


def test_consent_is_for_one_place(tmp_path):
    found(FAR)
    duet("trust", ".")
    other = tmp_path / "other"
    other.mkdir()
    (other / "duet.toml").write_text(FAR)
    os.chdir(other)
    with pytest.raises(ConfigError, match="needs your consent"):
        load_settings()


def test_consent_is_kept_in_a_file_that_only_its_owner_reads_and_writes():
    found(FAR)
    duet("trust")
    store = config_dir() / "trusted.json"
    assert store.stat().st_mode & 0o777 == 0o600
    assert store.parent.stat().st_mode & 0o777 == 0o700
    assert list(json.loads(store.read_text())["files"]) == [str(Path("duet.toml").resolve())]
    assert "far.example" not in store.read_text()


@pytest.mark.parametrize("mode", [0o622, 0o606])
def test_a_store_that_others_can_write_is_not_believed(mode):
    found(FAR)
    duet("trust")
    (config_dir() / "trusted.json").chmod(mode)
    assert trusted() == {}
    with pytest.raises(ConfigError, match="needs your consent"):
        load_settings()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"files": []}', '{"files": {"a": 1}}', "[" * 100_000])
def test_a_store_that_is_broken_means_no_consent(content):
    config_dir().mkdir(parents=True)
    (config_dir() / "trusted.json").write_text(content)
    found(FAR)
    with pytest.raises(ConfigError, match="needs your consent"):
        load_settings()
    assert duet("trust").exit_code == 0
    load_settings()


def test_trusted_files_are_listed_and_removed():
    found(FAR)
    said = duet("trust")
    assert "trusted until it changes" in said.stderr
    assert "generator" in said.stderr
    assert duet("trust", "--list").stdout == f"{Path('duet.toml').resolve()}\n"
    assert duet("trust", "duet.toml", "--remove").exit_code == 0
    assert duet("trust", "./duet.toml").exit_code == 0
    assert duet("trust", "--remove").exit_code == 0
    assert duet("trust", "--list").stdout == ""
    with pytest.raises(ConfigError, match="needs your consent"):
        load_settings()
    assert (duet("trust", "--remove").exit_code, duet("trust", "--remove", "--list").exit_code) == (2, 2)
    assert duet("trust", "./nowhere").exit_code == 2
    assert not forget(Path("nowhere"))


def test_what_was_read_is_what_is_consented_to():
    found(FAR)
    read = FoundFile.in_folder(Path())
    found(FAR.replace("far", "evil"))
    trust(read)
    with pytest.raises(ConfigError, match="needs your consent"):
        load_settings()


def test_a_link_is_the_content_that_it_leads_to(tmp_path):
    (tmp_path / "real.toml").write_text(FAR)
    Path("duet.toml").symlink_to(tmp_path / "real.toml")
    duet("trust")
    load_settings()
    (tmp_path / "evil.toml").write_text(FAR.replace("far", "evil"))
    Path("duet.toml").unlink()
    Path("duet.toml").symlink_to(tmp_path / "evil.toml")
    with pytest.raises(ConfigError, match="needs your consent"):
        load_settings()


def test_a_pipe_a_device_or_an_endless_file_is_refused_at_once():
    os.mkfifo("duet.toml")
    with pytest.raises(ConfigError, match="not a plain file"):
        load_settings()
    Path("duet.toml").unlink()
    Path("duet.toml").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="not a plain file"):
        load_settings()
    Path("duet.toml").unlink()
    found("#" * (1 << 20) + "\n")
    with pytest.raises(ConfigError, match="longer than"):
        load_settings()


def test_a_command_that_is_not_on_a_terminal_never_asks():
    found(LEDGER)
    done = duet("ask", "q", stdin="y\ny\n")
    assert (done.exit_code, "needs your consent" in done.stderr) == (2, True)
    assert trusted() == {}
    assert duet("ask", "q", "--config", "duet.toml", "--mode", "signal").stdout == "17\n"


@pytest.mark.parametrize(("answer", "code", "known"), [("y", 0, 1), ("n", 2, 0), ("", 2, 0)])
def test_a_command_on_a_terminal_asks_once(answer, code, known):
    found(LEDGER)
    parent, child = pty.openpty()
    os.write(parent, f"{answer}\n".encode())
    command = [sys.executable, "-m", "duet_sdk", "ask", "q", "--mode", "signal"]
    done = subprocess.run(command, stdin=child, stderr=child, stdout=subprocess.PIPE, timeout=120, check=False)
    os.close(child)
    said = os.read(parent, 1 << 16).decode()
    os.close(parent)
    assert done.returncode == code
    assert "trust this file until it changes? [y/N]" in said
    assert (done.stdout == b"17\n") == (answer == "y")
    assert len(trusted()) == known
