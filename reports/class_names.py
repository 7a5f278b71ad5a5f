"""Names of the classes or targets of a test."""

from collections.abc import Sequence


def class_names(results: dict, label_names: Sequence[str] | None = None) -> list[str]:
    """Return the names of the classes or targets: those given, else those in results.json, else the labels.

    Raises:
        ValueError: There are more or fewer names than classes.
    """
    count = results.get("classes") or results.get("num_classes") or len(results["target_names"])
    own = results.get("label_names") or results.get("target_names")
    names = label_names or own or [str(label) for label in range(count)]
    if len(names) != count:
        raise ValueError(f"there are {len(names)} label names and {count} classes or targets; give one name per line")
    return list(names)
