"""What the configuration says of labels, checked against the labels of the models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agent.config.loader import LoadedConfig
from agent.config.model import AgentConfig, ClassifierConfig
from agent.config.problems import Problem, at, error_of, suggestion
from agent.config.sections.decide import STALE, DecideConfig
from agent.config.shape import KeyPath
from engines import ModelPackage, Task


def check_labels(loaded: LoadedConfig, packages: Mapping[str, ModelPackage]) -> None:
    """Check gates and rules against the packages, by their key under ``models``; other models are not checked.

    Raises:
        ConfigError: see ``check_when_labels``, ``check_means`` and ``check_decide_labels``.
    """
    labels = {key: package.labels for key, package in packages.items()}
    check_when_labels(loaded, labels)
    check_means(loaded, packages)
    check_decide_labels(loaded, labels, stated_thresholds(packages))


def unknown_labels(loaded: LoadedConfig, packages: Mapping[str, ModelPackage]) -> Iterator[str]:
    """The rules of labels that the packages do not have; with ``check_labels`` passed they are overrides."""
    for name, camera in loaded.config.cameras.items():
        for use in camera.classify:
            package = packages.get(use.model)
            known = package.labels if package is not None and package.output.task is Task.MULTI_LABEL else ()
            for label in use.decide.labels:
                if package is not None and label not in known:
                    yield f"camera {name}, {use.key}: model {use.model} finds no label {label!r} any more"


def idle_thresholds(loaded: LoadedConfig, packages: Mapping[str, ModelPackage]) -> Iterator[str]:
    """The binary models whose stated threshold finds labels that `enter` then never confirms."""
    for name, camera in loaded.config.cameras.items():
        for use in camera.classify:
            package = packages.get(use.model)
            if package is None or package.output.task is not Task.BINARY or not package.output.stated:
                continue
            label, threshold = package.output.stated[0]
            lowest = round(min(threshold, 1 - threshold), 6)
            if lowest < use.decide.enter:
                yield (
                    f"camera {name}, {use.key}: model {use.model} states threshold {threshold:g} for {label!r}, so "
                    f"confidences begin at {lowest:g}, but those below enter {use.decide.enter:g} decide nothing; for "
                    f"every result to count set decide.enter to {lowest:g}, and decide.exit no higher"
                )


def questionable_means(loaded: LoadedConfig, packages: Mapping[str, ModelPackage]) -> Iterator[str]:
    """The ensembles that decide something else than two models' answer to one image."""
    for name, camera in loaded.config.cameras.items():
        by_key = {use.key: use for use in camera.classify}
        for use in camera.classify:
            partner = None if use.mean_with is None else by_key[use.mean_with]
            if partner is None or partner.model not in packages or use.model not in packages:
                continue
            fault = _questionable(partner, use, packages[partner.model], packages[use.model])
            if fault is not None:
                yield f"camera {name}, {use.key}: {fault}"


def _questionable(
    partner: ClassifierConfig, use: ClassifierConfig, first: ModelPackage, second: ModelPackage
) -> str | None:
    if partner.roi != use.roi:
        return (
            f"it sees the region {list(use.roi)}, but {partner.key}, whose mean it takes, sees {list(partner.roi)}, "
            "so they judge different images; give both the same roi, unless that is meant"
        )
    if (first.sha256, first.input, first.output) == (second.sha256, second.input, second.output):
        return (
            f"model {use.model} has the same model file as {partner.model}, but a mean needs two models; name another "
            "package"
        )
    if first.output.thresholds != second.output.thresholds:
        return (
            f"the packages of {partner.model} and {use.model} state different thresholds, but the mean is judged by "
            f"those of {use.model}; set decide.labels or decide.enter, or state the same ones"
        )
    return None


def stated_thresholds(packages: Mapping[str, ModelPackage]) -> dict[str, dict[str, float]]:
    """The models that find several labels, with the thresholds that their packages state."""
    several = {key: package for key, package in packages.items() if package.output.task is Task.MULTI_LABEL}
    return {key: dict(package.output.stated) for key, package in several.items()}


def check_when_labels(loaded: LoadedConfig, labels_by_model: Mapping[str, Sequence[str]]) -> None:
    """Refuse a gate that waits for a label which its model does not have.

    ``labels_by_model`` has the labels of each model by its key under ``models``; other models are not checked.

    Raises:
        ConfigError: with the line of each such label and the most similar one that exists.
    """
    problems: list[Problem] = []
    for name, camera in loaded.config.cameras.items():
        model_of = {use.key: use.model for use in camera.classify}
        for index, use in enumerate(camera.classify):
            if use.when is None or model_of[use.when.classifier] not in labels_by_model:
                continue
            model = model_of[use.when.classifier]
            known = labels_by_model[model]
            for position, label in enumerate(use.when.labels):
                if label not in known:
                    text = f"model {model} has no label `{label}`; it has {_some(known)}{suggestion(label, known)}"
                    path = ("cameras", name, "classify", index, "when", "labels", position)
                    problems.append(at(loaded.document, path, text))
    if problems:
        raise error_of(problems, loaded.document.name)


