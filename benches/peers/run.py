#!/usr/bin/env python3
"""Gives our agent and its peers the same work, one after the other, and measures what each costs and what each loses.

    cargo xtask footprint peers                                           builds, runs all of it, prints the tables
    cargo xtask footprint peers --rounds 1 --agents solarnode collectd    a part

D devices are read each second and published to a broker on this machine. A reading carries its device's own count of
reads, so what never arrives is a number that is missing at the collector, whatever the agent says of itself.

    steady10, steady50    10 and 50 devices: processor time, memory, bytes written in a window of WINDOW seconds
    outage                10 devices; the broker is killed (SIGKILL) and back after OUTAGE seconds
    kill                  10 devices; the agent is killed (SIGKILL) and started again at once
    both                  10 devices; the agent is killed and started again in the middle of an outage

Each run is a line of JSON in `--out`, after a first line that says what was measured; table.py makes the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import table
from agents import Agent, Work, all_agents
from process import Process
from world import Broker, Collector, Devices, which

ROOT = Path(__file__).resolve().parents[2]

# Seconds.
START = 90.0
SETTLE = 8.0
OUTAGE = 30.0
BEFORE = 5.0
AFTER_KILL = 15.0
# An agent that has not delivered by then what it read during an outage has not kept it.
CATCH_UP = 30.0

Figures = dict[str, Any]


class Run:
    """One agent at work: devices, broker, collector and the agent, all new."""

    def __init__(self, agent: Agent, devices: int, program: Path, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.devices = Devices(program, devices)
        self.broker = Broker(folder / "broker")
        self.collector = Collector(self.broker.port, agent.readings, agent.reply)
        own = folder / "agent"
        own.mkdir()
        command = agent.prepare(Work(own, devices, self.devices.port, self.broker.port))
        self.agent = Process(command, own)

    def wait_until_all_arrive(self) -> None:
        """Returns when something of each device has arrived and the agent has had time to settle."""
        deadline = time.monotonic() + START
        while len(self.collector.seen) < self.devices.number:
            self.agent.check()
            if time.monotonic() > deadline:
                arrived = f"{len(self.collector.seen)} of {self.devices.number} devices arrived"
                raise TimeoutError(f"{arrived} in {START:.0f} s: see {self.agent.log}")
            time.sleep(0.1)
        time.sleep(SETTLE)

    def seconds_until_all_arrived(self, before: list[int], until: list[int]) -> float | None:
        """How long it takes until all has arrived that was read between two counts; None where that never comes."""
        begun = time.monotonic()
        while time.monotonic() - begun < CATCH_UP:
            if self.collector.missing(before, until) == 0:
                return time.monotonic() - begun
            time.sleep(0.05)
        return None

    def stop(self) -> None:
        """Ends everything."""
        self.agent.kill()
        self.collector.stop()
        self.broker.kill()
        self.devices.stop()


def steady(run: Run, window: float) -> Figures:
    """What the agent costs while nothing happens."""
    counts, arrived = run.devices.counts(), run.collector.arrived()
    messages, payload = run.collector.messages, run.collector.payload_bytes
    cpu, written, begun = run.agent.cpu_seconds(), run.agent.written_bytes(), time.monotonic()
    time.sleep(window)
    seconds, cpu = time.monotonic() - begun, run.agent.cpu_seconds() - cpu
    until = run.devices.counts()
    datum = run.collector.arrived() - arrived
    messages, payload = run.collector.messages - messages, run.collector.payload_bytes - payload
    rss, pss = run.agent.memory()
    written = run.agent.written_bytes() - written
    run.seconds_until_all_arrived(counts, until)
    if datum == 0:
        raise RuntimeError(f"nothing arrived: see {run.agent.log}")
    return {
        "read_per_s": (sum(until) - sum(counts)) / seconds,
        "datum_per_s": datum / seconds,
        "cpu_s_per_1000": cpu * 1000 / datum,
        "rss_mb": rss,
        "pss_mb": pss,
        "written_per_datum": written / datum,
        "messages_per_datum": messages / datum,
        "payload_per_datum": payload / datum,
        "lost": run.collector.missing(counts, until),
    }


def outage(run: Run, kill_agent: bool) -> Figures:
    """The broker is away; half-way the agent is killed as well, if that is asked for."""
    before = run.devices.counts()
    begun = time.monotonic()
    time.sleep(BEFORE)
    run.broker.kill()
    time.sleep(OUTAGE / 2)
    if kill_agent:
        run.agent.kill()
        run.agent.start()
    time.sleep(OUTAGE / 2)
    rss, _ = run.agent.memory()
    run.broker.start()
    figures = losses(run, before, begun)
    return figures | {"rss_mb": rss}


def kill(run: Run) -> Figures:
    """The agent is killed and started again at once."""
    before = run.devices.counts()
    begun = time.monotonic()
    time.sleep(BEFORE)
    run.agent.kill()
    at_kill = sum(run.devices.counts())
    killed = time.monotonic()
    run.agent.start()
    while sum(run.devices.counts()) == at_kill and time.monotonic() < killed + START:
        time.sleep(0.01)
    reads_again = time.monotonic() - killed
    time.sleep(max(0.0, AFTER_KILL - reads_again))
    return losses(run, before, begun) | {"reads_again_s": reads_again}


def losses(run: Run, before: list[int], begun: float) -> Figures:
    """What was read since `begun`, and how much of it arrives in the end."""
    until = run.devices.counts()
    due = (time.monotonic() - begun) * run.devices.number
    caught_up = run.seconds_until_all_arrived(before, until)
    run.agent.check()
    return {
        "due": round(due),
        "read": sum(until) - sum(before),
        "lost": run.collector.missing(before, until),
        "caught_up_s": caught_up,
    }


SCENARIOS: dict[str, tuple[int, Callable[[Run, float], Figures]]] = {
    "steady10": (10, steady),
    "steady50": (50, steady),
    "outage": (10, lambda run, _: outage(run, kill_agent=False)),
    "kill": (10, lambda run, _: kill(run)),
    "both": (10, lambda run, _: outage(run, kill_agent=True)),
}
STEADY = ("steady10", "steady50")

# What differs from another line by one setting is measured where that setting shows.
ONLY_IN = {"solarnode-aligned": STEADY, "tbgw-memory": ("both",)}


def measure(agent: Agent, scenario: str, arguments: argparse.Namespace) -> Figures:
    """One run of one agent."""
    devices, work = SCENARIOS[scenario]
    run = Run(agent, devices, arguments.devices, arguments.work / agent.name)
    try:
        run.wait_until_all_arrive()
        figures = work(run, arguments.window)
    finally:
        run.stop()
    if run.collector.strange:
        raise RuntimeError(f"{len(run.collector.strange)} messages not understood: {run.collector.strange[0]}")
    return figures


def plan(agents: list[Agent], scenarios: list[str], rounds: int) -> list[tuple[str, Agent]]:
    """The runs in their order: agents in turns, all scenarios once and then the steady ones again."""
    again = [scenario for scenario in scenarios if scenario in STEADY]
    return [
        (scenario, agent)
        for scenario in scenarios + again * (rounds - 1)
        for agent in agents
        if scenario in ONLY_IN.get(agent.name, SCENARIOS)
    ]


def machine(agents: list[Agent]) -> Figures:
    """When, where and what: the first line of the results."""
    mosquitto = subprocess.run([which("mosquitto") or "", "-h"], capture_output=True, text=True, check=False)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "broker": mosquitto.stdout.partition("\n")[0],
        "agents": {agent.name: agent.version() for agent in agents},
        "titles": {agent.name: agent.title for agent in agents},
    }


def missing(agents: list[Agent], devices: Path) -> list[str]:
    """What is not installed or built, each once."""
    found = dict.fromkeys(agent.missing() for agent in agents)
    if not which("mosquitto"):
        found["mosquitto"] = None
    if not devices.is_file():
        found[f"{devices}: cargo build --package solarnet-sim --example devices"] = None
    return [what for what in found if what]


def parse(known: Path) -> argparse.Namespace:
    """The command line; `known` is where cargo and setup.sh put things."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=known / "peers", help="where setup.sh put them")
    parser.add_argument("--program", type=Path, default=known / "release/solarnode-agent", help="our agent")
    parser.add_argument("--devices", type=Path, default=known / "debug/examples/devices", help="the devices' program")
    parser.add_argument("--work", type=Path, default=known / "peers/work", help="a folder for the runs, on a real disk")
    parser.add_argument("--out", type=Path, default=known / "peers/results.jsonl")
    parser.add_argument("--rounds", type=int, default=3, help="of the steady scenarios; medians are shown")
    parser.add_argument("--window", type=float, default=30.0, help="seconds that a steady run is measured")
    parser.add_argument("--agents", nargs="+", metavar="AGENT", help="by the names in agents.py, such as nodered")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    return parser.parse_args()


