"""The promote stage: hold the generation against the gates and write the verdict with its evidence.

Nothing is committed or tagged here, and a rejection is a result, not a failure.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luna.errors import LunaError
from luna.lm.weights import weights_sha256
from luna.outputs import write_json
from luna.promote.evidence import Check, comparable, evidence
from luna.promote.gates import TOLERANCE, Gate, Metrics, decide, metrics_of
from luna.promote.manifest import build_manifest
from luna.settings import Params, Settings
from luna.stats import confidence_of

PROMOTED, REJECTED = "PROMOTED", "REJECTED"
Json = dict[str, Any]


class PromoteError(LunaError):
    """An earlier stage has not left what promotion needs."""


def promote(settings: Settings, root: Path) -> Json:
    """Decide on the generation that `settings` grew below `root` and write `generation.json` there.

    Reads metrics/eval.json (recall, generalize, tone_drift, law_violations, models, n, paired, confidence, how,
    same_weights, eval_set_sha256), metrics/distill.json (teachers, steps, learning_rate, replay_size),
    metrics/enhance.json and models/luna. What it writes depends on these and the settings alone: the same run gives
    the same bytes.

    Raises:
        PromoteError: a file or key is missing, or the evaluation is of an earlier attempt; names the stage.
        ManifestError: the settings contradict each other.
    """
    evaluation = _read(root / "metrics" / "eval.json", "evaluate")
    distillation = _read(root / "metrics" / "distill.json", "distill")
    enhancement = _read(root / "metrics" / "enhance.json", "enhance")
    params, parent = settings.params, _parent_name(evaluation, settings.params)
    gates = decide(metrics_of(evaluation), _parent_metrics(evaluation, parent), params.gates)
    checks = _checks(evaluation, parent, params, root / "metrics" / "eval.json")
    failed = [gate.name for gate in gates if not gate.passed]
    failed += [check.name for check in checks if check.required and not check.passed]
    generation: Json = {
        "generation": params.generation,
        "parent": params.parent,
        "grandparent": params.grandparent,
        "attempt": params.attempt,
        "verdict": REJECTED if failed else PROMOTED,
        "gates": {gate.name: _gate_row(gate) for gate in gates},
        "checks": {check.name: _check_row(check) for check in checks},
        "failed": failed,
        "evidence": evaluation.get("paired", {}),
        "manifest": _manifest(settings, distillation, root / "metrics" / "distill.json"),
        "weights_sha256": weights_sha256(root / "models" / "luna"),
        "eval_set_sha256": _need(evaluation, "eval_set_sha256", root / "metrics" / "eval.json", "evaluate"),
        "data": _counts(enhancement, distillation),
        "enhance": {name: value for name, value in enhancement.items() if _is_number(value)},
        "settings": params.model_dump(include=set(_ECHOED)),
    }
    write_json(root / "generation.json", generation)
    return generation


_ECHOED = ("preset", "seed", "alpha", "beta", "gamma", "temperature")


def _parent_name(evaluation: Json, params: Params) -> str:
    """The name under which the parent was evaluated; the base stands in only where it is the parent."""
    return "base" if params.parent is None and "parent" not in evaluation.get("models", {}) else "parent"


def _parent_metrics(evaluation: Json, parent: str) -> Metrics | None:
    found = evaluation.get("models", {}).get(parent)
    return None if found is None else metrics_of(found)


def _checks(evaluation: Json, parent: str, params: Params, path: Path) -> list[Check]:
    confidence, needed = _need(evaluation, "confidence", path, "evaluate"), confidence_of(params.attempt)
    if not _is_number(confidence) or confidence < needed - TOLERANCE:
        raise PromoteError(
            f"{path}: confidence: attempt {params.attempt} needs {needed:.4f}, not {confidence}; "
            "run `dvc repro evaluate`"
        )
    return [
        evidence(evaluation, parent, required=params.gates.require_evidence),
        comparable(evaluation, parent),
    ]


def _gate_row(gate: Gate) -> Json:
    return {"value": gate.value, "threshold": gate.threshold, "pass": gate.passed, "rule": gate.rule}


def _check_row(check: Check) -> Json:
    row = {"value": check.value, "threshold": check.threshold, "pass": check.passed, "rule": check.rule}
    return {**row, "required": check.required, "differs": list(check.differs)}


def _manifest(settings: Settings, distillation: Json, path: Path) -> Json:
    teachers, steps, lr, replay_size = (
        _need(distillation, key, path, "distill") for key in ("teachers", "steps", "learning_rate", "replay_size")
    )
    return build_manifest(settings, teachers, steps, lr, replay_size=replay_size).model_dump()


def _counts(enhancement: Json, distillation: Json) -> Json:
    return {
        "examples": enhancement.get("total_examples"),
        "enhanced": enhancement.get("enhanced_examples"),
        "replayed_of_each": distillation.get("replay_size"),
    }


def _read(path: Path, stage: str) -> Json:
    try:
        # NaN is no JSON; it becomes null, so that whatever depends on it fails by name instead of passing by accident.
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda constant: None)
    except FileNotFoundError as error:
        raise PromoteError(f"{path}: no such file; run `dvc repro {stage}`") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PromoteError(f"{path}: is broken JSON; run `dvc repro --force {stage}`") from error
    if not isinstance(value, dict):
        raise PromoteError(f"{path}: is no JSON object; run `dvc repro --force {stage}`")
    return value


def _need(values: Json, key: str, path: Path, stage: str) -> Any:
    if values.get(key) is None:
        raise PromoteError(f"{path}: {key}: is missing; run `dvc repro --force {stage}`")
    return values[key]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ---------------------------------------------------------------- report card


def card(generation: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """The report card for the terminal: verdict, gates, the models side by side, enhancement, how to go on.

    Args:
        generation: what `promote` returned.
        evaluation: metrics/eval.json of the same run.
    """
    lines = [f"{generation['generation']}: {generation['verdict']}  (parent: {generation['parent'] or 'the base'})", ""]
    lines += [f"{'gate':<16}{'value':>8}  {'threshold':>12}"]
    lines += [_gate_line(name, gate) for name, gate in generation["gates"].items()]
    lines += [_check_line(name, check) for name, check in generation["checks"].items()]
    lines += ["", f"{'model':<16}{'recall':>8}  {'generalize':>12}"]
    models = {"this one": evaluation, **evaluation.get("models", {})}
    lines += [_model_line(name, models[name]) for name in ("this one", "parent", "base", "sft") if name in models]
    lines += ["", f"enhance: {_figures(generation['enhance'])}", "", _next_step(generation)]
    return "\n".join(lines)


def _gate_line(name: str, gate: Mapping[str, Any]) -> str:
    sign = ">=" if ">=" in gate["rule"] else "<="
    threshold = f"{sign} {_shown(gate['threshold'])}"
    return f"{name:<16}{_shown(gate['value']):>8}  {threshold:>12}  {'pass' if gate['pass'] else 'FAIL'}"


def _check_line(name: str, check: Mapping[str, Any]) -> str:
    if name == "comparable":
        return f"{name:<16}{'yes' if check['pass'] else 'no':>8}  {'':>12}  {_ended(check)}"
    return f"{name:<16}{_shown(check['value']):>8}  {'> ' + _shown(check['threshold']):>12}  {_ended(check)}"


def _ended(check: Mapping[str, Any]) -> str:
    if check["pass"]:
        return "pass"
    return "FAIL" if check["required"] else "FAIL (not required)"


def _model_line(name: str, metrics: Mapping[str, Any]) -> str:
    return f"{name:<16}{_shown(metrics.get('recall')):>8}  {_shown(metrics.get('generalize')):>12}"


def _shown(value: Any) -> str:
    if not _is_number(value):
        return "none"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


_CARD_FIGURES = ("enhanced_examples", "average_iterations", "convergence_rate", "blind_convergence_rate", "hint_gain")


def _figures(enhancement: Mapping[str, Any]) -> str:
    shown = [f"{name.replace('_', ' ')} {_shown(enhancement[name])}" for name in _CARD_FIGURES if name in enhancement]
    return ", ".join(shown) or "no figures"


def _next_step(generation: Mapping[str, Any]) -> str:
    name = generation["generation"]
    if generation["verdict"] == PROMOTED:
        return f"next: `luna release` makes it the commit and the tag {name}"
    failed: Sequence[str] = generation["failed"]
    if differs := generation["checks"]["comparable"]["differs"]:
        return f"next: {', '.join(failed)} failed: {_mend_of(differs, generation['parent'])}"
    return (
        f"next: {', '.join(failed)} failed; `luna release` archives this try, or change params.yaml and run `dvc repro`"
    )


def _mend_of(differs: Sequence[str], parent: str | None) -> str:
    """How child and parent become comparable again; a changed eval set cannot be mended by asking again."""
    if "eval_set_sha256" in differs and parent:
        return f"the eval set is not {parent}'s; set `evaluate` back to what it was, or start anew from the base"
    return f"{', '.join(differs)} differ from the parent's; run `dvc repro --force evaluate`"
