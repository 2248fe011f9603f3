"""What our own engines cannot honour, where ignoring it would change the answer.

A server that speaks OpenAI's API gets such requests whole, where the model has one.
"""

from starloom.serve.errors import BadRequest
from starloom.serve.gateway.api import Body, ChatBody, TextBody

NOT_AS_DELTAS = ("tools", "functions", "modalities")
"""Their answers are more than text, so that they can only be forwarded."""


def unsupported(body: Body) -> BadRequest | None:
    """Why our own engines cannot answer this, or None when they can."""
    found = _asked(body) or (_chat(body) if isinstance(body, ChatBody) else _text(body))
    if found is None:
        return None
    param, what = found
    return BadRequest(f"{param}: {what} for this model", param=param)


def _asked(body: Body) -> tuple[str, str] | None:
    for param in ("presence_penalty", "frequency_penalty", "min_p", "logit_bias"):
        if getattr(body, param):
            return param, "not supported"
    if body.repetition_penalty not in (None, 1.0):
        return "repetition_penalty", "not supported"
    if body.response_format and body.response_format.get("type", "text") != "text":
        return "response_format", "only text is supported"
    return None


def _chat(body: ChatBody) -> tuple[str, str] | None:
    for param in ("tools", "functions"):
        if getattr(body, param):
            return param, "not supported"
    if body.modalities and body.modalities != ["text"]:
        return "modalities", "only text is supported"
    for at, message in enumerate(body.messages):
        if isinstance(message.content, list):
            for place, part in enumerate(message.content):
                if part.type != "text" or part.text is None:
                    return f"messages[{at}].content[{place}]", "only text parts are supported"
    return None


def _text(body: TextBody) -> tuple[str, str] | None:
    if body.echo:
        return "echo", "not supported"
    if body.suffix:
        return "suffix", "not supported"
    if body.best_of is not None and body.best_of > (body.n or 1):
        return "best_of", "more than n is not supported"
    return None
