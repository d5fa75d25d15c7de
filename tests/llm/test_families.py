"""Whose kin a model is, whoever serves it."""

import pytest

from luna.llm.families import family_of
from luna.settings import Endpoint, JudgeEndpoint, refuse_same_family


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4o-mini", "gpt"),
        ("openai/gpt-4o", "gpt"),
        ("azure/chatgpt-4", "gpt"),
        ("openai/o3-mini", "gpt"),
        ("anthropic/claude-sonnet-4-5", "claude"),
        ("bedrock/anthropic.claude-3-haiku", "claude"),
        ("openrouter/anthropic/claude-3-opus", "claude"),
        ("gemini/gemini-2.5-pro", "gemini"),
        ("hosted_vllm/Qwen/Qwen2.5-7B-Instruct", "qwen"),
        ("ollama/llama3", "llama"),
        ("mistral/ministral-8b", "mistral"),
        ("deepseek/deepseek-r1-distill-qwen-7b", "deepseek"),
        ("luna-tutor/arithmetic", "arithmetic"),
        ("hosted_vllm/m", "m"),
    ],
)
def test_a_family_is_read_off_the_name(model: str, family: str) -> None:
    assert family_of(model) == family


def test_a_judge_of_the_teachers_family_has_to_be_asked_for() -> None:
    teacher = Endpoint(model="gpt-4o-mini")
    with pytest.raises(ValueError, match=r"^judge\.model: openai/gpt-4o is of the teacher's family \(gpt\) .* say "):
        refuse_same_family(teacher, Endpoint(model="openai/gpt-4o"))
    refuse_same_family(teacher, JudgeEndpoint(model="openai/gpt-4o", same_family=True))
    refuse_same_family(teacher, Endpoint(model="anthropic/claude-sonnet-4-5"))


def test_the_embedded_tutor_may_judge_its_own_hints() -> None:
    refuse_same_family(Endpoint(model="luna-tutor/arithmetic"), Endpoint(model="luna-tutor/arithmetic"))
