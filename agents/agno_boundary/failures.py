# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the annotations of agno and the SDKs are partial)
"""A provider's errors as ours: who has to act, what was said (without secrets), and the remedy."""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from agno.exceptions import ModelProviderError, redact_secrets

from cirkelline.agents import chat_model
from cirkelline.agents.access import Access
from cirkelline.agents.chat_model import ModelError
from cirkelline.configs import secrecy

_LONGEST: Final = 300
_SHORTEST_SECRET: Final = 4  # a shorter "key" (a placeholder) would be masked inside ordinary words
_REQUEST_STATUSES: Final = frozenset({400, 404, 405, 413, 415, 422})
_REFUSAL_STATUSES: Final = frozenset({401, 402, 403})
_CONNECTION: Final = frozenset({"TransportError", "APIConnectionError", "ClientConnectionError"})
_TIMEOUT: Final = frozenset({"TimeoutException", "APITimeoutError", "TimeoutError", "ServerTimeoutError"})


@dataclass(frozen=True, slots=True)
class Provider:
    """What a sentence about a provider needs to know."""

    label: str
    access: Access

    def masked(self, text: str) -> str:
        """Return a provider's words on one line, shortened, without our key and whatever else looks like one."""
        if len(self.access.key) >= _SHORTEST_SECRET:
            text = text.replace(self.access.key, secrecy.HIDDEN)
        text = re.sub(r"\s+", " ", redact_secrets(text)).strip().rstrip(".")
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def explain(error: Exception, provider: Provider) -> ModelError:
    """Return what a failed call means to us.

    `error` is what agno raised: its ModelProviderError around the provider's own error, or anything else. The result
    keeps no reference to it, as it holds the request with its headers.
    """
    cause = error.__cause__ if isinstance(error, ModelProviderError) and error.__cause__ else error
    status = _status_of(cause)
    if status is not None:
        return _of_status(status, cause, provider)
    kinds = {kind.__name__ for kind in type(cause).__mro__}
    if kinds & _TIMEOUT:
        return chat_model.ModelTimedOut(
            f"{provider.label} at {secrecy.mask_url(provider.access.address)} did not answer in time; try again later"
        )
    if kinds & _CONNECTION:
        return chat_model.ModelUnavailable(
            f"{provider.label} cannot be reached at {secrecy.mask_url(provider.access.address)} ({_reason(cause, provider)});"
            " check that the server runs and that its address is right"
        )
    if "APIError" in kinds:  # the openai SDK's, without a status: the server reported it in the middle of the stream
        return _of_status(_status_in_body(cause), cause, provider)
    return chat_model.AnswerMalformed(
        f"the answer of {provider.label} could not be read ({type(cause).__name__}: {provider.masked(str(cause))});"
        " check that the server speaks this protocol"
    )


def _of_status(status: int, cause: BaseException, provider: Provider) -> ModelError:
    said = f"HTTP {status}: {provider.masked(_words_of(cause))}"
    if status in _REFUSAL_STATUSES or _is_about_the_key(cause):
        return chat_model.ModelRefused(f"{provider.label} refused us ({said}); {_key_remedy(provider)}")
    if status == 429 and _details_of(cause).get("code") == "insufficient_quota":  # noqa: PLR2004 - RFC 6585
        return chat_model.ModelRefused(
            f"{provider.label} refused us ({said}); the account behind {provider.access.key_name} has no quota left"
        )
    if status == 429:  # noqa: PLR2004
        wait = retry_after(cause)
        advice = "try again later" if wait is None else f"try again in {wait:g} s"
        return chat_model.ModelRateLimited(f"{provider.label} asks to slow down ({said}); {advice}", retry_after=wait)
    if status in _REQUEST_STATUSES:
        return chat_model.ModelRequestRejected(
            f"{provider.label} rejected the request ({said}); check the model's name, its settings and the size of the conversation"
        )
    return chat_model.ModelUnavailable(f"{provider.label} failed on its side ({said}); try again later")


def _key_remedy(provider: Provider) -> str:
    if not provider.access.key:
        return "no key was sent: name the variable that holds this server's key with api_key_env"
    return f"put a valid key with access to this model into {provider.access.key_name}"


def _status_of(cause: BaseException) -> int | None:
    # openai's errors have status_code, google-genai's have code (an HTTP status, too).
    for name in ("status_code", "code"):
        value = getattr(cause, name, None)
        if isinstance(value, int):
            return value
    return None


def _status_in_body(cause: BaseException) -> int:
    details = _details_of(cause)
    code = details.get("code")
    if isinstance(code, int):
        return code
    if "rate_limit" in f"{code} {details.get('type')}":
        return 429
    return 500


def _details_of(cause: BaseException) -> Mapping[str, Any]:
    """Return the `error` object of the response's JSON body, or an empty mapping."""
    body: object = getattr(cause, "body", None) or getattr(cause, "details", None)
    if isinstance(body, Mapping):
        inner = cast("Mapping[str, Any]", body)
        error = inner.get("error", inner)
        if isinstance(error, Mapping):
            return cast("Mapping[str, Any]", error)
    return {}


def _words_of(cause: BaseException) -> str:
    message = _details_of(cause).get("message")
    if isinstance(message, str):
        return message
    page: object = getattr(getattr(cause, "response", None), "text", None)  # a proxy's, say
    return page if isinstance(page, str) and page.strip() else str(cause)


def _is_about_the_key(cause: BaseException) -> bool:
    # Gemini answers a wrong key with 400 INVALID_ARGUMENT.
    return "API_KEY_INVALID" in json.dumps(_details_of(cause), default=str)


def _reason(cause: BaseException, provider: Provider) -> str:
    """Return the innermost words about a lost connection; the SDKs' own say no more than `Connection error.`."""
    while cause.__cause__ is not None or cause.__context__ is not None:
        cause = cause.__cause__ or cast("BaseException", cause.__context__)
    return provider.masked(str(cause)) or type(cause).__name__


def retry_after(cause: BaseException) -> float | None:
    """Return the seconds a provider asks us to wait, from its headers or (Gemini) its RetryInfo."""
    headers: Mapping[str, str] = getattr(getattr(cause, "response", None), "headers", None) or {}
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    header = headers.get("retry-after")
    seconds = _number(header)
    if seconds is None and header:
        seconds = _seconds_until(header)
    if seconds is not None:
        return seconds
    details: Any = _details_of(cause).get("details")
    delays = [
        _number(str(each.get("retryDelay", "")).removesuffix("s")) for each in details or () if isinstance(each, dict)
    ]
    return next((delay for delay in delays if delay is not None), None)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _seconds_until(date: str) -> float | None:
    try:
        moment = email.utils.parsedate_to_datetime(date)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())
