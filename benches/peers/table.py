#!/usr/bin/env python3
"""Makes the tables of docs/footprint.md from the results of run.py: `table.py RESULTS`.

Costs are the medians of the runs; of losses each run is shown.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

Line = dict[str, Any]

STEADY = {"steady10": "10 devices", "steady50": "50 devices"}
COSTS = (
    "datum_per_s",
    "read_per_s",
    "cpu_s_per_1000",
    "rss_mb",
    "pss_mb",
    "disk_bytes_per_datum",
    "messages_per_datum",
    "payload_per_datum",
)
LOSSES = {
    "outage": "broker away for 30 s",
    "kill": "agent killed",
    "both": "broker away for 30 s, agent killed in it",
}


def brief(line: Line) -> str:
    """The figures of a run on a line."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in line.items()
        if name not in ("scenario", "agent")
    )


def tables(results: Path) -> str:
    """What was measured, the costs, and the losses."""
    about, *lines = [json.loads(line) for line in results.read_text().splitlines()]
    runs: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in lines:
        runs[line["scenario"], line["agent"]].append(line)
    return "\n\n".join([_about(about), _costs(about, runs), _losses(about, runs)])


def _about(about: Line) -> str:
    versions = "; ".join(dict.fromkeys(about["agents"].values()))
    return (
        f"{about['date']}, {about['kernel']}, {about['cores']} cores, load {about['load']:.1f} at the beginning; "
        f"{versions}; {about['broker']}."
    )


def _costs(about: Line, runs: dict[tuple[str, str], list[Line]]) -> str:
    rows = [
        "| Work | Agent | runs | datum/s arrived (read) | CPU s per 1,000 datum | RSS MB | PSS MB "
        "| bytes to the disk a datum | messages a datum | payload bytes a datum | lost |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for scenario, work in STEADY.items():
        for agent, title in about["titles"].items():
            found = runs.get((scenario, agent))
            if not found:
                continue
            middle = {name: median(line[name] for line in found) for name in COSTS}
            rows.append(
                f"| {work} | {title} | {len(found)} | {middle['datum_per_s']:.1f} ({middle['read_per_s']:.1f}) "
                f"| {middle['cpu_s_per_1000']:.2f} | {middle['rss_mb']:.1f} | {middle['pss_mb']:.1f} "
                f"| {middle['disk_bytes_per_datum']:,.0f} | {middle['messages_per_datum']:.1f} "
                f"| {middle['payload_per_datum']:,.0f} | {max(line['lost'] for line in found)} |"
            )
    return "\n".join(rows)


def _losses(about: Line, runs: dict[tuple[str, str], list[Line]]) -> str:
    rows = [
        "| What happens | Agent | readings due | read | of these never arrived | the rest was there after "
        "| reads again after |",
        "| --- | --- | --: | --: | --: | --: | --: |",
    ]
    for scenario, work in LOSSES.items():
        for agent, title in about["titles"].items():
            found = runs.get((scenario, agent))
            if found:
                numbers = (_each(found, name) for name in ("due", "read", "lost"))
                seconds = (_each(found, name) for name in ("caught_up_s", "reads_again_s"))
                rows.append(f"| {work} | {title} | {' | '.join([*numbers, *seconds])} |")
    return "\n".join(rows)


def _each(found: list[Line], name: str) -> str:
    """A figure of every run, where it has a meaning."""
    return ", ".join(_shown(line[name]) for line in found if name in line)


def _shown(value: float) -> str:
    return f"{value:.1f} s" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    print(tables(Path(sys.argv[1])))
