"""What this machine lacks of the files and folders that a configuration names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from agent.config.checks.crosschecks import section_of
from agent.config.problems import Problem, at
from agent.config.sections.serve import fault_of_metrics_file
from agent.config.shape import KeyPath
from agent.config.state_dir import resolved_path
from agent.demo import demo_package
from engines import StrictDocument, path_exists

DEMO = "demo"
"""What a configuration writes for the bundled package and clip."""
_NEEDED = {"file": "path", "images": "path", "http": "ca_file", "stream": "ca_file"}
"""By type of source, the key whose file must be there at the start; a watched folder may come later."""
_OTHER_KIND = {
    ("file", "path"): (Path.is_dir, "a folder, but `type: file` reads one video; for a folder use `type: images`"),
    ("image", "path"): (Path.is_dir, "a folder, but `type: image` reads one file; for a folder use `type: folder`"),
    ("folder", "path"): (Path.is_file, "a file, but `type: folder` watches a folder; for a file use `type: image`"),
    ("folder", "move_to"): (Path.is_file, "a file, but images are moved to a folder; name another"),
}


def package_dir(package: str, base_dir: Path) -> Path:
    """The directory of a package as a configuration names it."""
    return demo_package() if package == DEMO else resolved_path(package, base_dir)


def file_problems(document: StrictDocument, base_dir: Path) -> Iterator[Problem]:
    """What the machine lacks of the named files, and folders that cannot be watched as they are named.

    From the file's plain data, so that missing files are reported together with other faults.
    """
    for name, model in section_of(document.data, "models").items():
        named = section_of(model).get("package")
        if not isinstance(named, str):
            continue
        package = package_dir(named, base_dir)
        path: KeyPath = ("models", name, "package")
        text = f"there is no directory {package}; make one with: agent model import FILE.onnx"
        problem = _absence(package, Path.is_dir, text) or _absence(
            package / "model.yaml", Path.is_file, f"{package} has no model.yaml, so it is not a model package"
        )
        if problem is not None:
            yield at(document, path, problem)
    for name, camera in section_of(document.data, "cameras").items():
        for key, problem in _faults_of_source(section_of(camera, "source"), base_dir):
            yield at(document, ("cameras", name, "source", key), problem)
    yield from _missing_connection_files(document, base_dir)
    yield from _folder_problems(document, base_dir)


def _missing_connection_files(document: StrictDocument, base_dir: Path) -> Iterator[Problem]:
    """Certificates, keys and tokens of the connections, and what the metrics would replace."""
    for section in (("mqtt", "tls"), ("serve", "tls")):
        for key, value in section_of(document.data, *section).items():
            # The password of a key: see _secrets.
            if not isinstance(value, str) or not key.endswith("_file") or key == "key_password_file":
                continue
            found = resolved_path(value, base_dir)
            if (problem := _missing_file(found)) is not None:
                yield at(document, (*section, key), problem)
    tokens_file = section_of(document.data, "serve").get("tokens_file")
    if isinstance(tokens_file, str):
        found = resolved_path(tokens_file, base_dir)
        if (problem := _missing_file(found, "; make it with a line NAME TOKEN for each client")) is not None:
            yield at(document, ("serve", "tokens_file"), problem)
    metrics_file = section_of(document.data, "serve").get("metrics_file")
    if isinstance(metrics_file, str) and metrics_file.endswith(".prom"):
        # What cannot be looked at is for the run to say: its user may differ.
        with suppress(OSError):
            if (problem := fault_of_metrics_file(resolved_path(metrics_file, base_dir))) is not None:
                yield at(document, ("serve", "metrics_file"), problem)


def _faults_of_source(source: Mapping[str, object], base_dir: Path) -> Iterator[tuple[str, str]]:
    """The keys of a source that name what is missing or something of another kind."""
    kind = source.get("type")
    for key in ("path", "move_to", "ca_file"):
        place = source.get(key)
        if not isinstance(place, str) or not isinstance(kind, str) or (kind == "file" and place == DEMO):
            continue
        found = resolved_path(place, base_dir)
        problem = _fault_of_path(place, found, kind)
        if problem is None and _NEEDED.get(kind) == key:
            problem = _absence(found, Path.exists, f"there is no {found}")
        look, text = _OTHER_KIND.get((kind, key), (None, ""))
        if problem is None and look is not None and _absence(found, look, "other") is None:
            problem = f"{found} is {text}"
        if problem is not None:
            yield key, problem


def _fault_of_path(place: str, found: Path, kind: str) -> str | None:
    """An address or a pattern where a path belongs."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", place):
        return f"is an address, but `type: {kind}` reads files; for an address write `type: rtsp`, `http` or `stream`"
    if not set(place) & set("*?["):
        return None
    text = f"there is no {found}, and a pattern is not expanded; name one file, or a folder for all its images"
    return _absence(found, Path.exists, text)


def _folder_problems(document: StrictDocument, base_dir: Path) -> Iterator[Problem]:
    """Watched folders whose images would be read for ever, or reach one of two cameras by chance."""
    first: dict[str, str] = {}
    for name, camera in section_of(document.data, "cameras").items():
        source, place = section_of(camera, "source"), ("cameras", name, "source")
        path, move_to = source.get("path"), source.get("move_to")
        if source.get("type") != "folder" or not isinstance(path, str):
            continue
        folder = os.path.realpath(resolved_path(path, base_dir))
        if isinstance(move_to, str) and os.path.realpath(resolved_path(move_to, base_dir)) == folder:
            text = (
                f"must be another folder, but it is {folder}, which is the watched folder `path`; name another, for "
                "example one in it: subfolders are left alone"
            )
            yield at(document, (*place, "move_to"), text)
        is_off = section_of(camera).get("enabled") is False
        if not is_off and (other := first.setdefault(folder, name)) != name:
            text = (
                f"is {folder}, but camera {other} watches that folder too, and each image is taken once; name another "
                f"folder, or list both classifiers under `classify` of {other}"
            )
            yield at(document, (*place, "path"), text)


def _absence(path: Path, look: Callable[[Path], bool], otherwise: str) -> str | None:
    """The problem with a path that does not exist, or cannot be reached; None if it exists."""
    try:
        return None if path_exists(path, look) else otherwise
    except PermissionError as exc:
        return (
            f"{path} cannot be reached ({exc.strerror}) by user number {os.geteuid()}, who runs the agent; give that "
            "user the right to enter every folder of the path, or move what is there, for example below /etc/agent"
        )
    except OSError as exc:
        return f"{path} cannot be reached ({exc.strerror}); correct the path"


def _missing_file(path: Path, remedy: str = "") -> str | None:
    """The problem with a path that must be a file; ``remedy`` is for one where there is nothing."""
    problem = _absence(path, Path.is_file, f"there is no file {path}{remedy}")
    if problem is not None:
        with suppress(OSError):
            if path.exists():
                return (
                    f"must be a file, but {path} is {'a folder' if path.is_dir() else 'no regular file'}; name a file"
                )
    return problem
