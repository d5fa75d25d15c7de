"""The calls of a run through bespokelabs-curator; peers.py starts it in an environment that has the package.

    python benchmarks/peer_curator.py PORT AT_ONCE CALLS FOLDER

Its cache is kept in the folder: called again with the same folder, curator goes on where it stopped. Of the two
backends it has for such a server, `openai` is faster through faults than `litellm`, which pauses all after a 429.
"""

import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

from bespokelabs import curator
from datasets import Dataset
from measuring import MAX_TOKENS, TIMEOUT, Gauge, arguments, prompt

# Tokens are counted with a table that LiteLLM brings along; curator would download it.
TOKENIZERS = Path(sysconfig.get_path("purelib")) / "litellm" / "litellm_core_utils" / "tokenizers"


class Ask(curator.LLM):  # type: ignore[misc]
    def prompt(self, row: dict[str, Any]) -> str:
        text: str = row["prompt"]
        return text

    def parse(self, row: dict[str, Any], response: str) -> dict[str, Any]:
        return {"number": row["number"], "text": response}


def main() -> None:
    os.environ["TIKTOKEN_CACHE_DIR"] = str(TOKENIZERS)
    base, at_once, calls, folder = arguments(sys.argv)
    gauge = Gauge(calls)
    backend = {
        "base_url": base,
        "api_key": "none",
        "max_concurrent_requests": at_once,
        "max_requests_per_minute": 10_000_000,  # so that only `at_once` holds it back
        "max_tokens_per_minute": 10_000_000_000,
        "max_retries": 10,
        "request_timeout": int(TIMEOUT),
        "require_all_responses": False,  # rows that failed for good are left out instead of ending everything
    }
    ask = Ask(model_name="m", backend="openai", backend_params=backend, generation_params={"max_tokens": MAX_TOKENS})
    dataset = Dataset.from_list([{"number": i, "prompt": prompt(i)} for i in range(calls)])
    rows = ask(dataset, working_dir=str(folder / "cache")).dataset
    gauge.write(folder, {row["number"]: row["text"] for row in rows})


if __name__ == "__main__":
    main()
