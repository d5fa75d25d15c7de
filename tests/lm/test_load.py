"""Every preset's model section goes through the real loading code, on a tiny checkpoint of the same family."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from luna.errors import LunaError
from luna.lm.chat import IGNORE, encode, prompt_ids
from luna.lm.load import add_adapter, load_model, prepare_backend, save_model
from luna.lm.sample import Decoding, sample_replies
from luna.settings import Lora, Model, load_preset

PRESETS = Path(__file__).parents[2] / "presets"
FAMILY_OF = {"smollm2-135m": "llama", "phi3.5-mini": "phi3", "socratic-qwen2.5-7b": "qwen2", "coding-glm": "glm"}
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def section(preset, base):
    """The preset's model section for a CPU and a local base."""
    model = load_preset(PRESETS / f"{preset}.yaml").model
    return model.model_copy(update={"base": str(base), "backend": "transformers"})


def logits(loaded, model=None):
    ids = torch.tensor([encode(loaded.tokenizer, TALK, 512)["input_ids"]])
    with torch.no_grad():
        return (model or loaded.model).eval()(ids).logits


def wake(model):
    """Give fresh adapters, which begin as zero, an effect."""
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_preset_with_a_real_model_is_tried_here():
    named = {path.stem for path in PRESETS.glob("*.yaml") if load_preset(path).model.base != "scratch"}
    assert named == set(FAMILY_OF)


@pytest.mark.parametrize("preset", FAMILY_OF)
def test_preset_trains_saves_and_loads_again(preset, checkpoints, tmp_path):
    base = checkpoints[FAMILY_OF[preset]]
    settings = section(preset, base)
    loaded = load_model(base, settings, trainable=True)
    model = add_adapter(loaded, settings.lora) if settings.lora else loaded.model
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trainable == {n for n, _ in model.named_parameters() if not settings.lora or "lora_" in n}
    assert any("Linear4bit" in type(part).__name__ for part in model.modules()) == settings.load_in_4bit
    assert model.get_input_embeddings().weight.dtype == getattr(torch, settings.dtype)

    example = encode(loaded.tokenizer, TALK, settings.max_length)
    batch = {name: torch.tensor([ids]) for name, ids in example.items()}
    model(**batch).loss.backward()
    assert all(weight.grad is not None for name, weight in model.named_parameters() if name in trainable)

    wake(model)
    save_model(model, loaded.tokenizer, tmp_path / "saved", "a card\n")
    again = load_model(tmp_path / "saved", settings, trainable=False)
    assert torch.equal(logits(again), logits(loaded, model))
    assert not any(weight.requires_grad for weight in again.model.parameters())
    assert again.tokenizer.chat_template == AutoTokenizer.from_pretrained(base).chat_template
    assert (tmp_path / "saved" / "README.md").read_text() == "a card\n"


@pytest.mark.parametrize("preset", FAMILY_OF)
def test_pad_never_ends_a_turn_and_every_end_is_saved(preset, checkpoints, tmp_path):
    base = checkpoints[FAMILY_OF[preset]]
    loaded = load_model(base, Model(base=str(base)), trainable=False)
    before = len(AutoTokenizer.from_pretrained(base))
    save_model(loaded.model, loaded.tokenizer, tmp_path / "saved", "")
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    last = [label for label in encode(loaded.tokenizer, TALK, 512)["labels"] if label != IGNORE][-1]
    stops = saved["eos_token_id"] if isinstance(saved["eos_token_id"], list) else [saved["eos_token_id"]]
    assert last in stops
    assert loaded.tokenizer.pad_token_id not in (loaded.tokenizer.eos_token_id, last)
    assert saved["pad_token_id"] == loaded.tokenizer.pad_token_id
    assert len(loaded.tokenizer) == before


def test_adapter_folder_goes_on_training(checkpoints, tmp_path):
    settings = section("socratic-qwen2.5-7b", checkpoints["qwen2"]).model_copy(update={"load_in_4bit": False})
    loaded = load_model(checkpoints["qwen2"], settings, trainable=True)
    save_model(add_adapter(loaded, Lora(rank=4)), loaded.tokenizer, tmp_path / "a", "")
    again = load_model(tmp_path / "a", settings, trainable=True)
    trainable = [name for name, weight in again.model.named_parameters() if weight.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)


def test_fresh_adapter_changes_no_output(checkpoints):
    loaded = load_model(checkpoints["llama"], Model(base="x"), trainable=True)
    before = logits(loaded)
    assert torch.equal(logits(loaded, add_adapter(loaded, Lora(rank=4))), before)


@pytest.mark.parametrize("preset", ["smollm2-135m", "socratic-qwen2.5-7b"])
def test_the_same_model_saves_the_same_bytes(preset, checkpoints, tmp_path):
    settings = section(preset, checkpoints[FAMILY_OF[preset]])
    for folder in ("one", "two"):
        torch.manual_seed(0)
        loaded = load_model(settings.base, settings, trainable=True)
        model = add_adapter(loaded, settings.lora) if settings.lora else loaded.model
        save_model(model, loaded.tokenizer, tmp_path / folder, "card")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    if settings.lora:
        targets = json.loads((tmp_path / "one" / "adapter_config.json").read_text())["target_modules"]
        assert targets == sorted(targets)


