"""The model card that is saved beside the weights: what the model is, how it was made and how to speak with it."""

from collections.abc import Mapping

_FULL = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{folder}")
"""
_ADAPTER = """\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("{folder}")
"""
_REPLY = """\
tokenizer = AutoTokenizer.from_pretrained("{folder}")
inputs = tokenizer.apply_chat_template(
    [{"role": "user", "content": "..."}], add_generation_prompt=True, return_tensors="pt", return_dict=True
)
reply = model.generate(**inputs, max_new_tokens=256)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(reply, skip_special_tokens=True))
"""


def model_card(
    name: str, *, base: str, method: str, folder: str, adapter: bool, facts: Mapping[str, str | int | float]
) -> str:
    """The text of a model card.

    Args:
        name: of the generation, such as `Luna-G001`.
        base: hub name or folder of the model it was grown from, or `scratch`.
        method: one sentence on how the weights were made.
        folder: where the model is saved, as a user of the repo would write it.
        adapter: whether the folder holds a LoRA adapter instead of full weights.
        facts: what else to tell, in this order: parents, data, settings.
    """
    head = ["---", f"library_name: {'peft' if adapter else 'transformers'}", "pipeline_tag: text-generation"]
    # The hub reads base_model as the name of a repository; a model from nothing has none.
    head += [] if base == "scratch" else [f"base_model: {base}"]
    rows = [f"| {key} | {value} |" for key, value in {"base": base, **facts}.items()]
    code = ((_ADAPTER if adapter else _FULL) + _REPLY).replace("{folder}", folder)
    lines = [
        *[*head, "tags: [luna]", "---", f"# {name}", "", method, ""],
        *["| | |", "| --- | --- |", *rows, ""],
        *["Its scores stand in the `generation.json` of its git tag, beside those of its parent.", ""],
        *["```python", code.rstrip(), "```", ""],
    ]
    return "\n".join(lines)
