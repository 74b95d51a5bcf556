"""How long the command takes to start, beside importing timm: in separate processes, in turns.

    python benchmarks/start_up.py [--repeats 5] [--output FILE]

CPU time of each process, which other work on the machine affects less than wall-clock time. Writes
results/start_up_cpu.json.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from report import machine, report
from tqdm import tqdm

RESULTS = Path(__file__).parent / "results" / "start_up_cpu.json"
IMPORT = 'python -c "import timm"'
COMMANDS = {
    IMPORT: ["-c", "import timm"],
    **{f"inti-models {word}": ["-m", "inti_models", word] for word in ("list", "--help", "--version")},
}


def cpu_seconds(arguments: list[str]) -> float:
    """Return the CPU time of a Python process with these arguments."""
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} exited with {process.returncode}.")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file to write")
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {what: [] for what in COMMANDS}
    for _ in tqdm(range(args.repeats)):
        for what, arguments in COMMANDS.items():
            seconds[what].append(cpu_seconds(arguments))
    rows = [
        {
            "what": what,
            "cpu_seconds": round(statistics.median(times), 3),
            "ratio": round(statistics.median(a / b for a, b in zip(times, seconds[IMPORT], strict=True)), 3),
        }
        for what, times in seconds.items()
    ]
    report({"machine": machine(torch.device("cpu")), "repeats": args.repeats, "rows": rows}, args.output)


if __name__ == "__main__":
    main()
