"""What a whole step of distillation costs: Luna with two teachers against TRL's trainers with one.

    python benchmarks/distill_step.py                                             # CPU, float32, shape of Qwen2.5-0.5B
    python benchmarks/distill_step.py --shape qwen2.5-7b --device cuda --dtype bfloat16 --load-in-4bit
    python benchmarks/distill_step.py --shape tiny --case "TRL GKD" --case Luna --rounds 1

A random Qwen2 model learns by a LoRA adapter on all linear layers; every case is given the same samples and supervises
the same places. A step is all that the trainer does between two updates: the student's forward pass, the teachers',
loss, backward pass, clipping, AdamW. Luna's teachers are two more adapters on the same base, its loss is the default
one (blend, gates, cross-entropy) and its averaged weights are followed. TRL's teacher is a model of its own, as its
documentation has it, and its loss is its cheapest, forward KL (beta 0). TRL's DistillationTrainer only learns from what
the student has just written; here it is handed the given answers in place of generating, which costs it nothing.

Each case runs in a process of its own, in turn, `--rounds` rounds of them; the first step of a process is not counted.
On one thread of a CPU seconds are those of the process, so that other work on the machine disturbs little; on more, and
on a GPU, they are what passes on the clock. Memory is the peak of the steps, everything included; weights are counted,
each storage once. The row of several epochs is reckoned: a step of the first, in which states are kept, and those of
the others, which read them.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from machine import chart, machine, now, peak, reset_peak

Json = dict[str, Any]
KEEPING, KEPT = "Luna, states being kept", "Luna, states kept, beta changed"
EPOCHS = 3  # as the presets of real models distil
SHAPES: dict[str, Json] = {
    "qwen2.5-0.5b": {
        "vocab_size": 151_936,
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4_864,
        "tie_word_embeddings": True,
    },
    "qwen2.5-7b": {
        "vocab_size": 152_064,
        "hidden_size": 3_584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18_944,
        "tie_word_embeddings": False,
    },
    "tiny": {
        "vocab_size": 4_096,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "tie_word_embeddings": True,
    },
}


@dataclass(frozen=True)
class Case:
    """A trainer that is ready, the models it holds, how many samples its teachers have read, what to do at the end."""

    trainer: Any
    models: list[Any]
    samples_read: Callable[[], int]
    finish: Callable[[], None] = lambda: None


Prepare = Callable[[Json, Path], Case]


def main(
    case: Annotated[list[str] | None, typer.Option(help="Only these cases.")] = None,
    shape: Annotated[str, typer.Option(help=f"Of the model: {', '.join(SHAPES)}.")] = "qwen2.5-0.5b",
    batch: Annotated[int, typer.Option(help="Samples of a step.")] = 2,
    length: Annotated[int, typer.Option(help="Tokens of a sample.")] = 512,
    prompt: Annotated[int, typer.Option(help="Tokens of it that are not supervised.")] = 1,
    rank: Annotated[int, typer.Option(help="Of the adapters.")] = 16,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Of the base.")] = "float32",
    load_in_4bit: Annotated[bool, typer.Option("--load-in-4bit", help="Quantise the base (NF4).")] = False,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    steps: Annotated[int, typer.Option(help="Counted steps of a process.")] = 1,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 3,
    kept_in: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure and print a Markdown table."""
    names = case or list(CASES)
    asked = {
        "shape": shape, "batch": batch, "length": length, "prompt": prompt, "rank": rank, "device": device,
        "dtype": dtype, "threads": threads, "steps": steps, "load_in_4bit": load_in_4bit,
    }  # fmt: skip
    if kept_in is not None:
        print(json.dumps(measure(names[0], asked, kept_in)))
        return
    if KEPT in names and KEEPING not in names:
        raise typer.BadParameter(f"{KEPT} needs what {KEEPING} leaves; ask for both", param_hint="--case")
    found: dict[str, list[Json]] = {name: [] for name in names}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                found[name].append(_in_a_process(name, asked, folder))
                print(f"{name}: {found[name][-1]}", file=sys.stderr)
    print(render(found, asked, rounds))


def _in_a_process(name: str, asked: Json, folder: str) -> Json:
    plain = {key: value for key, value in asked.items() if not isinstance(value, bool)}
    options = [part for key, value in plain.items() for part in (f"--{key}", str(value))]
    flags = ["--load-in-4bit"] if asked["load_in_4bit"] else []
    command = [sys.executable, __file__, "--kept-in", folder, "--case", name, *options, *flags]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: Json = json.loads(out.splitlines()[-1])
    return result