def check_means(loaded: LoadedConfig, packages: Mapping[str, ModelPackage]) -> None:
    """Refuse a mean of two models whose scores do not mean the same: other labels, another order, another task.

    Raises:
        ConfigError: with the line of each such `mean_with` and the first difference.
    """
    problems: list[Problem] = []
    for name, camera in loaded.config.cameras.items():
        model_of = {use.key: use.model for use in camera.classify}
        for index, use in enumerate(camera.classify):
            partner = None if use.mean_with is None else model_of[use.mean_with]
            if partner is None or partner not in packages or use.model not in packages:
                continue
            difference = _difference(packages[partner], packages[use.model])
            if difference is not None:
                text = (
                    f"{difference[0]} in model {partner}, but {difference[1]} in model {use.model}; a mean needs the "
                )
                path = ("cameras", name, "classify", index, "mean_with")
                problems.append(at(loaded.document, path, f"{text}same task and the same labels in the same order"))
    if problems:
        raise error_of(problems, loaded.document.name)


def _difference(first: ModelPackage, second: ModelPackage) -> tuple[str, str] | None:
    if first.output.task is not second.output.task:
        return f"output.task is {first.output.task.value}", second.output.task.value
    if len(first.labels) != len(second.labels):
        return f"there are {len(first.labels)} labels", str(len(second.labels))
    for place, (one, other) in enumerate(zip(first.labels, second.labels, strict=True)):
        if one != other:
            return f"label {place} is `{one}`", f"`{other}`"
    return None


def check_decide_labels(
    loaded: LoadedConfig,
    labels_by_model: Mapping[str, Sequence[str]],
    stated_by_model: Mapping[str, Mapping[str, float]],
) -> None:
    """Refuse rules of the file that do not fit the labels of the models.

    Models that are not in ``labels_by_model`` are skipped. ``stated_by_model`` has the models that find several
    labels, with the thresholds that their packages state. Overrides are not looked at: they must not prevent a start.

    Raises:
        ConfigError: with the line of each fault: a label that is also the word for "unsure" or "no results", a rule
            for a label that does not exist, or an `exit` above the `enter` of its label.
    """
    problems: list[Problem] = []
    for name, camera in AgentConfig.model_validate(loaded.document.data).cameras.items():
        for index, use in enumerate(camera.classify):
            if use.model in labels_by_model:
                path = ("cameras", name, "classify", index)
                stated = stated_by_model.get(use.model)
                faults = _label_faults(use, labels_by_model[use.model], stated)
                problems += [at(loaded.document, (*path, *below), text) for below, text in faults]
    if problems:
        raise error_of(problems, loaded.document.name)


def _label_faults(
    use: ClassifierConfig, labels: Sequence[str], stated: Mapping[str, float] | None
) -> Iterator[tuple[KeyPath, str]]:
    decide, below = use.decide, ("decide", "labels")
    if decide.unknown in labels:
        text = f"`{decide.unknown}` is the word while results confirm no label, but model {use.model} has a label with"
        yield ("decide", "unknown"), f"{text} this name; set decide.unknown to another word, such as unsure"
    if STALE in labels:
        text = f"`{STALE}` is the word while no results come, but model {use.model} has a label `{STALE}`"
        yield ("model",), f"{text}; give it another name in the labels file of the package"
    if stated is None:
        if decide.labels:
            text = f"rules of single labels need a package with output.task multi_label, but model {use.model} chooses"
            yield below, f"{text} one label; use enter, exit and votes of decide"
        return
    for label in decide.labels:
        if label not in labels:
            text = f"model {use.model} has no label `{label}`; it has {_some(labels)}{suggestion(label, labels)}"
            yield (*below, label), text
        elif (problem := exit_problem(decide, label, stated)) is not None:
            yield (*below, label), problem
    for label in sorted({one for one in labels if labels.count(one) > 1}):
        text = f"model {use.model} has several labels `{label}`, but a set has each label once"
        yield ("model",), f"{text}; give them names of their own in the labels file of the package"


def exit_problem(decide: DecideConfig, label: str, stated: Mapping[str, float]) -> str | None:
    """What is wrong with the `exit` of one label, whose `enter` may be that of the package."""
    own, enter = decide.labels[label].exit, decide.rule(label, stated=stated.get(label)).enter
    if own is None or own <= enter:
        return None
    return f"exit {own:g} is above the enter of `{label}`, {enter:g}; lower exit or raise its enter"


def _some(labels: Sequence[str], limit: int = 12) -> str:
    text = ", ".join(labels[:limit])
    return text if len(labels) <= limit else f"{text} and {len(labels) - limit} more"
