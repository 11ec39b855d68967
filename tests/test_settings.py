"""Settings: where they come from, which goes first, and what is refused."""

import logging
from decimal import Decimal
from pathlib import Path

import pytest

from duet_sdk import AsyncDuetClient, Budget, Prompts, Sampling
from duet_sdk.endpoints import Endpoint
from duet_sdk.environment import default_cache_dir
from duet_sdk.errors import ConfigError
from duet_sdk.policies import BreakerPolicy, FailurePolicy, GateConfig, Ladder, Progressive, Retry, RunScope
from duet_sdk.pricing import GpuHour, TokenPrice
from duet_sdk.settings import Settings, load_settings, parse_toml

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


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ('signal_scope = "turn"', "turn"),
        ("[signal_scope]\nmost_calls = 2\nask_again_on = ['tool_error']", RunScope(["tool_error"], most_calls=2)),
    ],
)
def test_the_signal_scope_is_a_name_or_a_table(text, scope):
    Path("duet.toml").write_text(text)
    assert load_settings().client_options() == {"signal_scope": scope}


def test_an_impossible_signal_scope_names_its_place():
    Path("duet.toml").write_text("[signal_scope]\nmost_calls = 0")
    with pytest.raises(ConfigError, match=r"signal_scope: most_calls must be a whole number of at least 1, got 0$"):
        load_settings()


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
        ("reasonr = 'x'", r"reasonr is not a setting; did you mean 'reasoner'\?"),
        ("[budget]\nsignal_token = 3", r"budget.signal_token is not a setting; did you mean 'signal_tokens'\?"),
        ("[budget]\nsignal_tokens = 'many'", "budget.signal_tokens: Input should be a valid integer"),
        ("gate = 'sometimes'", "gate: Input should be 'always', 'never', 'heuristic', 'confidence' or 'race'"),
        ("[gate]\npolicy = 'race'\ntreshold = 1", r"gate.treshold is not a setting; did you mean 'threshold'\?"),
        ("gate = {policy = 'never', threshold = 1}", "gate: gate 'never' takes no threshold"),
        ("gate_deadline_s = 0", "gate_deadline_s: Input should be greater than 0"),
        ("[progressive]\nslice_tokens = 0", "progressive: slice_tokens of progressive must be a whole number"),
        ("[prices.'a/b']\ninput_us = 1", r"prices.a/b.input_us is not a setting; did you mean 'input_usd'\?"),
        (
            "[prices.'a/b']\ninput_usd = -1\noutput_usd = 1",
            "prices.a/b: input_usd must be a number of USD of at least 0, got Decimal",
        ),
        (
            "[reasoner]\nmodel = 'a/b'\nbase_ur = 'x'",
            r"used: reasoner.base_ur is not a setting; did you mean 'base_url'\?$",
        ),
        (
            "[[generator]]\nmodel = 'a/b'\nprise = 1",
            r"used: generator.0.prise is not a setting; did you mean 'price'\?$",
        ),
        (
            "[reasoner.price]\ncashed_usd = 1",
            r"reasoner.price.cashed_usd is not a setting; did you mean 'cached_usd'\?",
        ),
        ("reasoner = 5", "reasoner: must be 'backend/model', a table with 'model' in it, or a list of these"),
        (
            "[budget]\nsignal_tokens = 0",
            "budget: signal_tokens must be a whole number of at least 1, got 0; to skip the reasoner",
        ),
        (
            "[generator_params]\ntemperature = -1",
            "generator_params: temperature must be a number of at least 0, got -1",
        ),
        ("pair = 'p'\nreasoner = 'a/b'", "pair names both models: leave reasoner and generator out"),
        ("[reasoner]\nmodel = 'a/b'\napi_key_env = 'sk-1'", "reasoner.api_key_env: must be the name of an environment"),
        ("[reasoner]\nmodel = 'a/b'\napi_key_env = 'K'\napi_key = 'k'", "pass api_key or api_key_env, not both"),
        ("gate = ", r"duet.toml is not TOML: Invalid value \(at line 1, column 8\)|duet.toml is not TOML"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_key(text, words):
    Path("duet.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_settings()


def test_a_file_that_is_no_file_is_refused():
    Path("duet.toml").mkdir()
    with pytest.raises(ConfigError, match="duet.toml cannot be read: IsADirectoryError"):
        load_settings()


def test_a_file_that_is_named_replaces_all_others_and_the_environment_goes_over_it(monkeypatch, tmp_path):
    Path("duet.toml").write_text('gate = "never"')
    monkeypatch.setenv("DUET_CONFIG", str(tmp_path / "missing.toml"))
    monkeypatch.setenv("DUET_ON_CUT", "error")
    Path("other.toml").write_text('on_cut = "keep"\non_failure = "raise"\n[budget]\nsignal_tokens = 5')
    settings = load_settings("other.toml", budget={"answer_tokens": 7})
    assert (settings.gate, settings.on_cut, settings.on_failure) == ("always", "error", "raise")
    assert settings.budget == Budget(signal_tokens=5, answer_tokens=7)
    with pytest.raises(ConfigError, match="nowhere.toml, which does not exist"):
        load_settings("nowhere.toml")


def test_models_are_named_in_the_environment_by_name_by_parts_or_as_a_chain(monkeypatch):
    monkeypatch.setenv("DUET_REASONER__MODEL", "litellm/a")
    monkeypatch.setenv("DUET_REASONER__API_KEY_ENV", "MY_KEY")
    monkeypatch.setenv("DUET_GENERATOR", '["vllm/b", {"model": "vllm/c"}]')
    settings = load_settings()
    assert settings.reasoner == Endpoint(model="litellm/a", api_key_env="MY_KEY")
    assert settings.generator == ["vllm/b", Endpoint(model="vllm/c")]
    monkeypatch.delenv("DUET_REASONER__MODEL")
    monkeypatch.delenv("DUET_REASONER__API_KEY_ENV")
    monkeypatch.setenv("DUET_REASONER", "vllm/d@http://127.0.0.1:1/v1")
    assert load_settings().reasoner == "vllm/d@http://127.0.0.1:1/v1"


def test_an_empty_variable_sets_nothing(monkeypatch):
    monkeypatch.setenv("DUET_GATE", "")
    assert load_settings().gate == "always"


def test_a_variable_that_is_no_json_is_refused_without_its_value(monkeypatch):
    monkeypatch.setenv("DUET_REASONER_PARAMS", '{"extra_body": sk-secret')
    with pytest.raises(ConfigError, match='field "reasoner_params".* must be JSON') as refused:
        load_settings()
    assert "sk-secret" not in str(refused.value)
    assert refused.value.__cause__ is None


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
    settings = load_settings("duet.toml")
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert "sk-secret" not in shown
    Path("duet.toml").write_text('[generator]\nmodel = "x/y"\napi_key = ["sk-secret"]\n')
    with pytest.raises(ConfigError) as refused:
        load_settings()
    assert "sk-secret" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "text",
    [
        'generator = "vllm/m@http://me:sk-secret@host/v1"',
        'generator = ["vllm/m@https://host/v1?key=sk-secret"]',
        '[generator]\nmodel = "vllm/m"\nbase_url = "http://sk-secret@host/v1"',
        '[generator]\nmodel = "vllm/m"\noptions = { api_key = "sk-secret" }',
        '[generator]\nmodel = "vllm/m"\noptions = { headers = { Authorization = "Bearer sk-secret" } }',
    ],
)
def test_a_key_in_a_place_that_is_shown_is_refused(text):
    Path("duet.toml").write_text(text)
    with pytest.raises(ConfigError, match="api_key_env") as refused:
        load_settings()
    assert "sk-secret" not in str(refused.value)


def test_the_values_of_headers_are_not_shown():
    headers = {"Cookie": "s3cret-value", "X-Auth": "s3cret-value"}
    endpoint = Endpoint(model="vllm/m", options={"headers": headers, "trust_env": True})
    shown = repr(endpoint) + str(endpoint) + repr(Settings(reasoner=endpoint, generator=[endpoint]))
    assert "s3cret" not in shown
    assert "'Cookie': '**********'" in shown
    assert "'trust_env': True" in shown
    assert endpoint.connect_options()["headers"] == headers
    settings = Settings(reasoner=endpoint, generator=[endpoint], on_failure={"fallback_pair": [endpoint, endpoint]})
    dumped = f"{settings.model_dump()}{settings.model_dump_json()}{settings.on_failure!r}{vars(endpoint)}"
    assert "s3cret" not in dumped
    assert Endpoint.model_validate(endpoint.model_dump()) == endpoint


def test_the_settings_of_one_load_do_not_reach_the_next():
    Path("other.toml").write_text('gate = "never"')
    assert load_settings("other.toml").gate == "never"
    assert load_settings().gate == "always"
    assert Settings().gate == "always"


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
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert default_cache_dir() == Path("/home/me/.cache/duet")
    monkeypatch.setenv("DUET_CACHE_DIR", "~/models")
    assert default_cache_dir() == Path("/home/me/models")


@pytest.mark.parametrize(
    "given", ["redis://user:sesame@h/0", {"url": "rediss://:sesame@h/0"}, "redis://h/0?password=sesame"]
)
def test_a_password_in_the_url_of_a_ledger_is_refused_and_not_quoted(given):
    with pytest.raises(ConfigError, match=r"ledger.*: a ledger's URL must not contain a password") as caught:
        load_settings(ledger=given)
    assert "sesame" not in str(caught.value)


def test_a_ledgers_password_is_read_from_the_variable_that_is_named(monkeypatch):
    settings = load_settings(ledger={"url": "redis://127.0.0.1:6379/0", "password_env": "REDIS_PASSWORD"})
    with pytest.raises(ConfigError, match="read from REDIS_PASSWORD, which is not set"):
        settings.ledger.resolve_password()
    monkeypatch.setenv("REDIS_PASSWORD", "sesame")
    assert settings.ledger.resolve_password() == "sesame"
    assert "sesame" not in repr(settings)


def test_a_ledger_can_be_named_in_the_environment(monkeypatch):
    monkeypatch.setenv("DUET_LEDGER", "sqlite:///ledger.db")
    assert load_settings().ledger == "sqlite:///ledger.db"
    monkeypatch.setenv("DUET_LEDGER", '{"url": "redis://h:1/0"}')
    assert load_settings().ledger.url == "redis://h:1/0"


def test_a_gate_with_its_numbers_probes_and_a_calibration_reach_the_client():
    Path("duet.toml").write_text(
        "calibration = 'pair.json'\ngate_deadline_s = 0.5\ngate = {policy = 'race', threshold = 0.3}\n"
        "[progressive]\nslice_tokens = 32\n"
    )
    options = load_settings("duet.toml").client_options()
    assert options == {
        "calibration": "pair.json",
        "gate_deadline_s": 0.5,
        "gate": GateConfig("race", 0.3),
        "progressive": Progressive(slice_tokens=32),
    }


def test_what_follows_a_failure_is_a_word_or_a_table(monkeypatch):
    Path("duet.toml").write_text(
        "[on_failure]\nchain = 'outage'\nanswer_broken = 'restart'\n"
        "fallback_pair = ['vllm/a', {model = 'vllm/b', api_key = 'sk-secret'}]\n"
        "[on_failure.ladder]\nreasoner = 'raise'\n[on_failure.breaker]\nfailures = 2\n"
    )
    monkeypatch.setenv("DUET_ON_FAILURE__RETRY__ATTEMPTS", "2")
    settings = load_settings("duet.toml")
    policy = FailurePolicy(
        retry=Retry(attempts=2),
        chain="outage",
        breaker=BreakerPolicy(failures=2),
        fallback_pair=("vllm/a", Endpoint(model="vllm/b", api_key="sk-secret")),
        ladder=Ladder(reasoner="raise"),
        answer_broken="restart",
    )
    assert settings.client_options() == {"on_failure": policy}
    assert "sk-secret" not in f"{settings!r} {settings.model_dump()} {settings.model_dump_json()}"
    monkeypatch.setenv("DUET_ON_FAILURE__FALLBACK_PAIR", '["vllm/c", "vllm/d"]')
    assert load_settings("duet.toml").on_failure.fallback_pair == ("vllm/c", "vllm/d")
    assert load_settings("duet.toml", on_failure=policy).on_failure == policy
    assert load_settings("duet.toml", on_failure=Ladder(reasoner="raise")).on_failure == FailurePolicy(
        ladder=Ladder(reasoner="raise")
    )
    monkeypatch.delenv("DUET_ON_FAILURE__RETRY__ATTEMPTS")
    monkeypatch.setenv("DUET_ON_FAILURE", "raise")
    monkeypatch.delenv("DUET_ON_FAILURE__FALLBACK_PAIR")
    assert load_settings("/dev/null").on_failure == "raise"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("on_failure = 'giveup'", "on_failure: Input should be 'answer' or 'raise'"),
        ("[on_failure]\nretri = 1", r"on_failure.retri is not a setting; did you mean 'retry'\?$"),
        ("[on_failure.retry]\nattempt = 1", r"on_failure.retry.attempt is not a setting; did you mean 'attempts'\?$"),
        ("[on_failure.retry]\nattempts = 0", "on_failure.retry: attempts of Retry must be a whole number"),
        ("[on_failure]\nchain = 'never'", "on_failure.chain: Input should be 'any' or 'outage'"),
        (
            "[on_failure]\nfallback_pair = ['a/b', {model = 'c/d', base_ur = 1}]",
            r"on_failure.fallback_pair.1.base_ur is not a setting; did you mean 'base_url'\?$",
        ),
        ("[on_failure]\nfallback_pair = ['vllm/a@http://u:sk-secret@h', 'c/d']", "fallback_pair.0: a URL must not"),
        ("[prices.x]\ngpu_hour_usd = 1\nusd = 2", r"used: prices.x.usd is not a setting; known: input_usd"),
        ("[prices.x]\ngpu_hour_usd = 1\ninput_usd = 2", "prices.x: a price needs input_usd and output_usd, or gpu"),
        (
            "[prices.x]\ninput_us = 1\noutput_usd = 1",
            r"used: prices.x.input_us is not a setting; did you mean '\w+'\?$",
        ),
        ("ledger_wait_s = -1", "ledger_wait_s: Input should be greater than or equal to 0"),
    ],
)
def test_a_failure_policy_or_price_that_cannot_be_is_refused_with_its_key(text, words):
    Path("duet.toml").write_text(text)
    with pytest.raises(ConfigError, match=words) as refused:
        load_settings()
    assert "sk-secret" not in str(refused.value)