def measure(name: str, asked: Json, folder: Path) -> Json:
    """Seconds of a step, samples that teachers read in it, MB at the peak and of weights."""
    from luna.lm.reproducible import set_reproducible

    set_reproducible(0, asked["threads"])
    case = CASES[name](asked, folder)
    if not name.startswith("Luna"):
        import torch

        torch.use_deterministic_algorithms(False)  # as TRL would run
    clock = _clock(asked, case.samples_read)
    case.trainer.add_callback(clock)
    reset_peak(asked["device"])
    case.trainer.train()
    peak_mb = peak(asked["device"]) / 2**20
    case.finish()
    _, *counted = clock.seen
    base = [tensor for key, tensor in case.models[0].named_parameters() if "lora_" not in key]
    return {
        "seconds": statistics.median(seconds for seconds, _ in counted),
        "read": max(read for _, read in counted),
        "peak_mb": peak_mb,
        "weights_mb": _bytes(tensor for model in case.models for tensor in model.parameters()) / 2**20,
        "base_mb": _bytes(base) / 2**20,
    }


# ---------------------------------------------------------------- models and samples


def _bytes(tensors: Iterable[Any]) -> int:
    """What models share counts once."""
    storages = {storage.data_ptr(): storage.nbytes() for storage in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storages.values())


def _random_base(asked: Json) -> Any:
    """A random model; the same one every time."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(0)
    config = Qwen2Config(**SHAPES[asked["shape"]], max_position_embeddings=max(2_048, asked["length"]))
    with torch.device(asked["device"]):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, asked["dtype"]))
    return _quantised(model, asked) if asked["load_in_4bit"] else model


def _quantised(model: Any, asked: Json) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        del model
        return AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, asked["dtype"]),
            quantization_config=four_bit,
            device_map={"": asked["device"]},
        )


def _student(asked: Json) -> Any:
    """A base with a fresh adapter."""
    from peft import get_peft_model

    return get_peft_model(_random_base(asked), _lora(asked))


def _lora(asked: Json, fresh: bool = True) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        target_modules="all-linear",
        r=asked["rank"],
        lora_alpha=2 * asked["rank"],
        init_lora_weights=fresh,
    )


def _samples(asked: Json) -> list[list[int]]:
    """Another batch for every step, the first one not counted."""
    import torch

    torch.manual_seed(1)
    count = asked["batch"] * (1 + asked["steps"])
    rows: list[list[int]] = torch.randint(
        1_000, SHAPES[asked["shape"]]["vocab_size"], (count, asked["length"])
    ).tolist()
    return rows


def _examples(asked: Json) -> list[Any]:
    from luna.lm.chat import IGNORE

    hidden = asked["prompt"]
    return [{"input_ids": row, "labels": [IGNORE] * hidden + row[hidden:]} for row in _samples(asked)]


def _tokenizer() -> Any:
    """Nothing is encoded; the trainers ask it for the id of padding."""
    from luna.lm.scratch import train_tokenizer

    return train_tokenizer(["1 2 3"], 300)


# ---------------------------------------------------------------- the cases


def luna(keep: bool = False, beta: float = 0.9) -> Prepare:
    """Luna's own trainer and teachers, with or without kept states."""

    def prepare(asked: Json, folder: Path) -> Case:
        from luna.distill.loss import Blend
        from luna.distill.teacher_cache import TeacherCache
        from luna.distill.teachers import AdapterReader, Teacher
        from luna.distill.trainer import DistillTrainer
        from luna.settings import Training, load_settings
        from luna.training.ema import AveragedWeights
        from luna.training.trainer import make_trainer

        model = _student(asked)
        teachers = []
        for name in ("t1", "t2"):
            model.add_adapter(name, _lora(asked, fresh=False))
            teachers.append(Teacher(AdapterReader(model, name), TeacherCache(folder / name) if keep else None))
        model.set_adapter("default")
        params = load_settings(Path(__file__).parents[1]).params.model_copy(update={"alpha": 1 - beta, "beta": beta})
        trainer, _ = make_trainer(
            DistillTrainer,
            model,
            _tokenizer(),
            _examples(asked),
            Training(
                learning_rate=1e-4,
                max_steps=1 + asked["steps"],
                batch_size=asked["batch"],
                gradient_accumulation=1,
                scheduler="constant",
            ),
            title="step",
            output_dir=folder / "luna",
            seed=0,
            callbacks=[AveragedWeights(model, 0.999)],
            primary=teachers[0],
            critic=teachers[1],
            blend=Blend.from_params(params),
            taboo_ids=None,
        )

        def finish() -> None:
            for teacher in teachers:
                teacher.finish()

        return Case(trainer, [model], lambda: sum(teacher.read for teacher in teachers), finish)

    return prepare


def _trl_settings(asked: Json, folder: Path) -> Json:
    """What TRL's trainers share with Luna's."""
    return {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": asked["batch"],
        "gradient_accumulation_steps": 1,
        "max_steps": 1 + asked["steps"],
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": False,
        "bf16": asked["dtype"] == "bfloat16" and asked["device"] == "cuda",
        "use_cpu": asked["device"] == "cpu",
        "beta": 0.0,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "disable_tqdm": True,
    }


