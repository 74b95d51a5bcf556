"""Publish the models that are made here to an organisation on the Hugging Face Hub.

    python hub/push.py ORG             say what would be uploaded, and upload nothing
    python hub/push.py ORG --really    upload it

It needs a token that may write to ORG, from HF_TOKEN or `hf auth login`.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from build import HUB, assemble, published
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.utils import validate_repo_id

from inti_models.weights.download import hub_errors


def push(folder: Path, repo_id: str, private: bool) -> str:
    """Upload a folder as one commit, to a repository that is made if there is none. Returns the commit's address.

    Raises:
        OSError: the Hub refuses, or cannot be reached.
    """
    api = HfApi()
    with hub_errors(repo_id, "the upload"):
        ModelCard.load(folder / "README.md").validate()
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=f"Publish {folder.name}"
        ).commit_url


def main(argv: Sequence[str] | None = None, hub: Path = HUB) -> int:
    """Run the command on the models of ``hub``. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("organisation", metavar="ORG", help="organisation or user on the Hub")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this model; may be repeated")
    parser.add_argument("--private", action="store_true", help="make new repositories private")
    parser.add_argument("--really", action="store_true", help="upload; without it nothing is")
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as output:
            for model in published(args.only, hub):
                repo_id = f"{args.organisation}/{model.name}"
                with hub_errors(repo_id, "the upload"):
                    validate_repo_id(repo_id)
                folder = assemble(model, Path(output), args.organisation)
                print(f"{repo_id}{' (private)' if args.private else ''}")
                for file in sorted(folder.rglob("*")):
                    print(f"  {file.relative_to(folder)}  {file.stat().st_size:,} bytes")
                if args.really:
                    print(f"  published: {push(folder, repo_id, args.private)}")
        if not args.really:
            print("Nothing was uploaded; add --really to do it.")
    except (OSError, ValueError, RuntimeError) as error:
        print(f"push: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
