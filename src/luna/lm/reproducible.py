"""The same seed and the same number of threads give the same bytes: what a stage sets before it touches a model."""

import logging
import os
import random


def set_reproducible(seed: int, threads: int) -> None:
    """Seed every generator, fix the threads and let torch use deterministic algorithms only.

    With the unsloth backend call `luna.lm.load.prepare_backend` first: this imports transformers.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # cuBLAS reads it when it starts; without it torch refuses matrix products on a GPU in deterministic mode.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import numpy as np
    import torch
    from transformers.utils.logging import disable_progress_bar

    # Imported by peft where it is installed; without a GPU it tells at every start that a kernel is missing which is
    # not needed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    # As use_deterministic_algorithms(True), which would import a compiler that nothing here uses.
    torch.set_deterministic_debug_mode("error")
    # Nor does Luna read memory that nothing was written to; filling all of it is a guard for those who do.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it is a property
    disable_progress_bar()
