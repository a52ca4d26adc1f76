"""The settings of the OpenAI-compatible front (`upstreams.` in conf/serve.yaml)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from router.errors import RouterError

FailureKind = Literal["timeout", "rate_limit", "server_error", "connection", "denied"]
# Headers that carry a key, which has no place in a file of settings.
SECRET_HEADERS = {"authorization", "proxy-authorization", "api-key", "x-api-key", "cookie"}


class _Section(BaseModel):
    # What was given is not shown in a message: a key may have been put in the wrong place.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class Upstream(_Section):
    """Where one candidate answers.

    model: LiteLLM's name of the model, with the provider before it: `openai/llama-3.1-8b`.
    api_base: address of an own server; None: the provider's.
    api_key_env: NAME of the environment variable that holds the key. None: with an api_base no key
        is sent, without one LiteLLM reads the provider's usual variable.
    headers: further headers of every request; none that carries a key.
    connect_seconds: until the connection stands.
    timeout_seconds: longest silence: until the answer, or until a stream's next chunk.
    max_retries: further tries on the same upstream after a 429, a 5xx or a broken connection,
        before another candidate is asked. What was silent is not asked twice.
    known_parameters: of a request, known to this upstream though LiteLLM thinks otherwise (`user`,
        `reasoning_effort` of a model that it has never heard of).
    stream_usage: ask for token counts at the end of a stream; some servers refuse to be asked.
    """

    model: str = Field(min_length=1, max_length=1000)
    api_base: str | None = Field(default=None, pattern=r"^https?://\S+$", max_length=4096)
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    headers: dict[str, str] = {}
    connect_seconds: float = Field(default=5.0, gt=0, le=600)
    timeout_seconds: float = Field(default=60.0, gt=0, le=3600)
    max_retries: int = Field(default=1, ge=0, le=10)
    known_parameters: list[str] = []
    stream_usage: bool = True

    @field_validator("headers")
    @classmethod
    def _without_keys(cls, headers: dict[str, str]) -> dict[str, str]:
        for name in headers:
            if name.lower() in SECRET_HEADERS:
                raise ValueError(f"{name} carries a key; name its variable in api_key_env")
        return headers

    def api_key(self, place: str) -> str | None:
        """The key itself; raises RouterError where its variable is not set."""
        if self.api_key_env is None:
            # Without any, LiteLLM would send the provider's key of this machine to an own server.
            return None if self.api_base is None else "no-key"
        key = os.environ.get(self.api_key_env)
        if not key:
            raise RouterError(
                f"{place}.api_key_env names {self.api_key_env}, which the environment does not "
                "hold; set it, or leave api_key_env out."
            )
        return key


class FallbackSettings(_Section):
    """Who answers where the chosen candidate's upstream fails.

    order: candidates to ask one after the other. None: those that the request allows and whose
        predicted cost its budget covers, those that reach its quality floor first, then by
        predicted quality. A list of one's own is kept to what the request allows and can pay, too.
        An empty list: nobody.
    failures: those that are answered so. denied: 401, 403 and 404, an upstream set up wrongly. A
        request that an upstream finds faulty (400, 413, 422) is faulty: nobody else is asked.
    """

    order: list[str] | None = None
    failures: list[FailureKind] = ["timeout", "rate_limit", "server_error", "connection", "denied"]


class UpstreamSettings(_Section):
    """The front: which requests are routed, and who answers them.

    candidates: an upstream for each candidate, by name; a candidate without one is not chosen.
    file: YAML file that holds `candidates` in their place.
    names: what a request names as its model to be routed.
    prompt: what is routed: the text of the last message of the user, or of all messages in order.
    sticky_seconds: for which a session keeps its candidate after its last request; 0: it does not.
    sticky_sessions: sessions that a worker remembers; the one longest unused is forgotten.
    fallback: who answers where an upstream fails.
    deadline_seconds: of all tries together, until the answer or the first chunk of a stream.
    stream_seconds: longest stream.
    drop_params: leave out of a request what LiteLLM says that a candidate's provider does not know
        (`logprobs`, say), so that every candidate can answer it; else such a request is refused.
    extra_parameters: names beyond OpenAI's own (`top_k`) that are passed on as they are; a request
        with any other is refused.
    """

    candidates: dict[str, Upstream] = {}
    file: Path | None = None
    names: list[str] = Field(default=["router"], min_length=1)
    prompt: Literal["last_user", "conversation"] = "last_user"
    sticky_seconds: float = Field(default=1800.0, ge=0, le=86_400 * 30)
    sticky_sessions: int = Field(default=10_000, ge=1, le=10_000_000)
    fallback: FallbackSettings = FallbackSettings()
    deadline_seconds: float = Field(default=120.0, gt=0, le=3600)
    stream_seconds: float = Field(default=600.0, gt=0, le=86_400)
    drop_params: bool = True
    extra_parameters: list[str] = []

    def read_candidates(self) -> dict[str, Upstream]:
        """The upstream of every candidate, from here or from the file.

        Raises RouterError where there are none, both places have some, the file is none of these,
        or a name is used twice.
        """
        if self.file is not None and self.candidates:
            raise RouterError("upstreams: both candidates and file are given; give one of them.")
        candidates = self.candidates if self.file is None else _read(self.file)
        if not candidates:
            raise RouterError("upstreams.candidates is empty; give each candidate an upstream.")
        for name in candidates:
            if name in self.names:
                raise RouterError(
                    f"upstreams.names holds {name!r}, a candidate's own name; give another."
                )
        for name in self.fallback.order or ():
            if name not in candidates:
                raise RouterError(
                    f"upstreams.fallback.order names {name!r}, which has no upstream; name some "
                    f"of {', '.join(candidates)}."
                )
        return candidates


class _File(_Section):
    candidates: dict[str, Upstream]


def _read(path: Path) -> dict[str, Upstream]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    content: Any
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError, OmegaConfBaseException, ValueError) as error:
        if isinstance(error, OSError) and error.strerror:  # without: what it read is no mapping
            raise RouterError(
                f"upstreams.file: {path} cannot be read ({error.strerror})."
            ) from None
        raise RouterError(f"upstreams.file: {path} is no YAML; mend it.") from None
    try:
        return _File.model_validate(content).candidates
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise RouterError(f"upstreams.file: {path}: {place}: {first['msg']}.") from None
