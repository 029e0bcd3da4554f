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
import contextlib
import json
import os
import platform
import random
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
from world import Broker, Collector, Devices, Disk, which

ROOT = Path(__file__).resolve().parents[2]

# Seconds.
START = 90.0
OUTAGE = 30.0
BEFORE = 5.0
AFTER_KILL = 15.0
# An agent that has not delivered by then what it read during an outage has not kept it.
CATCH_UP = 20.0

Figures = dict[str, Any]


class Run:
    """One agent at work: disk, devices, broker, collector and the agent, all new."""

    def __init__(self, agent: Agent, devices: int, program: Path, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.ExitStack() as made:
            self.disk = Disk()
            made.callback(self.disk.remove)
            self.devices = Devices(program, devices)
            made.callback(self.devices.stop)
            self.broker = Broker(folder / "broker")
            made.callback(self.broker.kill)
            self.collector = Collector(self.broker.port, agent.readings, agent.reply)
            made.callback(self.collector.stop)
            own = self.disk.mounted / "agent"
            own.mkdir()
            command = agent.prepare(Work(own, devices, self.devices.port, self.broker.port))
            self.agent = Process(command, own, folder / "output.log")
            made.callback(self.agent.kill)
            self._made = made.pop_all()

    def wait_until_all_arrive(self) -> None:
        """Returns when something of each device has arrived."""
        deadline = time.monotonic() + START
        while len(self.collector.seen) < self.devices.number:
            self.agent.check()
            if time.monotonic() > deadline:
                arrived = f"{len(self.collector.seen)} of {self.devices.number} devices arrived"
                raise TimeoutError(f"{arrived} in {START:.0f} s: see {self.agent.log}")
            time.sleep(0.1)

    def wait_for_the_rest(self, before: list[int], until: list[int]) -> tuple[int, float]:
        """Of what was read between two counts: how much never arrives, and after how long the last of the rest did."""
        begun, last = time.monotonic(), 0.0
        missing = self.collector.missing(before, until)
        while missing and time.monotonic() - begun < CATCH_UP:
            time.sleep(0.05)
            still = self.collector.missing(before, until)
            if still < missing:
                missing, last = still, time.monotonic() - begun
        return missing, last

    def stop(self) -> None:
        """Ends everything, in the reverse order."""
        self._made.close()


def steady(run: Run, window: float) -> Figures:
    """What the agent costs while nothing happens."""
    counts, arrived = run.devices.counts(), run.collector.arrived()
    messages, payload = run.collector.messages, run.collector.payload_bytes
    written, cpu, begun = run.disk.written_bytes(), run.agent.cpu_seconds(), time.monotonic()
    time.sleep(window)
    seconds, cpu = time.monotonic() - begun, run.agent.cpu_seconds() - cpu
    until = run.devices.counts()
    datum = run.collector.arrived() - arrived
    messages, payload = run.collector.messages - messages, run.collector.payload_bytes - payload
    rss, pss = run.agent.memory()
    written = run.disk.written_bytes() - written
    lost, _ = run.wait_for_the_rest(counts, until)
    if datum == 0:
        raise RuntimeError(f"nothing arrived: see {run.agent.log}")
    return {
        "read_per_s": (sum(until) - sum(counts)) / seconds,
        "datum_per_s": datum / seconds,
        "cpu_s_per_1000": cpu * 1000 / datum,
        "rss_mb": rss,
        "pss_mb": pss,
        "disk_bytes_per_datum": written / datum,
        "messages_per_datum": messages / datum,
        "payload_per_datum": payload / datum,
        "lost": lost,
    }


def outage(run: Run, kill_agent: bool) -> Figures:
    """The broker is away; half-way the agent is killed as well, if that is asked for."""
    before = run.devices.counts()
    begun = time.monotonic()
    sleep_before()
    run.broker.kill()
    time.sleep(OUTAGE / 2)
    if kill_agent:
        run.agent.kill()
        run.agent.start()
    time.sleep(OUTAGE / 2)
    run.broker.start()
    figures, seconds = losses(run, before, begun)
    return figures | {"caught_up_s": seconds}


def kill(run: Run) -> Figures:
    """The agent is killed and started again at once."""
    before = run.devices.counts()
    begun = time.monotonic()
    sleep_before()
    run.agent.kill()
    at_kill = sum(run.devices.counts())
    killed = time.monotonic()
    run.agent.start()
    while sum(run.devices.counts()) == at_kill and time.monotonic() < killed + START:
        time.sleep(0.01)
    reads_again = time.monotonic() - killed
    time.sleep(max(0.0, AFTER_KILL - reads_again))
    figures, _ = losses(run, before, begun)
    return figures | {"reads_again_s": reads_again}


def sleep_before() -> None:
    """Until something is killed: at no particular moment of the second in which the devices are read."""
    time.sleep(BEFORE + random.random())


def losses(run: Run, before: list[int], begun: float) -> tuple[Figures, float]:
    """What was read since `begun`, how much of it arrives in the end, and how long that takes."""
    until = run.devices.counts()
    due = (time.monotonic() - begun) * run.devices.number
    lost, seconds = run.wait_for_the_rest(before, until)
    run.agent.check()  # else it would count as one that reads and delivers nothing
    return {"due": round(due), "read": sum(until) - sum(before), "lost": lost}, seconds


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
        time.sleep(agent.settles_s)
        figures = work(run, arguments.window)
    finally:
        run.stop()
    if run.collector.strange:
        raise RuntimeError(f"{len(run.collector.strange)} messages not understood: {run.collector.strange[0]}")
    return figures


def plan(agents: list[Agent], scenarios: list[str], rounds: int) -> list[tuple[str, Agent]]:
    """The runs in their order: agents in turns."""
    return [
        (scenario, agent)
        for scenario in scenarios * rounds
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
    parser.add_argument("--work", type=Path, default=known / "peers/work", help="a folder for logs and the broker")
    parser.add_argument("--out", type=Path, default=known / "peers/results.jsonl")
    parser.add_argument("--rounds", type=int, default=3, help="how often all of it is done")
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
    if os.geteuid() != 0:
        print("root is needed: the agents write to a file system that is mounted for them", file=sys.stderr)
        return 77
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
            except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
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
