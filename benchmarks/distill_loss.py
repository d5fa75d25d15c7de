"""What the distillation loss costs: time and memory against the definition, TRL's losses, Liger's and the bare matmuls.

    python benchmarks/distill_loss.py                                # CPU, float32, the shape of Qwen2.5-0.5B
    python benchmarks/distill_loss.py --device cuda --dtype bfloat16
    python benchmarks/distill_loss.py --case fused --case floor --tokens 1024 --tokens 2048

Every case is a step on final hidden states: loss, and its gradient by the student's hidden states through one frozen
head. `floor` is the arithmetic that none can do without: three projections onto the vocabulary and one product back
(two projections for a loss with one teacher, `floor, 1 teacher`), in chunks of the fused loss's size. Each case runs in
a process of its own, in turn, `--repeats` rounds of them. Memory is the peak beyond the inputs, and the medians over
the rounds are shown. On a CPU seconds are those of the process, so that other work on the machine disturbs little; on a
GPU they are what passes on the clock. The definition needs about 10 GB at 1,024 tokens.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from machine import chart, machine, now, peak, reset_peak

Json = dict[str, Any]
Step = Callable[[], Any]
TWO_TEACHERS = ("floor", "fused", "definition")
ONE_TEACHER = ("floor, 1 teacher", "TRL chunked KL", "TRL chunked JSD", "TRL GKD JSD", "Liger JSD")
CASES = (*TWO_TEACHERS, *ONE_TEACHER)


def main(
    tokens: Annotated[list[int], typer.Option(help="Supervised tokens.")] = [1024, 2048],  # noqa: B006 - typer's way
    case: Annotated[list[str], typer.Option(help="Only these cases.")] = list(CASES),  # noqa: B006
    vocabulary: Annotated[int, typer.Option(help="Ids.")] = 151_936,
    width: Annotated[int, typer.Option(help="Width of the hidden states.")] = 896,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Of hidden states and head.")] = "float32",
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    repeats: Annotated[int, typer.Option(help="Rounds.")] = 3,
    most_tokens_of_others: Annotated[int, typer.Option(help="Only the floor and the fused loss see more.")] = 1024,
    measure: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Measure and print a Markdown table."""
    shape = {"vocabulary": vocabulary, "width": width, "device": device, "dtype": dtype, "threads": threads}
    if measure:
        print(json.dumps(measure_case(case[0], tokens[0], **shape)))
        return
    wanted = [
        (name, count)
        for count in tokens
        for name in case
        if count <= most_tokens_of_others or name in ("floor", "fused")
    ]
    found: dict[tuple[str, int], list[Json]] = {key: [] for key in wanted}
    for _ in range(repeats):
        for name, count in wanted:
            if missing := _missing(name):
                print(f"{name}: skipped, {missing}", file=sys.stderr)
            else:
                found[name, count].append(_in_a_process(name, count, shape))
    print(render(found, shape, repeats))


def _missing(name: str) -> str | None:
    return "liger_kernel is not installed" if name == "Liger JSD" and find_spec("liger_kernel") is None else None


def _in_a_process(name: str, tokens: int, shape: Json) -> Json:
    options = [part for key, value in shape.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, __file__, "--measure", "--case", name, "--tokens", str(tokens), *options]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: Json = json.loads(out.splitlines()[-1])
    return result


def measure_case(name: str, tokens: int, *, vocabulary: int, width: int, device: str, dtype: str, threads: int) -> Json:
    """Seconds of one step, and MB at its peak beyond the inputs."""
    import torch

    torch.set_num_threads(threads)
    inputs = make_inputs(tokens, vocabulary, width, device, getattr(torch, dtype))
    step = STEPS[name](inputs)
    torch.mm(inputs["hidden"][:8].detach(), inputs["head"][:64].T)  # what the libraries hold is nobody's cost
    before, start = reset_peak(device), now(device)
    step()
    return {"seconds": now(device) - start, "mb": (peak(device) - before) / 2**20}


def make_inputs(tokens: int, vocabulary: int, width: int, device: str, dtype: Any) -> Json:
    """Hidden states of three models that agree on most tokens, one frozen head, labels."""
    import torch

    torch.manual_seed(0)
    head = torch.randn(vocabulary, width).div_(width**0.5).to(device, dtype)
    student, primary, noise = (3 * torch.randn(tokens, width) for _ in range(3))
    critic = primary + noise * (0.02 + 0.7 * (torch.rand(tokens, 1) > 0.6))
    hidden, primary, critic = (x.to(device, dtype) for x in (student, primary, critic))
    labels = torch.randint(0, vocabulary, (tokens,)).to(device)
    return {"hidden": hidden.requires_grad_(), "primary": primary, "critic": critic, "head": head, "labels": labels}


# ---------------------------------------------------------------- the cases