def _counted_teacher(asked: Json) -> tuple[Any, Callable[[], int]]:
    """A frozen model of its own, and how many samples it has read."""
    teacher = _random_base(asked).requires_grad_(False).eval()
    read = []
    teacher.base_model.register_forward_hook(lambda _module, _args, output: read.append(len(output[0])))
    return teacher, lambda: sum(read)


def trl_gkd(asked: Json, folder: Path) -> Case:
    """TRL's GKD on given answers (lmbda 0)."""
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    model, (teacher, samples_read) = _student(asked), _counted_teacher(asked)
    trainer = GKDTrainer(
        model=model,
        teacher_model=teacher,
        args=GKDConfig(**_trl_settings(asked, folder), lmbda=0.0, max_length=None),
        data_collator=_collate,
        train_dataset=Dataset.from_list(_examples(asked)),
        processing_class=_tokenizer(),
    )
    return Case(trainer, [model, teacher], samples_read)


def _collate(rows: list[Json]) -> Json:
    import torch

    columns = {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}
    return columns | {"attention_mask": torch.ones_like(columns["input_ids"])}


def trl_distillation(asked: Json, folder: Path) -> Case:
    """TRL's DistillationTrainer, which is handed the given answers instead of generating them."""
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    rows, hidden = _samples(asked), asked["prompt"]

    class OnGivenAnswers(DistillationTrainer):  # type: ignore[misc]
        def _generate(self, prompts: list[str]) -> tuple[Any, ...]:
            chosen = [rows[int(prompt)] for prompt in prompts]
            return [row[:hidden] for row in chosen], [row[hidden:] for row in chosen], None, None, []

    model, (teacher, samples_read) = _student(asked), _counted_teacher(asked)
    trainer = OnGivenAnswers(
        model=model,
        teacher_model=teacher,
        args=DistillationConfig(**_trl_settings(asked, folder), max_completion_length=asked["length"] - hidden),
        train_dataset=Dataset.from_list([{"prompt": str(number)} for number in range(len(rows))]),
        processing_class=_tokenizer(),
    )
    return Case(trainer, [model, teacher], samples_read)


CASES: dict[str, Prepare] = {
    "Luna": luna(),
    KEEPING: luna(keep=True),
    KEPT: luna(keep=True, beta=0.8),
    "TRL GKD": trl_gkd,
    "TRL distillation": trl_distillation,
}


# ---------------------------------------------------------------- clock and table


def _clock(asked: Json, samples_read: Callable[[], int]) -> Any:
    """A callback that notes of each step its seconds and the samples that teachers read."""
    from transformers import TrainerCallback

    def seconds() -> float:
        return now(asked["device"], asked["threads"])

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seen: list[tuple[float, int]] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start, self.read = seconds(), samples_read()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seen.append((seconds() - self.start, samples_read() - self.read))

    return Clock()


def render(found: dict[str, list[Json]], asked: Json, rounds: int) -> str:
    """The table: medians, and what a step takes beside Luna's; the latter as a picture too."""
    import torch

    middle = {
        name: {unit: statistics.median(run[unit] for run in runs) for unit in runs[0]} for name, runs in found.items()
    }
    kind = "NF4" if asked["load_in_4bit"] else asked["dtype"]
    supervised = asked["batch"] * (asked["length"] - max(1, asked["prompt"]))
    lines = [
        f"{machine(asked['device'])}, {asked['threads']} thread(s), torch {torch.__version__};"
        f" {asked['shape']} in {kind}, LoRA of rank {asked['rank']},"
        f" {asked['batch']} x {asked['length']} tokens, {supervised:,} of them supervised; medians of"
        f" {rounds} round(s).",
        "",
        "| case | teachers | samples read by teachers | seconds a step | Luna, two teachers = 1 | peak memory, MB"
        " | weights, MB | models' worth |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    own = middle.get("Luna", {}).get("seconds")
    if KEPT in middle:
        first, later = middle[KEEPING], middle[KEPT]
        mean = {unit: (first[unit] + (EPOCHS - 1) * later[unit]) / EPOCHS for unit in ("seconds", "read")}
        middle[f"Luna, mean of {EPOCHS} epochs"] = {**first, **mean}
    for name, run in middle.items():
        ratio = f"{run['seconds'] / own:.2f}" if own else ""
        lines.append(
            f"| {name} | {2 if name.startswith('Luna') else 1} | {run['read']:.3g} | {run['seconds']:.2f} | {ratio}"
            f" | {run['peak_mb']:,.0f} | {run['weights_mb']:,.0f} | {run['weights_mb'] / run['base_mb']:.2f} |"
        )
    picture = chart("seconds a step", {name: run["seconds"] for name, run in middle.items()})
    return "\n".join([*lines, "", picture])


if __name__ == "__main__":
    typer.run(main)
