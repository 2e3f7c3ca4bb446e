"""Add a task to a roadmap's text. Not a byte of what was there is changed; no I/O.

A roadmap is a list of tasks, either the whole file or below the key `tasks`, each with an `id`; or
a mapping of tasks by their ids below `tasks`. The task is put behind the last one, in its
indentation. Round trips through a YAML library would reformat what people wrote; so the text is cut
at the place that the parser names, and what comes out is parsed again: it must be what went in, and
the task.
"""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from gateway.core.errors import TollgateError
from gateway.core.remediation import told_apart

_TASKS = "tasks"
_EMPTY = ("tag:yaml.org,2002:null", "")
_MOST_BYTES = 16 * 1024 * 1024

Task = Mapping[str, Any]


class RoadmapError(TollgateError):
    """A roadmap to which a task cannot be added; the message names the remedy."""


def with_task(text: str, task: Task) -> str | None:
    """Return the text with a task added, None if it is there already.

    `task` has an `id` and a `budget_breach`. Where a task of that id is about another breach, it
    gets another one (`told_apart`). Raises RoadmapError.
    """
    if len(text) > _MOST_BYTES:
        raise RoadmapError(f"is larger than {_MOST_BYTES:,} characters. Remedy: archive old tasks.")
    root = _compose(text)
    tasks = _tasks_of(root)
    if tasks is not None:
        if _is_taken(tasks, task):
            other = told_apart(task["id"], int(task["budget_breach"]["episode"]))
            task = {**task, "id": other}
        if _has(tasks, task):
            return None
    try:
        for made in _added(text, root, tasks, task):
            if _is_what_was_meant(tasks, made, task):
                return made
    except RecursionError:  # an anchor within itself
        pass
    raise _unreadable("has a layout that does not take another task")


def _is_what_was_meant(tasks: yaml.CollectionNode | None, made: str, task: Task) -> bool:
    """Return whether the tasks of a text are those from before, and the new one behind them."""
    try:
        after = _tasks_of(_compose(made))
    except RoadmapError:
        return False
    before = [] if tasks is None else list(map(_shape, _items(tasks)))
    return (
        after is not None and list(map(_shape, _items(after)))[:-1] == before and _has(after, task)
    )


# Read ---------------------------------------------------------------------------------------------


def _compose(text: str) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise RoadmapError(f"is no YAML{where}. Remedy: correct it.") from None
    return node


def _tasks_of(root: yaml.Node | None) -> yaml.CollectionNode | None:
    """Return the list or mapping of tasks, None if there is none yet."""
    tasks = root
    if isinstance(root, yaml.MappingNode):
        tasks = next((value for key, value in root.value if key.value == _TASKS), None)
    if tasks is None or (isinstance(tasks, yaml.ScalarNode) and not tasks.value):
        return None
    if isinstance(tasks, yaml.SequenceNode) or (
        isinstance(tasks, yaml.MappingNode) and tasks is not root
    ):
        return tasks
    raise _unreadable(f"has no list of tasks below the key {_TASKS}")


def _unreadable(problem: str) -> RoadmapError:
    return RoadmapError(
        f"{problem}. Remedy: write the tasks as a block list, `{_TASKS}:` and `- id: ...` below."
    )


def _items(tasks: yaml.CollectionNode) -> list[Any]:
    items: list[Any] = tasks.value
    return items


def _has(tasks: yaml.CollectionNode, task: Task) -> bool:
    """Return whether the task is there; one of its name about another breach is an error."""
    if other := _is_taken(tasks, task):
        raise RoadmapError(
            f"has a task {task['id']} about another breach ({other}). Remedy: rename that one."
        )
    return any(name == task["id"] for name, _ in _named(tasks))


