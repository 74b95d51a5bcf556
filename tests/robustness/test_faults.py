"""A short form of what `make faults` does at length."""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def run(script, *args):
    return subprocess.run([sys.executable, str(script), *map(str, args)], capture_output=True, text=True)


def test_killed_and_hindered_processes_lose_nothing(tmp_path):
    jobs = ("train", "save", "push", "download")
    done = run(HERE / "faults.py", "--times", 4, "--output", tmp_path / "result.json", *jobs)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert not result["failures"]
    for job in jobs:
        assert result[job]["killed"] == 4
        assert result[job]["finished after all"] == result[job]["read-only"] == 1


DAMAGES = """
import sys
sys.path.insert(0, HERE)
import faults

def torn(folder, say):
    faults.save(folder, say)
    (folder / "model" / "model.safetensors").write_bytes(b"torn")

def early(folder, say):
    say(99)
    faults.save(folder, say)

for work in (torn, early):
    faults.JOBS[work.__name__] = faults.Job(work, faults.saved)
if __name__ == "__main__":
    sys.exit(faults.main())
"""


def test_what_is_damaged_or_lost_is_found(tmp_path):
    (tmp_path / "damages.py").write_text(DAMAGES.replace("HERE", repr(str(HERE))))
    done = run(tmp_path / "damages.py", "--times", 1, "--output", tmp_path / "result.json", "torn", "early")
    assert done.returncode == 1
    failures = json.loads((tmp_path / "result.json").read_text())["failures"]
    for job, wrong in (("torn", "damaged: ValueError"), ("early", "lost: version")):
        assert any(failure["job"] == job and failure["wrong"].startswith(wrong) for failure in failures), failures
