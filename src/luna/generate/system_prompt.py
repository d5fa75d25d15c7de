"""The system prompt: one for all examples of a subject, and one for its Socratic dialogues."""

from luna.generate.prompt import bullets, numbered
from luna.generate.subject import Subject, default_subject


def generate_enhanced_system_prompt(subject: Subject | None = None) -> str:
    """Role, principles, way of working and style of the assistant, as the teacher and the student see it.

    Without a subject it is that of software development.
    """
    system = (subject or default_subject()).system
    parts = [system.role.strip()]
    if system.principles:
        parts.append("What you hold to:\n" + bullets(system.principles))
    if system.method:
        parts.append("How you work:\n" + numbered(system.method))
    if system.style:
        parts.append("How you write:\n" + bullets(system.style))
    return "\n\n".join(parts)


def generate_socratic_system_prompt(subject: Subject) -> str:
    """The tutor of Socratic dialogues, who guides by questions and gives no answers."""
    return subject.socratic.persona.strip()
