"""Tells Envoy which candidate shall answer a chat request (see envoy.yaml):

ROUTER_ARTIFACT=artifact ROUTER_LOG=logs uvicorn --app-dir deploy envoy_adapter:app --port 8081

Envoy asks leave for a request, with its path and body, and takes the headers of the answer over.
The answer is always 200: a request that cannot be routed goes on without them.
"""

from __future__ import annotations

import json
import logging
import os

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

import router
from router.serving.chat_request import ChatRequest

app = FastAPI(openapi_url=None)
chooser = router.load(os.environ["ROUTER_ARTIFACT"])
log = router.DecisionLog(os.environ["ROUTER_LOG"])


@app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE", "PATCH"])
async def choose(path: str, request: Request) -> Response:
    """Leave to go on, and for a chat request the chosen candidate."""
    if path != "v1/chat/completions":
        return Response()
    try:
        body = json.loads(await request.body())
        headers = await run_in_threadpool(
            decide, ChatRequest.model_validate(body).prompt("last_user")
        )
    except (ValueError, router.RouterError) as error:  # pydantic's errors are ValueErrors
        logging.getLogger("router.envoy").warning("Not routed: %s", type(error).__name__)
        return Response()
    return Response(headers=headers)


def decide(prompt: str) -> dict[str, str]:
    """The chosen candidate, logged."""
    decision = chooser.route(prompt)
    log.decision(decision, prompt)
    return {"x-router-candidate": decision.candidate, "x-router-request-id": decision.request_id}
