"""The part of OpenAI's chat protocol that is served; whatever else a request asks for is refused by name."""

import json
import time
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from luna.lm.chat import Message
from luna.serve.speaker import Said

Json = dict[str, Any]


class Refused(Exception):
    """A request that is not answered: its HTTP status, why, and the code and key by which clients know it."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    def body(self) -> Json:
        """The error as OpenAI writes it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class _Turn(BaseModel):
    """A turn; clients send back what replies came with, so keys that say nothing here are ignored."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(BaseModel):
    """What a client may ask for. Keys that would change a reply and cannot be honoured are no fields of it."""

    model_config = ConfigDict(extra="forbid")
    model: str
    messages: Annotated[list[_Turn], Field(min_length=1)]
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)] | None = None
    user: str | None = None
    # Taken at the value that changes nothing, since many clients send it.
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    stream: Literal[False] | None = None
    top_p: Annotated[float, Field(ge=1.0, le=1.0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0.0, le=0.0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0.0, le=0.0)] | None = None

    @property
    def turns(self) -> list[Message]:
        return [{"role": turn.role, "content": turn.content} for turn in self.messages]

    @property
    def stops(self) -> list[str]:
        """Without the empty text, which ends nothing."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in given if text]

    @property
    def sampling(self) -> float:
        """The temperature; 1 where none is given, as OpenAI has it."""
        return 1.0 if self.temperature is None else self.temperature

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


def read_request(body: bytes, name: str) -> ChatRequest:
    """A request from its bytes; `name` is the model that is served.

    Raises:
        Refused: it is no JSON, lacks a key, holds a wrong or unknown one, or asks for another model.
    """
    try:
        request = ChatRequest.model_validate(json.loads(body))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] == "extra_forbidden"
        what = "is not known here; leave it out" if unknown else first["msg"]
        raise Refused(400, f"{key or 'the body'}: {what}", param=key or None) from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise Refused(400, f"the body is no JSON ({error})") from error
    if request.model != name:
        raise Refused(404, f"model: there is no {request.model!r} here; ask for {name}", "model_not_found", "model")
    return request


def completion(said: Said, name: str) -> Json:
    """The body of an answer."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": said.text},
        "finish_reason": "length" if said.cut else "stop",
        "logprobs": None,
    }
    usage = {
        "prompt_tokens": said.prompt_tokens,
        "completion_tokens": said.completion_tokens,
        "total_tokens": said.prompt_tokens + said.completion_tokens,
    }
    head = {"id": f"chatcmpl-{uuid4().hex}", "object": "chat.completion", "created": int(time.time()), "model": name}
    return {**head, "choices": [choice], "usage": usage}


def model_list(name: str) -> Json:
    """The body of /v1/models."""
    return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "luna"}]}
