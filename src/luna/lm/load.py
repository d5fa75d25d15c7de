"""Loading and saving the local model: full weights or a LoRA adapter on its base, from a folder or a hub name.

Safetensors only, and no code from a checkpoint is ever run.
"""

import json
import os
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luna.errors import LunaError
from luna.lm.special_tokens import settle_special_tokens
from luna.outputs import read_json, replacing
from luna.settings import Lora, Model

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class BadModel(LunaError):
    """A checkpoint or a setting of the model section that cannot be used."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer. `settings` are those it was loaded by."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    settings: Model


def prepare_backend(model: Model) -> None:
    """Import what must come before transformers, trl and peft; a training stage calls it first.

    Raises:
        BadModel: the backend is unsloth, and there is no CUDA GPU or no such package.
    """
    if model.backend != "unsloth":
        return
    import torch

    if not torch.cuda.is_available():
        raise BadModel("model.backend: unsloth needs a CUDA GPU and there is none; set `backend: transformers`")
    if find_spec("unsloth") is None:
        raise BadModel(
            "model.backend: unsloth is not installed; run `pip install -e .[gpu]` or set `backend: transformers`"
        )
    import_module("unsloth")


def load_model(path_or_name: str | Path, model: Model, *, trainable: bool) -> LoadedModel:
    """Load a model and its tokenizer onto the GPU if there is one, else the CPU.

    Args:
        path_or_name: a folder with full weights, a folder with a LoRA adapter (its base is loaded too), or a hub name.
        model: dtype, quantisation, backend and maximal length.
        trainable: False freezes every weight; True leaves full weights, or the adapter's alone, to be trained.

    Raises:
        BadModel: no such checkpoint, pickled weights, a model that needs its own code, one without a chat template, or
            a package that its settings need is not installed.
    """
    prepare_backend(model)
    if trainable and model.load_in_4bit and model.lora is None:
        raise BadModel("model.load_in_4bit: 4-bit weights cannot be trained; add a `lora` section or set it to false")
    if model.load_in_4bit and find_spec("bitsandbytes") is None:
        raise BadModel(
            "model.load_in_4bit: bitsandbytes is not installed; run `pip install -e .[quantized]` or set it to false"
        )
    base, adapter = _resolve(path_or_name)
    revision = model.revision if base == model.base else None
    _refuse_foreign_code(base, revision)
    load = _load_with_unsloth if model.backend == "unsloth" else _load_with_transformers
    network, tokenizer = load(base, revision, adapter, model, trainable)
    if tokenizer.chat_template is None:
        raise BadModel(f"{path_or_name}: has no chat template; choose the chat or instruct variant of this model")
    try:
        settle_special_tokens(network, tokenizer)
    except ValueError as error:
        raise BadModel(f"{path_or_name}: {error}") from error
    if not trainable:
        network.requires_grad_(False)
    return LoadedModel(network.train(trainable), tokenizer, model)


def keep_layout(network: "PreTrainedModel") -> None:
    """For a model that is trained and read in eval by turns: bitsandbytes leaves its 4-bit weights as they are.

    By itself it would repack them in place in eval, for a kernel of newer CPUs, and training would go on from that.
    """
    modules: list[Any] = list(network.modules())
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def add_adapter(loaded: LoadedModel, lora: Lora) -> "PreTrainedModel":
    """Put a fresh LoRA adapter on a model; its weights alone are trainable, and it changes no output yet."""
    import torch

    shape: dict[str, Any] = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    if loaded.settings.backend == "unsloth":
        from unsloth import FastLanguageModel

        # The trainer decides about gradient checkpointing, and the run's seed about the first weights.
        shape |= {"use_gradient_checkpointing": False, "random_state": torch.initial_seed() % 2**31}
        patched: PreTrainedModel = FastLanguageModel.get_peft_model(
            loaded.model, target_modules=lora.target_modules, **shape
        )
        return patched
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", target_modules=lora.target_modules, **shape)
    adapted: PreTrainedModel = get_peft_model(loaded.model, config)
    return adapted


def save_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    folder: Path,
    card: str,
    weights: "dict[str, torch.Tensor] | None" = None,
) -> None:
    """Save weights (an adapter alone, if the model has one), tokenizer, chat template, stop tokens and model card.

    The same model gives the same bytes. The folder is replaced only when all is written.

    Args:
        weights: the model's state in full where the model holds a part of it; None: as the model has it.
    """
    from peft import PeftModel

    with replacing(folder) as aside:
        if isinstance(model, PeftModel):
            # Asking whether the embedding has grown would ask the hub; Luna never grows it.
            adapter = {"selected_adapters": ["default"], "save_embedding_layers": False}
            model.save_pretrained(aside, state_dict=weights, **adapter)
            _sort_target_modules(aside / "adapter_config.json")
        else:
            model.save_pretrained(aside, state_dict=weights)
        model.generation_config.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        (aside / "README.md").write_text(card, encoding="utf-8")


def _sort_target_modules(path: Path) -> None:
    """PEFT keeps them as a set, whose order changes from process to process."""
    config = read_json(path)
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _resolve(path_or_name: str | Path) -> tuple[str, Path | None]:
    """The base to load, and the folder of the adapter to put on it."""
    folder = Path(path_or_name)
    if not folder.is_dir():
        if isinstance(path_or_name, Path):
            raise BadModel(f"{folder}: no such folder; run the stage that writes it (`dvc repro`)")
        return path_or_name, None
    adapter_file = folder / "adapter_config.json"
    _refuse_pickles(folder, "adapter_model.safetensors" if adapter_file.is_file() else "*.safetensors")
    if not adapter_file.is_file():
        return str(folder), None
    base = read_json(adapter_file)["base_model_name_or_path"]
    if Path(base).is_dir():
        _refuse_pickles(Path(base), "*.safetensors")
    return base, folder


def _refuse_pickles(folder: Path, weights: str) -> None:
    if any(folder.glob(weights)):
        return
    pickles = sorted(path for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise BadModel(f"{pickles[0]}: pickled weights can run code when they are read; convert them to safetensors")
    raise BadModel(f"{folder}: holds no {weights}; run the stage that writes it (`dvc repro`) or give another model")


def _refuse_foreign_code(source: str, revision: str | None) -> None:
    """Only model types that transformers holds itself: their code came with the package, not with the weights."""
    from transformers import PreTrainedConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        config, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise BadModel(f"{source}: neither a model folder nor found on the hub ({reason}); check the name") from error
    kind = config.get("model_type")
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return
    if "auto_map" in config:
        raise BadModel(
            f"{source}: its type {kind!r} needs code from the checkpoint, which could do anything and is never run; "
            "choose a variant for transformers' own classes (for GLM: zai-org/glm-4-9b-chat-hf)"
        )
    raise BadModel(f"{source}: transformers knows no text generator of type {kind!r}; choose another model")


def _load_with_transformers(
    base: str, revision: str | None, adapter: Path | None, model: Model, trainable: bool
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    import torch
    from transformers import AutoModelForCausalLM

    device = _device()
    try:
        network: Any = AutoModelForCausalLM.from_pretrained(
            base,
            revision=revision,
            dtype=getattr(torch, model.dtype),
            quantization_config=_four_bit() if model.load_in_4bit else None,
            device_map={"": device} if model.load_in_4bit else None,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise BadModel(f"{base}: its weights cannot be read as safetensors ({reason}); give another model") from error
    if not model.load_in_4bit:
        network = network.to(device)
    if adapter is not None:
        from peft import PeftModel

        network = PeftModel.from_pretrained(network, adapter, is_trainable=trainable)
    return network, _load_tokenizer(base, revision, adapter)


def _load_tokenizer(base: str, revision: str | None, adapter: Path | None) -> "PreTrainedTokenizerBase":
    """The adapter's own tokenizer where its folder has one, else the base's."""
    from transformers import AutoTokenizer

    own = adapter is not None and (adapter / "tokenizer_config.json").is_file()
    source = str(adapter) if own else base
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, revision=None if own else revision, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadModel(f"{source}: its tokenizer cannot be read ({reason}); choose another model") from error
    return tokenizer


def _load_with_unsloth(
    base: str, revision: str | None, adapter: Path | None, model: Model, trainable: bool
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    import torch
    from unsloth import FastLanguageModel

    network, _ = FastLanguageModel.from_pretrained(
        str(adapter or base),
        revision=revision,
        max_seq_length=model.max_length,
        dtype=getattr(torch, model.dtype),
        load_in_4bit=model.load_in_4bit,
        full_finetuning=trainable and model.lora is None,
        use_exact_model_name=True,  # else it swaps the base for another repository
        use_safetensors=True,
        trust_remote_code=False,
    )
    # Its tokenizer comes with a pad and a template of unsloth's own; every backend shall speak the same way.
    return network, _load_tokenizer(base, revision, adapter)


def _device() -> "torch.device":
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _four_bit() -> "BitsAndBytesConfig":
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