def test_lists_and_tables_in_parts_of_the_environment_are_json(monkeypatch):
    monkeypatch.setenv("DUET_GENERATOR_PARAMS__STOP", '["END", "STOP"]')
    monkeypatch.setenv("DUET_REASONER_PARAMS__STOP", "END")
    monkeypatch.setenv("DUET_REASONER_PARAMS__EXTRA_BODY", '{"priority": 1}')
    monkeypatch.setenv("DUET_SIGNAL_SCOPE__ASK_AGAIN_ON", '["tool_error"]')
    monkeypatch.setenv("DUET_PROMPTS__REASONER", '["a prompt that looks like JSON"]')
    settings = load_settings()
    assert settings.generator_params == Sampling(stop=("END", "STOP"))
    assert settings.reasoner_params == Sampling(stop=("END",), extra_body={"priority": 1})
    assert settings.signal_scope == RunScope(["tool_error"])
    assert settings.prompts.reasoner == '["a prompt that looks like JSON"]'
    monkeypatch.setenv("DUET_REASONER_PARAMS__EXTRA_BODY", '{"key": sk-secret')
    with pytest.raises(ConfigError, match="reasoner_params.extra_body: ") as refused:
        load_settings()
    assert "sk-secret" not in str(refused.value)


def test_a_byte_order_mark_in_front_of_a_settings_file_is_read_over():
    Path("duet.toml").write_bytes(b"\xef\xbb\xbfgate = 'never'\r\n")
    assert load_settings().gate == load_settings("duet.toml").gate == "never"


