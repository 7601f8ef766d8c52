"""Directories of results: new files replace those of an earlier run, and nothing else.

A JSON file in the directory, the listing, names under `outputs` the files that a run has made.
Only these are ever replaced or removed.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from ivf_core.system.atomic import write_json

__all__ = [
    "LISTING",
    "OutputError",
    "add_listed",
    "check_file",
    "check_folder",
    "check_inputs",
    "check_output",
    "file_names",
    "new_results",
    "remove_listed",
]

_log = logging.getLogger(__name__)

LISTING = "summary.json"
"""Name of the listing, unless a command has another."""


class OutputError(ValueError):
    """An output that is an input, or in which a result would replace something else."""


def check_inputs(output: Path, inputs: Iterable[Path]) -> None:
    """Raise if the output is one of the inputs, or contains one.

    Args:
        output: directory of the results, which may be missing.
        inputs: files and folders.

    Raises:
        OutputError: it does; names both.
    """
    place = output.resolve()
    for path in inputs:
        if path.resolve().is_relative_to(place):
            relation = "is" if path.resolve() == place else "contains"
            raise OutputError(
                f"output '{output}': it {relation} the input '{path}'; choose another place"
            )


def check_file(
    output: Path, inputs: Iterable[Path], is_ours: Callable[[Path], bool], kind: str
) -> None:
    """Raise if a file to write is an input, or would replace something that is not of its kind.

    Args:
        output: file to write, which may be missing.
        inputs: files and folders.
        is_ours: tells of an existing file whether this package has written it.
        kind: what the file is, in words, for the message.

    Raises:
        OutputError: it is or would; names the file.
    """
    check_inputs(output, inputs)
    if output.is_dir():
        raise OutputError(f"output '{output}': it is a folder, expected a file to write")
    if os.path.lexists(output) and not (output.is_file() and is_ours(output)):
        raise OutputError(
            f"output '{output}': it is there already, and no {kind}; choose another name"
        )


def check_folder(output: Path, inputs: Iterable[Path]) -> None:
    """Raise if a folder to write into is a file, or is or contains an input.

    Args:
        output: directory of the results, which may be missing.
        inputs: files and folders.

    Raises:
        OutputError: it is one or does; names both.
    """
    check_inputs(output, inputs)
    if output.exists() and not output.is_dir():
        raise OutputError(f"output '{output}': it is a file, expected a folder")


def check_output(output: Path, names: Iterable[str], listing: str = LISTING) -> None:
    """Raise if a result would replace something that no earlier run has made.

    Args:
        output: directory of the results, which may be missing.
        names: names of results in it, files and folders; a folder may exist if all that it
            holds is listed.
        listing: name of the JSON file that lists the results of an earlier run.

    Raises:
        OutputError: it would; names the file.
    """
    check_folder(output, ())
    ours = _listed(output, listing)
    for name in (*names, listing):
        path = output / name
        if not os.path.lexists(path):
            continue
        if path.is_dir() and not path.is_symlink():
            held = [f"{name}/{inner}" for inner in file_names(path)]
            foreign = [inner for inner in held if inner not in ours]
            if foreign or not held:
                _raise(output, foreign[0] if foreign else name, listing)
        elif name not in ours or path.is_symlink():
            _raise(output, name, listing)


def file_names(folder: Path) -> list[str]:
    """Return the files under a folder, relative to it and with "/"; links are not followed.

    Args:
        folder: directory.
    """
    found = []
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if Path(place, name).is_symlink()]
        for name in (*files, *links):
            found.append(Path(place, name).relative_to(folder).as_posix())
    return sorted(found)


def add_listed(output: Path, names: Iterable[str], listing: str = LISTING) -> None:
    """List further files that a run has made.

    Args:
        output: directory of the results.
        names: files, relative to it and with "/".
        listing: name of the JSON file that lists them.
    """
    content = json.loads((output / listing).read_text(encoding="utf-8"))
    content["outputs"] = sorted({*content["outputs"], *names})
    write_json(output / listing, content)


def remove_listed(output: Path, listing: str = LISTING, keep: Path | None = None) -> None:
    """Remove the results of an earlier run, and folders that are empty without them.

    Args:
        output: directory of the results.
        listing: name of the JSON file that lists them; it goes first.
        keep: file or folder that stays, or None.
    """
    ours = _listed(output, listing)
    for name in sorted(ours, key=lambda one: one != listing):
        path = output / name
        if path.is_symlink() or not path.is_file() or _is_behind_link(output, path):
            continue
        if keep is not None and path.resolve().is_relative_to(keep.resolve()):
            continue
        path.unlink()
        for folder in path.parents:
            if folder == output:
                break
            with suppress(OSError):  # other files are in it
                folder.rmdir()


@contextmanager
def new_results(
    output: Path,
    names: Iterable[str],
    inputs: Iterable[Path] = (),
    listing: str = LISTING,
    keep: Path | None = None,
) -> Iterator[Path]:
    """Create a temporary folder whose files replace those of an earlier run at the block's end.

    The block writes the listing as well, with `outputs` from `file_names`. After an error the
    output stays as it was; a folder that has files by then is kept as OUTPUT.unfinished.

    Args:
        output: directory of the results; missing folders are created.
        names: names of the results, to be checked before the work.
        inputs: files and folders that the output must not contain.
        listing: name of the listing.
        keep: an earlier result that is read, and stays; or None.

    Raises:
        OutputError: from `check_inputs` and `check_output`.
    """
    names = list(names)
    check_inputs(output, inputs)
    check_output(output, names, listing)
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    folder.chmod(0o755)
    try:
        yield folder
        made = {name.split("/")[0] for name in file_names(folder)}
        check_output(output, {*names, *made}, listing)  # it may have changed meanwhile
        output.mkdir(exist_ok=True)
        remove_listed(output, listing, keep)
        # The listing comes last: it marks a finished run.
        for name in sorted(file_names(folder), key=lambda one: one == listing):
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).replace(output / name)
    except BaseException:
        kept = _keep(folder, output)
        if kept is not None:
            _log.warning("what was finished is in '%s'", kept)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _keep(folder: Path, output: Path) -> Path | None:
    """Rename a folder with files to a name beside the output; return the name."""
    if not file_names(folder):
        return None
    for number in range(1, 1000):
        kept = output.with_name(f"{output.name}.unfinished" + (f"_{number}" if number > 1 else ""))
        if not os.path.lexists(kept):
            folder.rename(kept)
            return kept
    return None


def _listed(output: Path, listing: str) -> set[str]:
    """Return the names that the listing holds, with its own; none where it is not ours."""
    path = output / listing
    if path.is_symlink():
        return set()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = content["outputs"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    if not isinstance(names, list):
        return set()
    return {name for name in names if isinstance(name, str) and _is_inside(name)} | {listing}


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts


def _is_behind_link(output: Path, path: Path) -> bool:
    inside = [folder for folder in path.parents if output in folder.parents]
    return any(folder.is_symlink() for folder in inside)


def _raise(output: Path, name: str, listing: str) -> None:
    raise OutputError(
        f"output '{output}': {name} is there already, and no {listing} of an earlier run lists it; "
        "choose another folder"
    )