def _is_taken(tasks: yaml.CollectionNode, task: Task) -> str:
    """Return what a task of the same name is about, if that is another breach; empty if not."""
    for name, node in _named(tasks):
        if name == task["id"]:
            breach = _member(node, "budget_breach")
            is_about = [_text(_member(breach, key)) for key in ("task", "episode")]
            wanted = [str(task["budget_breach"][key]) for key in ("task", "episode")]
            return "" if is_about in (wanted, ["", ""]) else " ".join(is_about)
    return ""


def _named(tasks: yaml.CollectionNode) -> Iterator[tuple[str, yaml.Node]]:
    for item in _items(tasks):
        if isinstance(tasks, yaml.MappingNode):
            yield _text(item[0]), item[1]
        else:
            yield _text(_member(item, "id")), item


def _member(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if _text(name) == key), None)


def _text(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _shape(node: Any) -> Any:
    """Return a node as a value: tags and texts, whatever it looks like."""
    if isinstance(node, tuple):
        return tuple(map(_shape, node))
    if isinstance(node, yaml.ScalarNode):
        return node.tag, node.value
    return node.tag, tuple(map(_shape, node.value))


# Write --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the task goes: a place in the text, and the column of its first character."""

    at: int
    column: int


def _added(
    text: str, root: yaml.Node | None, tasks: yaml.CollectionNode | None, task: Task
) -> Iterator[str]:
    """Yield texts with the task added; the first that is what was meant is taken."""
    newline = "\r\n" if "\r\n" in text else "\n"
    if tasks is None or not tasks.value:
        yield _begun(text, root, tasks, newline, task)
        return
    if tasks.flow_style:
        raise _unreadable("has its tasks in brackets")
    column = tasks.start_mark.column
    block = _block(task, isinstance(tasks, yaml.SequenceNode), column, newline)
    for at in (_end_of(text, tasks), _line_behind(text, tasks.end_mark)):
        yield _spliced(text, _Place(at, column), block, newline)


def _begun(
    text: str,
    root: yaml.Node | None,
    tasks: yaml.CollectionNode | None,
    newline: str,
    task: Task,
) -> str:
    """Return the text with its first task."""
    block = _block(task, True, 2, newline)
    if root is None:
        return _spliced(text, _Place(len(text), 0), f"{_TASKS}:{newline}{block}", newline)
    if not isinstance(root, yaml.MappingNode):
        raise _unreadable("has an empty list for its tasks")
    for key, value in root.value:
        if key.value == _TASKS:
            start, end = (tasks or value).start_mark.index, (tasks or value).end_mark.index
            cut = text[:start].rstrip(" ") + text[end:] if tasks is not None else text
            line_end = cut.find("\n", key.end_mark.index)
            at = len(cut) if line_end < 0 else line_end + 1
            return _spliced(cut, _Place(at, 2), block, newline)
    return _spliced(text, _Place(len(text), 0), f"{_TASKS}:{newline}{block}", newline)


def _end_of(text: str, node: yaml.Node) -> int:
    """Return where the line behind a block collection's last value begins."""
    seen = [node]
    while isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1]
        if isinstance(last, tuple):
            key, last = last
            if (last.tag, getattr(last, "value", None)) == _EMPTY:
                last = key
        if last.start_mark.index < node.start_mark.index or last in seen:  # stands elsewhere
            break
        seen.append(last)
        node = last
    return _line_behind(text, node.end_mark)


def _line_behind(text: str, mark: yaml.Mark) -> int:
    """Return where the next line begins; a mark at a line's beginning is behind block text."""
    if mark.column == 0 and mark.index > 0:
        return int(mark.index)
    end = text.find("\n", mark.index)
    return len(text) if end < 0 else end + 1


def _spliced(text: str, place: _Place, block: str, newline: str) -> str:
    before = text[: place.at]
    if before and not before.endswith("\n"):
        before += newline
    return before + block + text[place.at :]


def _block(task: Task, is_list: bool, column: int, newline: str) -> str:
    document: Any = [dict(task)]
    if not is_list:
        document = {task["id"]: {key: value for key, value in task.items() if key != "id"}}
    written = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return textwrap.indent(written, " " * column).replace("\n", newline)
