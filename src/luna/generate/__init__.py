"""Generate: the teacher invents tasks and their solutions, asked by five approaches.

A generator class for each approach; the same arguments give the same prompts:

    from luna.generate import SelfInstructGenerator, generate_enhanced_system_prompt, load_subject

    prompts = SelfInstructGenerator(load_subject("code"), seed=1).generate_meta_prompts(100)
    rules, wish = generate_enhanced_system_prompt(), prompts[0].text
    messages = [{"role": "system", "content": rules}, {"role": "user", "content": wish}]
"""

from luna.generate.chain_of_thought import ChainOfThoughtGenerator
from luna.generate.curriculum import CurriculumGenerator
from luna.generate.mix import MIXES, mixed_prompts, prompts_of
from luna.generate.prompt import TeacherPrompt
from luna.generate.self_instruct import SelfInstructGenerator
from luna.generate.socratic import SocraticGenerator
from luna.generate.subject import Subject, Templates, load_subject, load_templates
from luna.generate.system_prompt import generate_enhanced_system_prompt, generate_socratic_system_prompt
from luna.generate.templates import PromptGenerator

__all__ = [
    "MIXES",
    "ChainOfThoughtGenerator",
    "CurriculumGenerator",
    "PromptGenerator",
    "SelfInstructGenerator",
    "SocraticGenerator",
    "Subject",
    "TeacherPrompt",
    "Templates",
    "generate_enhanced_system_prompt",
    "generate_socratic_system_prompt",
    "load_subject",
    "load_templates",
    "mixed_prompts",
    "prompts_of",
]
