"""The config groups and their options, as `--help` shows them.

Every file of a group begins with a comment of one line that says what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

WIDTH = 98


def config_folder() -> Path:
    """conf/, inside the installed package or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def describe_options() -> str:
    """Groups of the verb that is asked for, with their options; a star marks what is chosen.

    A user's own folder of options (`--config-dir`) is shown with the rest.
    """
    runtime = HydraConfig.get().runtime
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    chosen = runtime.choices
    lines = []
    for group in list(chosen)[::-1]:  # in the order of the defaults list
        files = files_of_group(str(group), folders)
        if not files:
            continue
        lines.append(f"{group}=")
        width = max(len(file.stem) for file in files)
        for file in files:
            mark = "*" if file.stem == chosen[group] else " "
            margin = f"  {mark} {file.stem:<{width}}  "
            lines += wrap(
                _first_comment(file),
                WIDTH,
                initial_indent=margin,
                subsequent_indent=" " * len(margin),
            ) or [margin.rstrip()]
    # Hydra fills the template with string.Template, to which a dollar sign is special.
    return "\n".join(lines).replace("$", "$$")


def files_of_group(group: str, folders: Sequence[Path]) -> list[Path]:
    """The group's option files by name; the first folder that has a name wins."""
    found: dict[str, Path] = {}
    for folder in folders:
        for file in (folder / group).glob("*.yaml"):
            found.setdefault(file.stem, file)
    return [found[name] for name in sorted(found)]


def top_level_keys(file: Path) -> set[str]:
    """The keys that an option file defines itself."""
    content = OmegaConf.load(file)
    return {str(key) for key in content} - {"defaults", "_target_"}


def _first_comment(file: Path) -> str:
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if line.startswith("#") and not text.startswith("@package"):
            return text
        if not line.startswith("#"):
            break
    return ""
