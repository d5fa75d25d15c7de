"""Enhancing a file: what of it can be read is enhanced, what cannot is named, and nothing of it is lost."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from luna.enhance.run import Enhanced
from luna.errors import BadRecord
from luna.progress import say
from luna.records import BadLine, Record, Sifted, refuse_bad, sift_records, write_lines

Json = dict[str, Any]


def enhance_file(
    source: Path,
    output: Path,
    failed: Path,
    work: Callable[[Sequence[Record]], Enhanced],
    *,
    on_bad: Literal["refuse", "skip"] = "refuse",
    most: int | None = None,
) -> Enhanced:
    """Enhance the records of a file; every field but the four of metadata is written as it was read.

    Args:
        output: gets the enhanced records.
        failed: gets the records that could not be finished and the lines that are no records, each with its reason.
        on_bad: `refuse` a file with bad lines before anything is asked, or `skip` them.
        most: only so many records from the beginning.

    Raises:
        BadRecord: the file is missing, holds no record, or holds bad lines that are to be refused.
    """
    if len({path.resolve() for path in (source, output, failed)}) < 3:
        raise BadRecord(f"{output}: input, output and failed file have to be three; give another path")
    sifted = sift_records(source, unique_ids=True)
    if on_bad == "refuse" or not sifted.records:
        refuse_bad(sifted.bad)
    if not sifted.records:
        raise BadRecord(f"{source}: holds no record; give at least one line of JSON")
    enhanced = work(sifted.records[:most])
    write_lines(output, _enhanced_rows(sifted, enhanced))
    if write_lines(failed, [*_failed_rows(sifted, enhanced), *map(_bad_row, sifted.bad)]):
        say(f"enhance  {len(enhanced.failed)} records not finished, {len(sifted.bad)} bad lines: see {failed}")
    return replace(enhanced, metrics=enhanced.metrics | {"bad_records": len(sifted.bad)})


def _enhanced_rows(sifted: Sifted, enhanced: Enhanced) -> list[Json]:
    pairs = zip(enhanced.places, enhanced.records, strict=True)
    return [sifted.rows[place] | {"metadata": record.metadata} for place, record in pairs]


def _failed_rows(sifted: Sifted, enhanced: Enhanced) -> list[Json]:
    done = set(enhanced.places)
    places = [place for place in range(len(done) + len(enhanced.failed)) if place not in done]
    return [
        sifted.rows[place] | {"metadata": record.metadata}
        for place, record in zip(places, enhanced.failed, strict=True)
    ]


def _bad_row(bad: BadLine) -> Json:
    return {"line": bad.line, "text": bad.text, "failed_because": bad.reason}
