"""The calls of a run through distilabel; peers.py starts it in an environment that has the package.

    python benchmarks/peer_distilabel.py PORT AT_ONCE CALLS FOLDER [REPLICAS]

Its cache is kept in the folder: called again with the same folder, distilabel looks for a pipeline to go on with. It
sends a batch at a time and, if a call fails for good, loses the batch; with replicas (processes) the calls that may be
out are split into as many batches.
"""

import sys

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts, StepResources
from distilabel.steps.tasks import TextGeneration
from measuring import MAX_TOKENS, TIMEOUT, Gauge, arguments, prompt


def main() -> None:
    base, at_once, calls, folder = arguments(sys.argv[:5])
    replicas = int(sys.argv[5]) if len(sys.argv) > 5 else 1
    batch = at_once // replicas
    gauge = Gauge(calls)
    rows = [{"number": i, "instruction": prompt(i)} for i in range(calls)]
    with Pipeline(name="calls", cache_dir=folder / "cache") as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=batch)
        llm = OpenAILLM(
            model="m",
            base_url=base,
            api_key="none",
            max_retries=10,
            timeout=int(TIMEOUT),
            generation_kwargs={"max_new_tokens": MAX_TOKENS},
        )
        load >> TextGeneration(llm=llm, input_batch_size=batch, resources=StepResources(replicas=replicas))
    answered = pipeline.run(use_cache=True)["default"]["train"]
    gauge.write(folder, {row["number"]: row["generation"] for row in answered})


if __name__ == "__main__":
    main()
