"""A plug-in for LiteLLM's own proxy: the router chooses the model of the requests to one group.

`litellm_settings.callbacks: [router.serving.litellm_plugin.plugin]` in the proxy's config.yaml puts
it in; what it needs to know stands in the environment (`router.serving.litellm_settings`). It uses
the proxy's documented call hooks alone: before a call it writes another model group into the
request, so that LiteLLM's own balancing, retries, limits and fallbacks work on it as on any other,
and after the answer it logs what that answer cost. docs/serving.md shows a whole config.yaml.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import sys
import traceback
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger

from router.artifact.decision_log import DecisionLog
from router.artifact.runtime import Decision
from router.errors import RouterError
from router.serving.chat_request import RoutingOptions
from router.serving.choosing import choose
from router.serving.litellm_request import TEXT_FIELDS, binds, options_of, prompt_of
from router.serving.litellm_settings import PluginSettings, settings_from
from router.serving.live import Live
from router.serving.sessions import Sessions

MOST_AWAITED = MOST_SESSIONS = 10_000  # the oldest beyond are forgotten

logger = logging.getLogger("router.gateway")


@dataclass(frozen=True)
class _Awaited:
    """A decision whose answer is on its way. logged: whether the decision log has it."""

    request_id: str
    candidate: str
    logged: bool


class Plugin(CustomLogger):
    """Routes the requests to one model group; every candidate is a model group of its own name.

    A request whose options cannot be kept is refused with status 400. Any other fault is logged,
    and the default candidate answers, or another that the request allows; where the proxy has no
    such model group, the deployments of the routed group itself do.

    Raises RouterError where the artifact or the log's folder cannot be used.
    """

    def __init__(self, settings: PluginSettings):
        super().__init__()
        self.settings = settings
        self._live = Live(settings.live)
        self._live.start()
        known = self._live.router.candidates
        if settings.default is not None and settings.default not in known:
            raise RouterError(
                f"ROUTER_DEFAULT is {settings.default!r}, which the artifact does not know; "
                f"choose one of {', '.join(known)}."
            )
        self._log = None if settings.log is None else DecisionLog(settings.log, settings.keep)
        self._sessions = Sessions(settings.sticky_seconds, MOST_SESSIONS)
        self._awaited: OrderedDict[str, _Awaited] = OrderedDict()  # by the id of LiteLLM's call
        self._missing: set[str] = set()

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Write the chosen model group into a request to the routed one."""
        if data.get("model") != self.settings.group or call_type not in TEXT_FIELDS:
            return data
        try:
            options = options_of(data)
        except RouterError as error:
            raise _refused(error) from None
        try:
            data["model"] = await self._route(prompt_of(data, call_type), options, data)
        except RouterError as error:
            if binds(options):
                raise _refused(error) from None
            self._use_default(data, options, str(error))
        except Exception as error:  # a fault of ours must not break the user's request
            self._use_default(data, options, _place_of(error))
        return data

    async def async_post_call_response_headers_hook(
        self,
        data: dict[str, Any],
        user_api_key_dict: Any,
        response: Any,
        request_headers: dict[str, str] | None = None,
        litellm_call_info: dict[str, Any] | None = None,
    ) -> dict[str, str] | None:
        """Tell the caller what was chosen, and the id under which to report a score."""
        awaited = self._awaited.get(str(data.get("litellm_call_id")))
        if awaited is None:
            return None
        candidate = ascii(awaited.candidate)[1:-1]  # as a header can hold it
        return {"x-router-candidate": candidate, "x-router-request-id": awaited.request_id}

    async def async_log_success_event(
        self,
        kwargs: dict[str, Any],
        response_obj: Any,
        start_time: datetime.datetime,
        end_time: datetime.datetime,
    ) -> None:
        """Log what the chosen candidate's answer cost. One from the proxy's cache tells nothing."""
        awaited = self._awaited.get(str(kwargs.get("litellm_call_id")))
        if awaited is None:
            return
        cached = bool(kwargs.get("cache_hit"))
        # LiteLLM says 0 of what it cannot price: an unknown cost, not a free answer.
        cost = 0.0 if cached else kwargs.get("response_cost") or None
        if cost is not None:  # it was spent, whoever answered
            await asyncio.to_thread(self._live.paid, awaited.request_id, cost)
        if cached:
            return
        answer = kwargs.get("standard_logging_object") or {}
        await self._tell(
            awaited,
            kwargs,
            cost_usd=cost,
            input_tokens=answer.get("prompt_tokens"),
            output_tokens=answer.get("completion_tokens"),
            latency_s=(end_time - start_time).total_seconds(),
        )

    async def async_log_failure_event(
        self,
        kwargs: dict[str, Any],
        response_obj: Any,
        start_time: datetime.datetime,
        end_time: datetime.datetime,
    ) -> None:
        """Log that the chosen candidate was asked and did not answer: no score, no cost."""
        awaited = self._awaited.get(str(kwargs.get("litellm_call_id")))
        if awaited is not None:
            await self._tell(awaited, kwargs)

    async def _tell(self, awaited: _Awaited, kwargs: dict[str, Any], **told: Any) -> None:
        """Log an outcome of the chosen candidate. One of another, to which LiteLLM fell back, says
        nothing of the chosen one."""
        group = (kwargs.get("standard_logging_object") or {}).get("model_group")
        if self._log is None or not awaited.logged or group != awaited.candidate:
            return
        metadata = (kwargs.get("litellm_params") or {}).get("metadata") or {}
        retries = metadata.get("attempted_retries") or 0
        try:
            await asyncio.to_thread(self._log.outcome, awaited.request_id, retries=retries, **told)
        except RouterError as error:
            logger.warning("%s", error)

    async def _route(self, prompt: str, options: RoutingOptions, data: dict[str, Any]) -> str:
        """The chosen candidate, logged and awaited."""
        eligible = self._served(options.candidates or list(self._live.router.candidates))
        if not eligible:
            raise RouterError("The proxy has no model group for any candidate; add some.")
        call_id = str(data.get("litellm_call_id"))
        seed = options.seed if options.seed is not None else call_id
        decision = await asyncio.to_thread(
            choose, self._live, self._sessions, prompt, options, seed, eligible
        )
        logged = await asyncio.to_thread(self._write, decision, prompt, _user(options, data))
        # A caller may name its calls as it likes: the second of a name is not mixed with the first.
        if call_id not in self._awaited:
            self._awaited[call_id] = _Awaited(decision.request_id, decision.candidate, logged)
        if len(self._awaited) > MOST_AWAITED:
            self._awaited.popitem(last=False)
        return decision.candidate

    def _write(self, decision: Decision, prompt: str, user: str | None) -> bool:
        if self._log is None:
            return False
        try:
            self._log.decision(decision, prompt, user=user)
        except RouterError as error:
            logger.warning("%s", error)
            return False
        return True

    def _served(self, names: list[str]) -> list[str]:
        """Those that the router does not know or the proxy has a model group for."""
        from litellm.proxy import proxy_server  # made after the plug-in, and replaced at times

        groups = proxy_server.llm_router
        known = set(self._live.router.candidates)
        missing = {
            name
            for name in known.intersection(names)
            if groups is None or not groups.get_model_list(model_name=name)
        }
        if missing - self._missing:
            logger.warning("No model group for %s: not chosen.", ", ".join(sorted(missing)))
        self._missing = missing
        return [name for name in names if name not in missing]

    def _use_default(self, data: dict[str, Any], options: RoutingOptions, reason: str) -> None:
        default = self.settings.default or self._live.router.manifest["baselines"]["best_single"]
        allowed = options.candidates or [default]
        answers = self._served([default] if default in allowed else allowed)
        data["model"] = answers[0] if answers else self.settings.group
        logger.warning("Not routed, %s answers: %s", data["model"], reason)


def _user(options: RoutingOptions, data: dict[str, Any]) -> str | None:
    named = options.user or data.get("user")
    return named.strip() or None if isinstance(named, str) else None


def _place_of(error: Exception) -> str:
    """Its kind and where it came up; not its words, which may hold a prompt."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {last.filename}:{last.lineno}"


def _refused(error: RouterError) -> HTTPException:
    return HTTPException(status_code=400, detail={"error": str(error)})


def __getattr__(name: str) -> Any:
    """`plugin`, made when the proxy asks for it and not by an import.

    Where it cannot be made the process ends at once with one sentence: the proxy would print an
    exception as a traceback of some hundred lines.
    """
    if name != "plugin":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return Plugin(settings_from(os.environ))
    except RouterError as error:
        sys.stdout.flush()
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os._exit(2)
