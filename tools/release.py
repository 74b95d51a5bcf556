"""Build a release and try it as its users will: everything but the upload.

    python tools/release.py [--output dist] [--check]

Builds sdist and wheel, installs each in an empty environment, labels a clip there, runs README's code with the extras
that README names, and checks that version, tag and CHANGELOG belong together. Exits with 1 if anything is wrong, and
prints all of it. --check only checks.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.environments import extras_named  # noqa: E402

MODEL = "inti_vit_t8_32_motiondigits"


def faults(version: str, changelog: str, citation: str, requirements: str, tags: list[str], changed: str) -> list[str]:
    """Return what keeps a version from being released, a sentence each.

    Args:
        version: version of the package.
        changelog, citation, requirements: text of CHANGELOG.md, CITATION.cff and hub/space/requirements.txt.
        tags: tags of the commit that is checked out.
        changed: paths that differ from it, as git prints them.
    """
    found = []
    heading = next(iter(re.findall(r"^## (.*)", changelog, re.MULTILINE)), "")
    if not re.fullmatch(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", heading):
        found.append(f"CHANGELOG.md begins with {heading!r}; expected '{version} (YEAR-MONTH-DAY)'.")
    if f"\nversion: {version}\n" not in citation:
        found.append(f"CITATION.cff has a version other than {version}; write the package's.")
    if f"inti_models-{version}-" not in requirements:
        found.append(f"hub/space/requirements.txt names a wheel other than that of {version}; write {version}.")
    if f"v{version}" not in tags:
        found.append(f"The commit has the tags {tags}; expected v{version} among them: git tag v{version}.")
    if changed:
        found.append(f"There are uncommitted changes, such as {changed.splitlines()[0].strip()}; commit them.")
    return found


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def try_out(file: Path, folder: Path, clip: Path, expected: str, version: str) -> str:
    """Install a file in an empty environment; label a clip and run README's code; return what is wrong there."""
    python = folder / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    subprocess.run([*uv, "pip", "install", "--quiet", "--python", str(python), str(file)], check=True)
    command = [str(python), "-m", "inti_models"]
    said = subprocess.run(
        [*command, "--version"], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.split()
    if said[-1] != version:
        return f"{file.name} says that it is version {said[-1]}; expected {version}."
    label = [*command, "predict", str(clip), "--model", MODEL, "--topk", "1", "--json"]
    printed = subprocess.run(label, cwd=folder, check=True, capture_output=True, text=True).stdout
    name = json.loads(printed)["labels"][0]["name"]
    if name != expected:
        return f"{file.name} labels a clip of {expected!r} as {name!r}."
    readme, work = ROOT / "README.md", folder / "work"
    wanted = f"inti_models[{','.join(extras_named(readme))}] @ {file.resolve().as_uri()}"
    subprocess.run([*uv, "pip", "install", "--quiet", "--python", str(python), wanted], check=True)
    work.mkdir()
    run = subprocess.run(
        [str(python), "-m", "support.pages", str(readme)],
        cwd=work,
        check=False,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
    )
    return "" if run.returncode == 0 else f"The code of README.md does not run with {file.name}; see above."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--check", action="store_true", help="only check; build and install nothing")
    args = parser.parse_args()

    from inti_models import __version__
    from inti_models.data import write_video
    from inti_models.data.motion_digits import CLASS_NAMES, MotionDigits

    names = ("CHANGELOG.md", "CITATION.cff", "hub/space/requirements.txt")
    changelog, citation, requirements = ((ROOT / name).read_text(encoding="utf-8") for name in names)
    tags, changed = git("tag", "--points-at", "HEAD").split(), git("status", "--porcelain")
    wrong = faults(__version__, changelog, citation, requirements, tags, changed)
    if not args.check:
        subprocess.run([sys.executable, "-m", "build", "--outdir", str(args.output), str(ROOT)], check=True)
        with tempfile.TemporaryDirectory() as folder:
            frames, label = MotionDigits("validation")[1]
            clip = Path(folder, "clip.mp4")
            write_video(clip, frames, fps=8)
            for file in sorted(args.output.glob(f"inti_models-{__version__}*")):
                print(f"{file}: installing it in an empty environment", flush=True)
                environment = Path(folder, file.suffix.strip("."))
                wrong += filter(None, [try_out(file, environment, clip, CLASS_NAMES[label], __version__)])
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    if not wrong:
        print(f"{args.output} is ready. Nothing was uploaded; that is: python -m twine upload {args.output}/*")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
