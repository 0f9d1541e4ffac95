"""Which model an agent gets: `auto` resolved, what this machine cannot serve and why, and the pool."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from agent_runs import ask
from provider_server import ProviderServer, json_reply, sse, text

from cirkelline.agents import access, chat_model, models, run
from cirkelline.agents.chat_model import ChatMessage
from cirkelline.configs import errors
from cirkelline.configs.schema import ModelSpec

KEY = "key-of-the-operator-271828"
AUTO = ModelSpec()


@pytest.mark.parametrize(
    ("environ", "label"),
    [
        ({"GOOGLE_API_KEY": "g", "OPENAI_API_KEY": "o", "OPENAI_BASE_URL": "http://x/v1"}, "gemini:gemini-2.5-flash"),
        ({"OPENAI_API_KEY": "o"}, "openai:gpt-5.4-mini"),
        ({"OPENAI_API_KEY": "o", "CIRKELLINE_OPENAI_MODEL": "m1", "OPENAI_MODEL": "m2"}, "openai:m1"),
        ({"OPENAI_API_KEY": "o", "OPENAI_MODEL": "m2"}, "openai:m2"),
        ({"GOOGLE_API_KEY": " ", "OPENAI_API_KEY": "o"}, "openai:gpt-5.4-mini"),
        ({"OPENAI_BASE_URL": "http://x/v1", "OPENAI_MODEL": "m2"}, "openai:m2"),
        ({"OPENAI_BASE_URL": "https://api.openai.com/v1/", "OPENAI_API_KEY": "o"}, "openai:gpt-5.4-mini"),
    ],
)
async def test_auto_is_the_first_provider_that_is_there(environ: dict[str, str], label: str) -> None:
    assert (await models.resolve_auto(AUTO, environ)).label == label


async def test_auto_without_anything_is_the_embedded_model() -> None:
    resolved = await models.resolve_auto(AUTO, {})
    assert resolved.provider == "local"
    assert resolved.name
    assert (await models.resolve_auto(AUTO, {"CIRKELLINE_LOCAL_MODEL": "tiny"})).label == "local:tiny"


async def test_auto_keeps_the_settings_and_pins_the_servers_address() -> None:
    spec = ModelSpec(temperature=0.3, max_tokens=77)
    resolved = await models.resolve_auto(spec, {"OPENAI_BASE_URL": "http://there:1234/v1/", "OPENAI_MODEL": "m"})
    assert resolved == ModelSpec(
        provider="openai", name="m", base_url="http://there:1234/v1", temperature=0.3, max_tokens=77
    )


async def test_a_model_that_is_named_stays_what_it_is() -> None:
    spec = ModelSpec(provider="openai", name="m", base_url="http://there/v1")
    assert await models.resolve_auto(spec, {"GOOGLE_API_KEY": "g", "OPENAI_BASE_URL": "http://x/v1"}) == spec
    assert (await models.resolve_auto(ModelSpec(provider="gemini"), {})).label == "gemini:gemini-2.5-flash"


async def test_a_server_without_a_named_model_is_asked_for_its_first(server: ProviderServer) -> None:
    server.will(json_reply({"object": "list", "data": [{"id": "first"}, {"id": "second"}]}))
    environ = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": KEY}
    resolved = await models.resolve_auto(AUTO, environ)
    assert (resolved.label, resolved.base_url) == ("openai:first", f"{server.url}/v1")
    [received] = server.received
    assert (received.method, received.path) == ("GET", "/v1/models")
    assert received.headers["authorization"] == f"Bearer {KEY}"


async def test_a_server_that_cannot_list_its_models_leads_to_the_variable_that_names_one(
    server: ProviderServer,
) -> None:
    environ = {"OPENAI_BASE_URL": f"{server.url}/v1"}
    server.will(json_reply({"object": "list", "data": []}))
    with pytest.raises(models.ModelNotFound, match=r"offers no model; set CIRKELLINE_OPENAI_MODEL"):
        await models.resolve_auto(AUTO, environ)
    server.will(json_reply({"error": {"message": "no such path"}}, 404))
    with pytest.raises(chat_model.ModelRequestRejected, match=r"HTTP 404.*set CIRKELLINE_OPENAI_MODEL"):
        await models.resolve_auto(AUTO, environ)


@pytest.mark.parametrize("address", ["nonsense", "http://user:hunter2hunter2@there/v1", "ftp://there/v1"])
async def test_a_bad_address_is_refused_by_its_variables_name_and_not_shown_when_secret(address: str) -> None:
    with pytest.raises(errors.UsageError, match=r"^OPENAI_BASE_URL must") as caught:
        await models.resolve_auto(AUTO, {"OPENAI_BASE_URL": address, "OPENAI_MODEL": "m"})
    assert "hunter2" not in str(caught.value)


OWN = ModelSpec(provider="openai", name="m", base_url="http://own:1/v1")


@pytest.mark.parametrize(
    ("spec", "environ", "named"),
    [
        (ModelSpec(provider="gemini"), {}, "GOOGLE_API_KEY"),
        (ModelSpec(provider="gemini", name="g", api_key_env="TEAM_KEY"), {"GOOGLE_API_KEY": "g"}, "TEAM_KEY"),
        (ModelSpec(provider="openai", name="m"), {}, "OPENAI_API_KEY"),
        (ModelSpec(provider="openai", name="m"), {"OPENAI_API_KEY": "  "}, "OPENAI_API_KEY"),
        (OWN.model_copy(update={"api_key_env": "TEAM_KEY"}), {"OPENAI_API_KEY": "o"}, "TEAM_KEY"),
    ],
)
def test_a_missing_key_is_named_and_the_model_not_swapped(spec: ModelSpec, environ: dict[str, str], named: str) -> None:
    reason = models.why_not_servable(spec, environ)
    assert reason is not None
    assert reason.startswith(spec.label)
    assert f"environment variable {named}, which is not set" in reason


@pytest.mark.parametrize("key", ["sk-…abc", "sk-a\x00b", "two\nlines"])
def test_a_key_that_cannot_be_one_is_refused_without_being_shown(key: str) -> None:
    reason = models.why_not_servable(ModelSpec(provider="gemini"), {"GOOGLE_API_KEY": key}) or ""
    assert "GOOGLE_API_KEY holds characters that no key has" in reason
    assert key not in reason


@pytest.mark.parametrize(
    ("spec", "environ"),
    [
        (ModelSpec(provider="gemini"), {"GOOGLE_API_KEY": "g"}),
        (ModelSpec(provider="openai", name="m"), {"OPENAI_API_KEY": "o"}),
        (ModelSpec(provider="openai", name="m"), {"OPENAI_BASE_URL": "http://own:1/v1"}),
        (OWN, {}),
        (AUTO, {"GOOGLE_API_KEY": "g"}),
        (AUTO, {"OPENAI_BASE_URL": "http://own:1/v1"}),
    ],
)
def test_what_has_its_key_or_needs_none_is_servable(spec: ModelSpec, environ: dict[str, str]) -> None:
    assert models.why_not_servable(spec, environ) is None


def test_a_script_that_is_missing_or_wrong_is_not_servable_and_says_where(tmp_path: Path) -> None:
    spec = ModelSpec(provider="scripted", name=str(tmp_path / "s.yaml"))
    assert models.why_not_servable(spec, {}) == f"{tmp_path / 's.yaml'}:1:1: there is no such file or folder"
    Path(spec.name or "").write_text("- txt: a", encoding="utf-8")
    assert "s.yaml:1:3: unknown key 'txt'" in (models.why_not_servable(spec, {}) or "")
    Path(spec.name or "").write_text("- text: a", encoding="utf-8")
    assert models.why_not_servable(spec, {}) is None


@pytest.mark.parametrize(
    "spec", [AUTO, ModelSpec(provider="local"), ModelSpec(provider="local", name="qwen2.5-coder-0.5b")]
)
async def test_weights_that_are_not_here_are_not_servable_and_name_the_command(spec: ModelSpec, tmp_path: Path) -> None:
    environ = {"CIRKELLINE_HOME": str(tmp_path), "CIRKELLINE_LOCAL_MODEL": "qwen2.5-coder-0.5b"}
    reason = models.why_not_servable(spec, environ)
    assert reason is not None
    assert "cirkelline models pull qwen2.5-coder-0.5b" in reason
    async with models.ModelPool(environ) as pool:
        with pytest.raises(models.ModelUnservable, match="models pull"):
            await pool.get(await models.resolve_auto(spec, environ))


def test_a_local_model_nobody_knows_is_not_servable(tmp_path: Path) -> None:
    reason = models.why_not_servable(ModelSpec(provider="local", name="qwenn"), {"CIRKELLINE_HOME": str(tmp_path)})
    assert reason is not None
    assert "qwenn" in reason


@pytest.mark.parametrize(
    ("spec", "sent"),
    [
        (ModelSpec(provider="openai", name="m"), KEY),
        (ModelSpec(provider="openai", name="m", base_url="https://api.openai.com/v1/"), KEY),
        (ModelSpec(provider="openai", name="m", base_url="http://chosen/v1"), KEY),
        (ModelSpec(provider="openai", name="m", base_url="http://other/v1"), ""),
        (ModelSpec(provider="openai", name="m", base_url="http://chosen.evil/v1"), ""),
        (ModelSpec(provider="openai", name="m", base_url="http://other/v1", api_key_env="TEAM_KEY"), "team"),
    ],
)
def test_the_operators_key_goes_only_to_openai_and_to_the_server_the_operator_chose(spec: ModelSpec, sent: str) -> None:
    environ = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "http://chosen/v1", "TEAM_KEY": "team"}
    assert access.of(spec, environ).key == sent


async def test_a_server_nobody_named_a_key_for_gets_none_and_its_refusal_says_so(server: ProviderServer) -> None:
    server.will(json_reply({"error": {"message": "who are you?"}}, 401))
    spec = ModelSpec(provider="openai", name="m", base_url=f"{server.url}/v1")
    async with models.ModelPool({"OPENAI_API_KEY": KEY}) as pool:
        outcome = await run.run(ask(spec), model_pool=pool)
    assert outcome.error is not None
    assert outcome.error.type == "ModelRefused"
    assert "api_key_env" in outcome.error.message
    assert KEY not in json.dumps(dict(server.received[0].headers))


def test_an_access_does_not_print_its_key() -> None:
    assert KEY not in repr(access.of(ModelSpec(provider="openai", name="m"), {"OPENAI_API_KEY": KEY}))


async def test_a_pool_refuses_what_cannot_be_served_before_anything_is_opened() -> None:
    async with models.ModelPool({}) as pool:
        with pytest.raises(models.ModelUnservable, match="GOOGLE_API_KEY"):
            await pool.get(ModelSpec(provider="gemini"))
        with pytest.raises(errors.UsageError, match="still auto"):
            await pool.get(AUTO)


async def test_one_models_settings_do_not_reach_another_run_on_the_same_server(server: ProviderServer) -> None:
    server.will(sse(*text("ok")), sse(*text("ok")))
    spec = ModelSpec(provider="openai", name="m", base_url=f"{server.url}/v1")
    async with models.ModelPool({}) as pool:
        for each in (spec.model_copy(update={"temperature": 1.0}), spec):
            await run.run(ask(each), model_pool=pool)
    assert [received.body.get("temperature") for received in server.received] == [1.0, None]


async def test_a_closed_model_never_turns_to_openai_with_the_environments_key(
    server: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    server.will(sse(*text("ok")))
    async with models.open_model(ModelSpec(provider="openai", name="m", base_url=f"{server.url}/v1"), {}) as model:
        assert [delta.text async for delta in model.stream([ChatMessage("user", "hi")], ())] == ["ok"]
    with pytest.raises(chat_model.ModelError, match="closed"):
        await anext(aiter(model.stream([ChatMessage("user", "hi")], ())))
    assert len(server.received) == 1