def floor(teachers: int) -> Callable[[Json], Step]:
    """The bare matrix products, chunk by chunk."""

    def prepare(inputs: Json) -> Step:
        import torch

        from luna.distill.chunk import sizes

        hidden, head = inputs["hidden"].detach(), inputs["head"]
        models = [hidden, inputs["primary"], inputs["critic"]][: teachers + 1]
        rows, _ = sizes(len(head), 4, head.device)

        def step() -> None:
            logits = torch.empty(rows, len(head), dtype=hidden.dtype, device=hidden.device)
            gradient = torch.empty_like(hidden)
            for start in range(0, len(hidden), rows):
                part = logits[: len(hidden) - start]
                for model in models:
                    torch.mm(model[start : start + rows], head.T, out=part)
                torch.mm(part, head, out=gradient[start : start + rows])

        return step

    return prepare


def _blend() -> Any:
    from luna.distill.loss import Blend

    return Blend(
        alpha=0.1,
        beta=0.9,
        gamma=0.0,
        temperature=2.0,
        gate_temperature=1.0,
        confidence="top1",
        kl="forward",
        ce_on="all",
        residual="skip",
        js_threshold=0.1,
        confidence_threshold=0.8,
        gold_weight=0.5,
    )


def fused(inputs: Json) -> Step:
    """Luna's loss from hidden states."""
    from luna.distill.fused import fused_two_teacher_loss
    from luna.training.final_states import FinalStates

    models = [FinalStates(inputs[name], inputs["head"]) for name in ("hidden", "primary", "critic")]
    labels = inputs["labels"]
    return lambda: fused_two_teacher_loss(*models, labels, _blend(), len(labels)).loss.backward()


def definition(inputs: Json) -> Step:
    """Luna's loss as it is defined, on logits."""
    from luna.distill.loss import two_teacher_loss

    def step() -> None:
        logits = [inputs[name] @ inputs["head"].T for name in ("hidden", "primary", "critic")]
        two_teacher_loss(*logits, inputs["labels"], _blend(), len(logits[0])).loss.backward()

    return step


def trl_chunked(beta: float) -> Callable[[Json], Step]:
    """TRL's loss on hidden states: forward KL (beta 0) or JSD of one teacher, no cross-entropy."""

    def prepare(inputs: Json) -> Step:
        import torch
        from trl.trainer import distillation_trainer as trl

        hidden, teacher, head = inputs["hidden"][None], inputs["primary"][None], inputs["head"]
        mask = torch.ones_like(inputs["labels"])[None]
        chunk = trl._CHUNKED_LM_HEAD_CHUNK_SIZE

        def step() -> None:
            loss, *_ = trl._chunked_divergence_loss(hidden, teacher, head, head, mask, beta, chunk, temperature=2.0)
            loss.backward()

        return step

    return prepare


def trl_gkd(inputs: Json) -> Step:
    """TRL's generalised JSD on logits: one teacher, no cross-entropy."""
    from trl.experimental.gkd import GKDTrainer

    def step() -> None:
        student, teacher = (inputs[name] @ inputs["head"].T for name in ("hidden", "primary"))
        GKDTrainer.generalized_jsd_loss(
            student[None], teacher[None], labels=inputs["labels"][None], beta=0.5, temperature=2.0
        ).backward()

    return step


def liger(inputs: Json) -> Step:
    """Liger's chunked JSD with cross-entropy, not compiled: one teacher."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(0.1, 0.9, beta=0.5, temperature=2.0, compiled=False)
    head = inputs["head"]
    return lambda: loss(inputs["hidden"], head, inputs["primary"], head, inputs["labels"]).backward()


STEPS: dict[str, Callable[[Json], Step]] = {
    "floor": floor(2),
    "fused": fused,
    "definition": definition,
    "floor, 1 teacher": floor(1),
    "TRL chunked KL": trl_chunked(0.0),
    "TRL chunked JSD": trl_chunked(0.5),
    "TRL GKD JSD": trl_gkd,
    "Liger JSD": liger,
}


# ---------------------------------------------------------------- the table


def render(found: dict[tuple[str, int], list[Json]], shape: Json, repeats: int) -> str:
    """The table: medians, and seconds over the floor's with as many teachers; the latter as a picture too."""
    import torch

    middle = {
        key: {unit: statistics.median(run[unit] for run in runs) for unit in ("seconds", "mb")}
        for key, runs in found.items()
        if runs
    }
    lines = [
        f"{machine(shape['device'])}, {shape['threads']} thread(s), torch {torch.__version__}, {shape['dtype']};"
        f" V = {shape['vocabulary']:,}, d = {shape['width']}, frozen head; medians of {repeats} rounds.",
        "",
        "| case | teachers | tokens | extra memory, MB | seconds | x floor |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    ratios = {}
    for (name, tokens), run in middle.items():
        teachers = 2 if name in TWO_TEACHERS else 1
        least = middle.get(("floor" if teachers == 2 else "floor, 1 teacher", tokens))
        ratio = f"{run['seconds'] / least['seconds']:.2f}" if least else ""
        if least and not name.startswith("floor"):
            ratios[f"{name}, {tokens:,} tokens"] = run["seconds"] / least["seconds"]
        lines.append(f"| {name} | {teachers} | {tokens:,} | {run['mb']:,.0f} | {run['seconds']:.1f} | {ratio} |")
    return "\n".join([*lines, "", chart("seconds, those of the bare matrix products = 1", ratios)])


if __name__ == "__main__":
    typer.run(main)