def main() -> int:
    """Runs what was asked for; an agent that is missing is named, and nothing is run."""
    arguments = parse(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute())
    agents = all_agents(arguments.program.absolute(), arguments.peers.absolute())
    unknown = set(arguments.agents or []) - {agent.name for agent in agents}
    if unknown:
        known = ", ".join(agent.name for agent in agents)
        print(f"no such agent: {', '.join(sorted(unknown))}; there are {known}", file=sys.stderr)
        return 64
    agents = [agent for agent in agents if not arguments.agents or agent.name in arguments.agents]
    absent = missing(agents, arguments.devices)
    if absent:
        print(f"missing: {'; '.join(absent)}; benches/peers/setup.sh installs all but ours", file=sys.stderr)
        return 69
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    with arguments.out.open("w") as out:
        print(json.dumps(machine(agents)), file=out, flush=True)
        runs = plan(agents, arguments.scenarios, arguments.rounds)
        for number, (scenario, agent) in enumerate(runs, start=1):
            print(f"[{number}/{len(runs)}] {scenario}: {agent.title}", file=sys.stderr, flush=True)
            try:
                figures = measure(agent, scenario, arguments)
            except (RuntimeError, TimeoutError, OSError) as error:
                failed += 1
                print(f"    failed: {error}", file=sys.stderr, flush=True)
                continue
            line = {"scenario": scenario, "agent": agent.name, **figures}
            print(json.dumps(line), file=out, flush=True)
            print(f"    {table.brief(line)}", file=sys.stderr, flush=True)
    print(table.tables(arguments.out))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
