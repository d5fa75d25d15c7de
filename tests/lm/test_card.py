import yaml

from luna.lm.card import model_card

FACTS = {"parent": "Luna-G001", "rows": 700}


def card(**change):
    given = {"base": "Qwen/Qwen2.5-7B-Instruct", "method": "Grown.", "folder": "models/luna", "adapter": True}
    return model_card("Luna-G002", **(given | change), facts=FACTS)


def front_matter(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_adapter_card_names_its_base_and_library():
    text = card()
    assert front_matter(text) == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "base_model": "Qwen/Qwen2.5-7B-Instruct",
        "tags": ["luna"],
    }
    assert "AutoPeftModelForCausalLM.from_pretrained" in text
    assert "| parent | Luna-G001 |" in text


def test_base_that_is_no_hub_name_is_not_claimed_as_one():
    assert "base_model" not in front_matter(card(base="scratch", adapter=False))


def test_code_of_a_card_is_python():
    for adapter in (True, False):
        code = card(adapter=adapter).split("```python\n")[1].split("```")[0]
        compile(code, "card", "exec")
        assert '"models/luna"' in code
