"""The commands `luna serve` and `luna chat`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luna.errors import LunaError

if TYPE_CHECKING:
    from luna.serve.server import ChatServer
    from luna.serve.speaker import Speaker

Models = Annotated[
    list[str] | None,
    typer.Argument(help="A folder, a generation's tag or a hub name; several speak as one. [models/luna]"),
]
Weights = Annotated[
    list[float] | None, typer.Option("--weight", help="Of a model's logits; give one for each. [all equal]")
]
Threads = Annotated[int, typer.Option(min=1, help="Of the CPU; the same number gives the same replies.")]
Root = Annotated[Path, typer.Option(help="The root of the repo whose tags are meant.")]


def serve(
    models: Models = None,
    weight: Weights = None,
    host: Annotated[str, typer.Option(help="Others than this machine's own need LUNA_SERVE_KEY.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    seed: Annotated[int, typer.Option(help="For requests that come without one.")] = 0,
    threads: Threads = 1,
    root: Root = Path(),
) -> None:
    """Serve a model, or several generations as one, in OpenAI's protocol."""
    from luna.stage import one_line_errors

    with one_line_errors("luna serve"):
        import os

        from luna.progress import say
        from luna.serve.server import ChatServer

        speaker = _load(models, weight, root, seed, threads, "luna serve")
        server = ChatServer(speaker, host, port, os.environ.get("LUNA_SERVE_KEY") or None, seed)
        _end_on_signals(server)
        say(f"{speaker.name} answers at {server.api_base} (context {speaker.context} tokens); Ctrl-C ends it")
        server.run()
        say("ended; every reply that was begun is sent")


def chat(
    models: Models = None,
    weight: Weights = None,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.0,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of a reply. [what the context leaves]")] = None,
    seed: Annotated[int, typer.Option(help="Of the replies.")] = 0,
    threads: Threads = 1,
    root: Root = Path(),
) -> None:
    """Talk to a model, or to several generations as one; /new begins anew, an empty line or Ctrl-D ends."""
    from luna.stage import one_line_errors

    with one_line_errors("luna chat"):
        import sys

        from luna.lm.chat import Message

        speaker = _load(models, weight, root, seed, threads, "luna chat")
        beginning: list[Message] = [{"role": "system", "content": system}] if system else []
        talked = list(beginning)
        typer.echo(f"{speaker.name}; /new begins anew, an empty line ends")
        while (said := _next_line(sys.stdin.isatty())) != "":
            if said == "/new":
                talked = list(beginning)
                continue
            talked.append({"role": "user", "content": said})
            reply = speaker.say(talked, temperature=temperature, max_tokens=max_tokens, seed=seed).text
            typer.echo(reply)
            talked.append({"role": "assistant", "content": reply})


def _next_line(shown: bool) -> str:
    """What somebody says; nothing at the end of the input."""
    try:
        return input("> " if shown else "").strip()
    except EOFError:
        return ""


def _load(
    models: list[str] | None, weights: list[float] | None, root: Path, seed: int, threads: int, named_in: str
) -> "Speaker":
    own = root / "models" / "luna"
    if not models and not own.is_dir():
        raise LunaError(f"{own}: no such folder; run `dvc repro`, or name a model")
    from luna.lm.reproducible import set_reproducible
    from luna.serve.speaker import load_speaker

    set_reproducible(seed, threads)
    return load_speaker(models or [str(own)], root, weights or None, named_in)


def _end_on_signals(server: "ChatServer") -> None:
    """The first Ctrl-C or SIGTERM ends the server in good order, a second one at once."""
    import signal

    from luna.llm.draining import SIGNALS

    def end(*_: object) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        server.end()

    for number in SIGNALS:
        signal.signal(number, end)
