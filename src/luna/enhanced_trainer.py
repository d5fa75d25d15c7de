"""Enhance a file with the very model that is to be trained, then train it on what it learned by that.

For data of one's own, outside of the ladder: no eval set is looked at and no generation comes of it.
"""

from pathlib import Path
from typing import Any

from luna.enhance.enhancer import InTraining, StudentTeacherConfig, ThinkingEnhancer, failed_file
from luna.enhance.files import enhance_file
from luna.errors import BadRecord, BadSettings
from luna.judge.run import judge
from luna.kept import kept_folder
from luna.laws import load_laws
from luna.lm.load import prepare_backend
from luna.outputs import write_json
from luna.records import write_records
from luna.settings import Settings
from luna.train_sft.run import fine_tune


class EnhancedUnslothTrainer:
    """Enhances data with the model of `config` as the student, then fine-tunes that model on its own attempts.

    The backend is unsloth where a CUDA GPU is, and transformers elsewhere.

    Args:
        config: params and preset, as `load_settings` reads them; the model is `preset.model.base`.
        student_teacher_config: teacher, judge and limits of the loop. Another student than the model is an override
            and reported as one.

    Raises:
        BadSettings: the model has no weights yet.
        BadModel: there is a GPU and no unsloth.
    """

    def __init__(self, config: Settings, student_teacher_config: StudentTeacherConfig) -> None:
        base = config.preset.model.base
        if base == "scratch":
            raise BadSettings("model.base: scratch has no weights to train on; give a folder or the name of a model")
        self.config = _with_backend(config)
        self.loop = student_teacher_config
        model = self.config.preset.model
        prepare_backend(model)
        self._enhancer = ThinkingEnhancer(self.loop, InTraining(base, model, config.preset.student, base))

    def train(
        self, input_path: str | Path, output_dir: str | Path, *, max_samples: int | None = None
    ) -> dict[str, dict[str, Any]]:
        """Enhance, sort and train; returns the metrics of `enhance`, `judge` and `train`.

        `output_dir` gets the model in `model`, beside it `enhanced.jsonl`, `enhanced.failed.jsonl`, `accepted.jsonl`,
        `rejected.jsonl` and `metrics.json`.

        Raises:
            BadRecord: the input cannot be used, or nothing of it was accepted.
        """
        folder, params = Path(output_dir), self.config.params
        output = folder / "enhanced.jsonl"
        on_bad = self.loop.on_bad_record
        enhanced = enhance_file(
            Path(input_path), output, failed_file(output), self._enhancer.enhance, on_bad=on_bad, most=max_samples
        )
        laws = load_laws(self.loop.root / params.laws)
        arithmetic, unconverged = self.config.preset.subject == "arithmetic", params.judge.unconverged
        judged = judge(
            enhanced.records, enhanced.dialogues, laws, set(), arithmetic=arithmetic, unconverged=unconverged
        )
        write_records(folder / "accepted.jsonl", judged.accepted)
        write_records(folder / "rejected.jsonl", judged.rejected)
        if not judged.accepted:
            raise BadRecord(f"{folder / 'rejected.jsonl'}: nothing was accepted; the reasons stand there")
        scratch_dir = kept_folder(self.loop.root) / "enhanced_training"
        base = self.config.preset.model.base
        tuned = fine_tune(self.config, judged.accepted, self.loop.root, folder / "model", scratch_dir, start=base)
        metrics = {"enhance": enhanced.metrics, "judge": judged.metrics, "train": tuned.metrics}
        write_json(folder / "metrics.json", metrics)
        return metrics


def _with_backend(config: Settings) -> Settings:
    import torch

    backend = "unsloth" if torch.cuda.is_available() else "transformers"
    model = config.preset.model.model_copy(update={"backend": backend})
    return config.model_copy(update={"preset": config.preset.model_copy(update={"model": model})})
