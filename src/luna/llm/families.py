"""Which family a model belongs to, by its name: models judge their own kin's words too kindly.

Source: A. Panickssery et al., "LLM Evaluators Recognize and Favor Their Own Generations" (2024).
"""

import re

# By what stands in a model's name, whoever serves it. The first that is found counts.
_FAMILIES = {
    "gpt": r"\b(?:chat)?gpt|\bo[134](?:-|\b)|davinci",
    "claude": r"claude",
    "gemini": r"gemini|gemma|palm",
    "qwen": r"qwen|qwq",
    "deepseek": r"deepseek",
    "llama": r"llama",
    "mistral": r"m[ia][a-z]*stral|mixtral|codestral",
    "glm": r"glm",
    "phi": r"\bphi",
    "grok": r"grok",
    "command": r"\bcommand|\bc4ai",
}


def family_of(model: str) -> str:
    """The family of a model of LiteLLM's; for an unknown one, the whole name without its provider.

    A distilled model belongs where its words come from: `deepseek-r1-distill-qwen-7b` is a deepseek.
    """
    name = model.partition("/")[2] or model
    ordered = ("deepseek", *(family for family in _FAMILIES if family != "deepseek"))
    for family in ordered:
        if re.search(_FAMILIES[family], name.casefold()):
            return family
    return name.casefold()
