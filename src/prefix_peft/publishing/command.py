"""What can be asked of ``prefix-peft push`` and ``prefix-peft pull``, and their answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ..commands.option import option
from .pull import pull
from .push import push
from .target import Options, Target


@dataclass
class PushArguments:
    """prefix-peft push: publish a trained prefix on the Hugging Face Hub.

    ADAPTER is a directory as `prefix-peft train` leaves it, REPO_ID is OWNER/NAME, or NAME for one of your own. The
    prefix, its config and its model card go up, with the separator and the log of its training: never checkpoints,
    optimizer states or data that lie beside them. A card that you edited goes up as it is; one that was edited on the
    Hub stays as it is there.

      hf auth login                                                # once; HF_TOKEN does as well
      prefix-peft push my-prefix my-name/my-prefix --private
      prefix-peft push my-prefix my-name/my-prefix --base-model gpt2-medium    # trained on a copy of it on this machine
      prefix-peft push my-prefix my-name/my-prefix --revision longer --commit-message "40 virtual tokens"
      prefix-peft push my-prefix somebody/their-prefix --create-pr

    Others then load it by its name: AutoPeftModelForCausalLM.from_pretrained("my-name/my-prefix").
    """

    adapter: str = field(default="", metadata={"help": "The directory of the prefix.", "metavar": "ADAPTER"})
    repo_id: str = field(default="", metadata={"help": "Where on the Hub it goes.", "metavar": "REPO_ID"})
    base_model: str | None = option(
        None, "The base model's name on the Hub, for config and card. Default: what it was trained with, if it is one."
    )
    license: str | None = option(None, "Of the prefix, for its card: apache-2.0, mit, cc-by-4.0 ...")
    private: bool = option(False, "Make a repository that nobody else sees.")
    revision: str | None = option(None, "A branch, made if there is none. Default: main.")
    subfolder: str = option("", "Where in the repository it goes. Default: the top.")
    commit_message: str | None = option(None, 'Default: "Upload prefix".')
    create_pr: bool = option(False, "Open a pull request instead of changing the branch.")
    replace_card: bool = option(False, "Push the card even where the one on the Hub was edited there.")
    positional: ClassVar[tuple[str, ...]] = ("adapter", "repo_id")


@dataclass
class PullArguments:
    """prefix-peft pull: fetch a prefix from the Hugging Face Hub, and say what it is.

    REPO_ID is OWNER/NAME, DIR a directory that does not exist yet. What comes is looked at before anything is written:
    safetensors alone, whole, of a prefix of this library. No code of a repository ever runs.

      prefix-peft pull somebody/their-prefix their-prefix
      prefix-peft pull somebody/their-prefix their-prefix --revision longer
      prefix-peft inspect --adapter their-prefix
    """

    repo_id: str = field(default="", metadata={"help": "The repository.", "metavar": "REPO_ID"})
    directory: str = field(default="", metadata={"help": "Where it goes.", "metavar": "DIR"})
    revision: str | None = option(None, "A branch, a tag or a commit. Default: main.")
    subfolder: str = option("", "Where in the repository it lies. Default: at the top.")
    force: bool = option(False, "Replace the prefix in a directory that is there; other files of it stay.")
    positional: ClassVar[tuple[str, ...]] = ("repo_id", "directory")


def push_command(arguments: PushArguments) -> None:
    """Push; say what went up, where it is, and how to load it."""
    target = Target(
        arguments.repo_id, revision=arguments.revision, subfolder=arguments.subfolder,
        private=arguments.private or None, commit_message=arguments.commit_message, create_pr=arguments.create_pr,
    )  # fmt: skip
    options = Options(arguments.base_model, arguments.license, replace_card=arguments.replace_card)
    pushed = push(Path(arguments.adapter), target, options)
    print(f"{pushed.repo_id} has it now: {', '.join(pushed.files)}.\n{pushed.url}")
    for note in pushed.notes:
        print(f"Note: {note}")
    given = [("--revision", arguments.revision), ("--subfolder", arguments.subfolder)]
    more = "".join(f" {name} {value}" for name, value in given if value)
    print(f"Try it: prefix-peft pull {pushed.repo_id} {pushed.repo_id.split('/')[-1]}{more}")


def pull_command(arguments: PullArguments) -> None:
    """Pull; say what came, and how to use it."""
    pulled = pull(
        arguments.repo_id, Path(arguments.directory), arguments.revision, arguments.subfolder, arguments.force
    )
    width = max(map(len, pulled.facts))
    print("\n".join(f"{key:{width}}  {value}" for key, value in pulled.facts.items()))
    print(f"\n{pulled.how_to_use}")