def test_saving_that_fails_keeps_the_old_model(checkpoints, tmp_path):
    loaded = load_model(checkpoints["llama"], Model(base="x"), trainable=False)
    save_model(loaded.model, loaded.tokenizer, tmp_path / "m", "old")
    before = files(tmp_path / "m")
    loaded.model.get_input_embeddings().weight.mul_(2)
    with pytest.raises(TypeError):
        save_model(loaded.model, loaded.tokenizer, tmp_path / "m", None)
    assert files(tmp_path / "m") == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_teachers_beside_the_student_are_not_saved(checkpoints, tmp_path):
    loaded = load_model(checkpoints["llama"], Model(base="x"), trainable=True)
    model = add_adapter(loaded, Lora(rank=4))
    model.add_adapter("critic", model.peft_config["default"])
    save_model(model, loaded.tokenizer, tmp_path / "m", "")
    assert all(path.is_file() for path in (tmp_path / "m").iterdir())


def test_loaded_model_speaks(checkpoints):
    loaded = load_model(checkpoints["glm"], Model(base="x", dtype="bfloat16"), trainable=False)
    prompts = [prompt_ids(loaded.tokenizer, TALK[:1]), prompt_ids(loaded.tokenizer, TALK[:1], prefix="Because ")]
    assert len(sample_replies(loaded.model, loaded.tokenizer, prompts, Decoding(max_new_tokens=5), seed=0)) == 2


# ------------------------------------------------------------------ refusals


def refusal(path, model=None):
    with pytest.raises(LunaError) as caught:
        load_model(path, model or Model(base="x"), trainable=True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_checkpoint_that_needs_its_own_code_is_refused(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["glm"], tmp_path / "chatglm")
    marker = tmp_path / "ran"
    (folder / "modeling_chatglm.py").write_text(f"open({str(marker)!r}, 'w')\n")
    config = {"model_type": "chatglm", "auto_map": {"AutoModelForCausalLM": "modeling_chatglm.X"}}
    (folder / "config.json").write_text(json.dumps(config))
    message = refusal(folder)
    assert "'chatglm' needs code from the checkpoint" in message
    assert "glm-4-9b-chat-hf" in message
    assert not marker.exists()


def test_native_family_ignores_code_beside_the_weights(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["phi3"], tmp_path / "phi")
    marker = tmp_path / "ran"
    (folder / "modeling_phi3.py").write_text(f"open({str(marker)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    load_model(folder, Model(base="x"), trainable=False)
    assert not marker.exists()


def test_model_that_generates_no_text_is_refused(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["llama"], tmp_path / "vit")
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert "no text generator of type 'vit'" in refusal(folder)


@pytest.mark.parametrize(("weights", "adapter"), [("pytorch_model.bin", False), ("adapter_model.bin", True)])
def test_pickled_weights_are_refused_by_name(checkpoints, tmp_path, weights, adapter):
    folder = shutil.copytree(checkpoints["llama"], tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / weights)
    if adapter:
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(checkpoints["llama"])}))
    assert f"{weights}: pickled weights" in refusal(folder)


def test_folder_without_weights_is_refused(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["llama"], tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    assert "holds no *.safetensors" in refusal(folder)


def test_missing_folder_and_unknown_name_are_told_apart(tmp_path):
    assert "no such folder; run the stage" in refusal(tmp_path / "nothing")
    assert "neither a model folder nor found on the hub" in refusal("nobody/nothing")


def test_model_without_chat_template_is_refused(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["llama"], tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    assert "has no chat template; choose the chat or instruct variant" in refusal(folder)


def test_template_whose_replies_never_end_is_refused(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["llama"], tmp_path / "endless")
    marked = (
        "{% for m in messages %}<|im_start|>{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(marked)
    assert "leaves the end of a turn outside {% generation %}; move it inside" in refusal(folder)


def test_four_bit_weights_are_trained_through_an_adapter_only(checkpoints):
    assert "model.load_in_4bit: 4-bit weights" in refusal(checkpoints["llama"], Model(base="x", load_in_4bit=True))


def test_four_bit_weights_without_their_package_name_the_setting_and_the_mend(checkpoints, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    model = Model(base="x", load_in_4bit=True, lora=Lora(rank=2))
    assert "model.load_in_4bit: bitsandbytes is not installed; run `pip install -e .[quantized]` or set" in refusal(
        checkpoints["llama"], model
    )


def test_unsloth_without_a_gpu_names_the_setting_and_the_mend(checkpoints, monkeypatch):
    model = Model(base="x", backend="unsloth")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refusal(checkpoints["llama"], model).startswith("model.backend: unsloth needs a CUDA GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "unsloth", None)
    with pytest.raises(LunaError, match=r"model.backend: .* .pip install -e .\[gpu\]. or set .backend: transformers."):
        prepare_backend(model)