@pytest.mark.parametrize("content", [b"a = " + b"[" * 100_000, b"\xff\xfea\x00", b"a = '\xe9'"])
def test_a_file_that_is_no_toml_is_an_error_of_ours(content):
    Path("duet.toml").write_bytes(content)
    for path in (None, "duet.toml"):
        with pytest.raises(ConfigError, match=r"is not (TOML|UTF-8 text)"):
            load_settings(path)


@pytest.mark.parametrize("content", ["a = " + "9" * 5000, "generator.options." + "a." * 5000 + "b = 1"])
def test_a_file_with_what_python_cannot_read_is_an_error_of_ours(content):
    Path("duet.toml").write_text(content)
    for path in (None, "duet.toml"):
        with pytest.raises(ConfigError, match=r"cannot be used|is not TOML"):
            load_settings(path)


@pytest.mark.parametrize("name", ["~nobody-here/duet.toml", "."])
def test_a_named_file_that_cannot_be_read_is_an_error_of_ours(name, monkeypatch):
    monkeypatch.setenv("DUET_CONFIG", name)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings()


@pytest.mark.parametrize("name", ["DUET_BUDGET", "DUET_GENERATOR", "DUET_PRICES", "DUET_BUDGET__SIGNAL_TOKENS"])
def test_a_variable_that_is_nothing_but_brackets_is_an_error_of_ours(name, monkeypatch):
    monkeypatch.setenv(name, "[" * 100_000)
    with pytest.raises(ConfigError, match="cannot be used"):
        load_settings()


def test_a_ladder_may_be_a_word_and_a_word_beside_a_table_gets_a_hint():
    policy = Settings(on_failure={"ladder": "raise", "retry": {"attempts": 2}}).on_failure
    assert (policy.ladder.reasoner, policy.ladder.generator, policy.retry.attempts) == ("raise", "raise", 2)
    with pytest.raises(ConfigError, match=r"write the word as ladder in \[on_failure\]"):
        parse_toml(b'on_failure = "raise"\n[on_failure.retry]\nattempts = 2\n', Path("duet.toml"))
