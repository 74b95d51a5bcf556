"""Run the code of a page of documentation in this process, as a reader would run it in a shell.

    python -m support.pages PAGE [--together]

runs all of it in the working directory; with ``--together`` the Python of the page is one program.
"""

import contextlib
import glob
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from inti_models.cli import main

_BLOCK = re.compile(r"^(?:<!-- (not run|slow): [^\n]+ -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^inti-models ((?:.*\\\n)*.*)$", re.MULTILINE)


def blocks(page: Path, slow: bool = False) -> Iterator[tuple[str, str]]:
    """Yield language and text of each block of code that is to be run; those marked slow only if asked for."""
    for mark, language, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if mark == "" or mark == "slow" and slow:
            yield language, text


def run_block(language: str, text: str) -> str:
    """Run a block in the working directory, Python in a namespace of its own, and return what it printed.

    Raises:
        AssertionError: `inti-models` returned another status than 0.
        CalledProcessError: another command of the shell failed.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if language == "python":
            exec(compile(text, "<page>", "exec"), {"__name__": "page"})
        elif language == "sh":
            _run_shell(text)
        else:
            raise ValueError(f"expected a block of sh or python, got {language}; mark it <!-- not run: reason -->")
    return printed.getvalue()


def _run_shell(text: str) -> None:
    """Call `main` for each line of `inti-models`; bash runs what is between them."""
    for i, part in enumerate(_COMMAND.split(text)):
        if i % 2:
            words = shlex.split(part.replace("\\\n", " "), comments=True)
            status = main([name for word in words for name in sorted(glob.glob(word)) or [word]])
            assert status == 0, f"inti-models {part}: {status}"
        elif part.strip():
            print(subprocess.run(["bash", "-euc", part], check=True, stdout=subprocess.PIPE, text=True).stdout, end="")


if __name__ == "__main__":
    page = list(blocks(Path(sys.argv[1]), slow=True))
    if "--together" in sys.argv:
        page = [("python", "\n".join(text for _, text in page))]
    for block in page:
        print(run_block(*block))
