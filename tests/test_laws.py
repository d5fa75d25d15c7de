"""Every law catches what it was written for, lets Luna's own texts pass, and says clearly when it is wrong itself."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from luna import laws as laws_module
from luna.arithmetic.corpus import thinking_reply
from luna.arithmetic.layouts import choose_method, solve
from luna.arithmetic.problems import SEALED_SKILLS, SKILLS, draw
from luna.arithmetic.tutor import hint_at
from luna.errors import LunaError
from luna.laws import Item, Law, LawError, Question, load_laws, violations

LAWS_FILE = Path(__file__).parents[1] / "laws.yaml"
LAWS = load_laws(LAWS_FILE)

# At least one text that breaks each law of laws.yaml; a new law needs one here.
PLANTED: dict[str, list[Item]] = {
    "hint-reveals-answer": [Item("Think again, it is 1,195!", "planted", "1195")],
    "taboo-words": [
        Item("<think>\nLet us leverage the tens.\n</think>\n85", "planted"),
        Item("Synergy gives 85", "planted"),
        Item("We strategize: 85", "planted"),
        Item("optimized, so 85", "planted"),
    ],
    "unclosed-thinking": [
        Item("<think>\nones 7+8+0=15", "planted"),
        Item("so 85\n</think>\n85", "planted"),
        Item("<think>a<think>b</think></think>85", "planted"),
    ],
    "empty-reply": [Item("", "planted"), Item(" \n", "planted"), Item("<think>\nso 85\n</think>\n", "planted")],
    "template-markers": [
        Item("85<|im_end|>", "planted"),
        Item("<|im_start|>assistant\n85", "planted"),
        Item("[INST] 85 [/INST]", "planted"),
        Item("<end_of_turn>85", "planted"),
    ],
}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.id)
def test_every_law_catches_its_planted_violations(law: Law) -> None:
    assert PLANTED.get(law.id), f"{law.id} of laws.yaml has no planted violation in this test"
    for item in PLANTED[law.id]:
        for scope in law.scope:
            found = violations([law], scope, [item])
            assert [(violation.law, violation.where) for violation in found] == [(law.id, "planted")]


def test_the_laws_that_were_asked_for_are_there() -> None:
    assert {law.id for law in LAWS} >= set(PLANTED)


@pytest.mark.parametrize("scope", ["data", "reply"])
def test_worked_solutions_break_no_law(scope: laws_module.Scope) -> None:
    rng = random.Random(0)
    problems = [draw(rng, skill) for skill in SKILLS.values() for _ in range(20)]
    texts = [thinking_reply(solve(problem, choose_method(rng, problem)), problem.answer) for problem in problems]
    assert violations(LAWS, scope, [Item(text, "solution") for text in texts]) == []


def test_the_tutor_never_gives_an_answer_away() -> None:
    rng = random.Random(0)
    hints = []
    for skill in [*SKILLS.values(), *SEALED_SKILLS.values()]:
        for _ in range(60):
            problem = draw(rng, skill)
            method = choose_method(rng, problem)
            for line in range(len(solve(problem, method))):
                text = hint_at(problem, method, line, firm=rng.random() < 0.5)
                hints.append(Item(text, str(problem), str(problem.answer)))
    assert len(hints) > 3000
    assert violations(LAWS, "hint", hints) == []


def test_the_leak_checker_shares_no_code_with_the_hint_writer() -> None:
    assert "luna.arithmetic" not in Path(laws_module.__file__).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("hint", "answer"),
    [
        ("The result is 1195.", "1,195"),
        ("You should get 1 195 here", "1195"),
        ("You should get 1\u202f195 here", "1195"),
        ("so 195.0", "195"),
        ("15*13=195", "195"),
        ("is it -12 perhaps?", "-12"),
        ("Read it again: it ends on the FIFTH of May.", "the fifth of May"),
        ("look: 'Ada, Lovelace'", "Ada Lovelace"),
        ("the answer is 42", "It is 42 km."),
        ("use {} here", "{}"),
    ],
)
def test_answers_are_seen_in_hints(hint: str, answer: str) -> None:
    assert len(_leaks(hint, answer)) == 1


@pytest.mark.parametrize(
    ("hint", "answer"),
    [
        ("Check the ones: 5*3+0.", "195"),
        ("Try 1,195 again.", "195"),
        ("You wrote 1950.", "195"),
        ("You wrote 19.5.", "195"),
        ("Who wrote the first program?", "Ada Lovelace"),
        ("Love lace, Ada.", "Ada Lovelace"),
        ("Look at chapter 3.", "The contract ends on 3 May of the year that follows"),
    ],
)
def test_a_hint_that_keeps_the_answer_back_passes(hint: str, answer: str) -> None:
    assert _leaks(hint, answer) == []


def _leaks(hint: str, answer: str) -> list[laws_module.Violation]:
    return violations([law for law in LAWS if law.id == "hint-reveals-answer"], "hint", [Item(hint, "here", answer)])


@pytest.mark.parametrize("answer", [None, "", " "])
def test_a_hint_cannot_be_checked_without_its_answer(answer: str | None) -> None:
    with pytest.raises(LawError, match=r"data/x.jsonl:3: .*without an expected answer"):
        violations(LAWS, "hint", [Item("Check the ones.", "data/x.jsonl:3", answer)])


def test_taboo_words_are_whole_words() -> None:
    assert violations(LAWS, "reply", [Item("The optimum of the strategy is 85", "here")]) == []


def test_a_law_binds_only_its_scopes() -> None:
    assert violations(LAWS, "hint", [Item("Leverage the tens.", "here", "85")]) == []


def test_a_violation_says_where_and_shows_a_short_line() -> None:
    text = "word\n" * 100 + "synergy" + "\nword" * 100
    (found,) = violations(LAWS, "data", [Item("85", "a:1"), Item(text, "a:2")])
    assert (found.law, found.where) == ("taboo-words", "a:2")
    assert "synergy" in found.excerpt
    assert len(found.excerpt) <= 100
    assert "\n" not in found.excerpt


# ---------------------------------------------------------------- judge laws

JUDGED = [
    Law.model_validate({"id": name, "scope": ["reply"], "says": "Be kind.", "check": {"judge": f"Is the text {name}?"}})
    for name in ("rude", "vain")
]


def test_judged_laws_are_asked_all_at_once() -> None:
    calls: list[Sequence[Question]] = []

    def judge(questions: Sequence[Question]) -> list[bool]:
        calls.append(questions)
        return [asked.law == "rude" and "fool" in asked.item.text for asked in questions]

    found = violations(JUDGED, "reply", [Item("85, you fool", "a"), Item("85", "b")], judge)
    assert [(v.law, v.where, v.excerpt) for v in found] == [("rude", "a", "85, you fool")]
    assert [(q.question, q.item.where) for q in calls[0]] == [
        ("Is the text rude?", "a"),
        ("Is the text rude?", "b"),
        ("Is the text vain?", "a"),
        ("Is the text vain?", "b"),
    ]
    assert len(calls) == 1


def test_a_judged_law_without_a_judge_is_an_error() -> None:
    with pytest.raises(LunaError, match="law rude asks a judge and there is none"):
        violations(JUDGED, "reply", [Item("85", "a")])
    assert violations(JUDGED, "data", [Item("85", "a")]) == []


def test_a_judge_that_skips_a_question_is_an_error() -> None:
    with pytest.raises(LawError, match="answered 1 of 2"):
        violations(JUDGED, "reply", [Item("85", "a")], lambda questions: [False])


# ---------------------------------------------------------------- a wrong laws.yaml

GOOD = "- id: kind\n  scope: [reply]\n  says: Be kind.\n  check: {pattern: fool}\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (GOOD.replace("fool", "'(fool'"), r"kind: check.pattern: bad regex: .*; mend the value"),
        (
            GOOD.replace("pattern: fool", "predicate: is_kind"),
            r"kind: check.predicate: unknown predicate 'is_kind'; .*",
        ),
        (GOOD + GOOD, r"kind: there are two laws of this id; rename one"),
        (GOOD + "  colour: red\n", r"kind: colour: unknown key; known keys: id, scope, says, check"),
        (GOOD.replace("pattern:", "patern:"), r"kind: check.patern: unknown key; did you mean pattern\?"),
        (GOOD.replace("reply", "answers"), r"kind: scope.0: input should be 'data', 'reply' or 'hint'.*mend the value"),
        (GOOD.replace("[reply]", "[]"), r"kind: scope: .*mend the value"),
        (GOOD.replace("{pattern: fool}", "{}"), r"kind: check: give exactly one of pattern, predicate and judge.*"),
        (GOOD.replace("fool}", "fool, judge: Is it rude}"), r"kind: check: give exactly one of pattern.*"),
        (GOOD.replace("  says: Be kind.\n", ""), r"kind: says: is missing; add it"),
        (GOOD.replace("id: kind", "id: Be Kind"), r"Be Kind: id: .*mend the value"),
        (GOOD + "- scope: [reply]\n", r"law 2: id: is missing; add it"),
        (GOOD + "- fool\n", r"law 2: .*mend the value"),
        ("laws: 3\n", r"is no list of laws.*"),
        ("- [\n", r"is no YAML: .*mend that line"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "laws.yaml"
    path.write_text(text)
    with pytest.raises(LawError, match=rf"^{path}: {complaint}$"):
        load_laws(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(LawError, match=r"no such file; write it or mend `laws` in params.yaml"):
        load_laws(tmp_path / "laws.yaml")
