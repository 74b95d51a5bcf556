"""Time and memory of loading a model from a local file, beside the minimum that it could take.

    python benchmarks/load_time.py [--repeats 5] [--output FILE]

The minimum: `safetensors.torch.load_file`, the digest of its tensors, and building the model with timm. Every repeat is
a separate process, in turns; peak memory is the highest resident size above that after the imports (Linux). Writes
results/load_time_cpu.json.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from report import machine, report
from tqdm import tqdm

import inti_models
from inti_models.models.registry import create_model

RESULTS = Path(__file__).parent / "results" / "load_time_cpu.json"
MEASURE = """
import sys, time
import safetensors.torch, timm, torch
import inti_models
from inti_models.weights.tensor_files import digest

name, folder, what = sys.argv[1:]

def kib(key):
    return int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1])

open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = kib("VmRSS")
start = time.perf_counter()
if what == "least":
    tensors = safetensors.torch.load_file(folder + "/model.safetensors")
    digest(tensors)
    model = timm.create_model(name)
else:
    model = inti_models.load("local-dir:" + folder)
seconds = time.perf_counter() - start
print(seconds, kib("VmHWM") - before)
"""


def measure(name: str, folder: Path, what: str) -> tuple[float, float]:
    """Return the seconds and MiB of one load in a fresh process."""
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, name, str(folder), what]
    seconds, kib = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(seconds), float(kib) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="inti_vit_b16_k400")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file to write")
    args = parser.parse_args()

    seconds: dict[str, list[float]] = {"least": [], "load": []}
    mebibytes: dict[str, list[float]] = {"least": [], "load": []}
    with tempfile.TemporaryDirectory() as folder:
        inti_models.save_pretrained(create_model(args.model), folder)
        size = (Path(folder) / "model.safetensors").stat().st_size / 2**20
        for _ in tqdm(range(args.repeats)):
            for what in seconds:
                time, memory = measure(args.model, Path(folder), what)
                seconds[what].append(time)
                mebibytes[what].append(memory)
    median = {what: statistics.median(values) for what, values in seconds.items()}
    peak = {what: max(values) for what, values in mebibytes.items()}
    result = {
        "model": args.model,
        "file_mib": round(size, 1),
        "seconds": {what: round(value, 3) for what, value in median.items()},
        "time_ratio": round(median["load"] / median["least"], 3),
        "peak_mib": {what: round(value, 1) for what, value in peak.items()},
        "peak_to_file": round(peak["load"] / size, 3),
        "repeats": args.repeats,
        "machine": machine(torch.device("cpu")),
    }
    report(result, args.output)


if __name__ == "__main__":
    main()
