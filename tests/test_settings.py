"""Settings: where they come from, which goes first, and what is refused."""

import logging
from decimal import Decimal
from pathlib import Path

import pytest

from duet_sdk import AsyncDuetClient, Budget, Prompts, Sampling
from duet_sdk.errors import ConfigError
from duet_sdk.pricing import GpuHour, TokenPrice
from duet_sdk.settings import Endpoint, default_cache_dir, load_settings

TOML = """
reasoner = "scripted/big"
generator = "scripted/small"
on_cut = "keep"

[budget]
signal_tokens = 128
cost_usd = "0.05"
deadline_s = 30

[prices."scripted/big"]
input_usd = "1.5"
output_usd = "6"

[prices."scripted/small"]
gpu_hour_usd = "2.50"

[prompts]
reasoner = "Plan."

[generator_params]
temperature = 0.2
stop = ["END"]
"""


def test_a_file_sets_everything_a_client_takes():
    Path("duet.toml").write_text(TOML)
    settings = load_settings()
    assert (settings.reasoner, settings.generator) == ("scripted/big", "scripted/small")
    assert settings.client_options() == {
        "on_cut": "keep",
        "budget": Budget(signal_tokens=128, cost_usd=Decimal("0.05"), deadline_s=30),
        "prices": {"scripted/big": TokenPrice("1.5", "6"), "scripted/small": GpuHour("2.50")},
        "prompts": Prompts(reasoner="Plan."),
        "generator_params": Sampling(temperature=0.2, stop=("END",)),
    }


def test_the_environment_goes_over_the_file_and_arguments_over_both(monkeypatch):
    Path("duet.toml").write_text(TOML)
    monkeypatch.setenv("DUET_BUDGET__SIGNAL_TOKENS", "64")
    monkeypatch.setenv("DUET_ON_CUT", "error")
    assert load_settings().budget.signal_tokens == 64
    assert load_settings().budget.cost_usd == Decimal("0.05")
    assert load_settings().on_cut == "error"
    assert load_settings(on_cut="wrap_up").on_cut == "wrap_up"


async def test_a_client_with_nothing_named_uses_them():
    Path("duet.toml").write_text(TOML)
    duet = AsyncDuetClient(budget=Budget(answer_tokens=9))
    reply = await duet.chat("q")
    assert duet.models == {"reasoner": "scripted/big", "generator": "scripted/small"}
    assert (reply.text, reply.signal.text, reply.signal.limit) == ("small", "big", 128)


async def test_a_client_with_models_named_does_not_read_them():
    Path("duet.toml").write_text("no toml at all")
    assert (await AsyncDuetClient("scripted/s", "scripted/a").chat("q")).signal.limit == 512


def test_another_file_can_be_named(monkeypatch, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text('gate = "never"')
    assert load_settings(other).gate == "never"
    monkeypatch.setenv("DUET_CONFIG", str(other))
    assert load_settings().gate == "never"
    monkeypatch.setenv("DUET_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(ConfigError, match="which does not exist"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("reasonr = 'x'", "reasonr is no setting; did you mean 'reasoner'?"),
        ("[budget]\nsignal_token = 3", "budget.signal_token is no setting; did you mean 'signal_tokens'?"),
        ("[budget]\nsignal_tokens = 'many'", "budget.signal_tokens: Input should be a valid integer"),
        ("gate = 'sometimes'", "gate: Input should be 'always' or 'never'"),
        ("gate = ", r"duet.toml is no TOML: Invalid value \(at line 1, column 8\)|duet.toml is no TOML"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_key(text, words):
    Path("duet.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_settings()


def test_a_variable_that_matches_no_setting_is_told(monkeypatch, caplog):
    monkeypatch.setenv("DUET_BUDGT__SIGNAL_TOKENS", "64")
    with caplog.at_level(logging.WARNING):
        load_settings()
    assert "DUET_BUDGT__SIGNAL_TOKENS matches no setting" in caplog.text


def test_a_price_that_is_half_given_is_refused():
    Path("duet.toml").write_text('[prices.x]\ninput_usd = "1"')
    with pytest.raises(ConfigError, match="a price needs input_usd and output_usd, or gpu_hour_usd alone"):
        load_settings().client_options()


def test_a_key_is_never_shown(monkeypatch):
    Path("duet.toml").write_text('[generator]\nmodel = "x/y"\napi_key = "sk-secret"\n')
    settings = load_settings()
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert "sk-secret" not in shown
    Path("duet.toml").write_text('[generator]\nmodel = "x/y"\napi_key = ["sk-secret"]\n')
    with pytest.raises(ConfigError) as refused:
        load_settings()
    assert "sk-secret" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_key_is_read_from_the_variable_that_is_named(monkeypatch):
    endpoint = Endpoint(model="x/y", api_key_env="MY_KEY", base_url="http://127.0.0.1:1/v1", price={"gpu_hour_usd": 2})
    with pytest.raises(ConfigError, match="read from MY_KEY, which is not set"):
        endpoint.connect_options()
    monkeypatch.setenv("MY_KEY", "sk-secret")
    options = endpoint.connect_options()
    assert options["api_key"].get_secret_value() == "sk-secret"
    assert "sk-secret" not in repr(options)
    assert options["price"] == GpuHour(2)


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("DUET_CACHE_DIR", raising=False)
    assert default_cache_dir() == Path("/home/me/.cache/duet")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_cache_dir() == Path("/cache/duet")
    monkeypatch.setenv("DUET_CACHE_DIR", "~/models")
    assert default_cache_dir() == Path("/home/me/models")
