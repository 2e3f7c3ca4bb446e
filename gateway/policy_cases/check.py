"""Go through the case files of a policy folder: `cases/<policy file stem>.yaml`."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from gateway.core.errors import InvalidConfigError
from gateway.core.policy import PolicySet
from gateway.findings import Finding, Findings, errors_among, explain
from gateway.policy_cases.document import CaseDocument, CasesDocument
from gateway.policy_cases.run import differences
from gateway.rule_files.check import Checked
from gateway.rule_files.policies import keys_beside, read_policies
from gateway.settings import Settings, load_settings
from gateway.yaml_source import Key, MappingNode, line_of, plain, read_mapping

CASES = "cases"


def check_all_cases(config_file: Path | None) -> Iterator[Checked]:
    """Yield each case file of the policy folder in use, and of its rollouts."""
    try:
        folder = load_settings(config_file, {}).policies.dir
    except InvalidConfigError:
        folder = Settings().policies.dir
    rollouts = sorted(path for path in (folder / "rollout").glob("*") if path.is_dir())
    for one in (folder, *rollouts):
        yield from check_cases(one)


def check_cases(folder: Path) -> Iterator[Checked]:
    """Yield each case file of one policy folder; none while its policies have faults."""
    files = sorted(path for path in (folder / CASES).glob("*.y*ml") if path.name[0] != ".")
    if files and not errors_among(read_policies(folder)[1]):
        for file in files:
            yield _check_file(folder, file)


def _check_file(folder: Path, file: Path) -> Checked:
    findings = Findings(str(file))
    count = 0
    if file.suffix != ".yaml":
        findings.error("", None, "is not read", f"name it {file.stem}.yaml")
    elif not (folder / file.name).is_file():
        findings.error(
            "", None, f"has no policy file {folder / file.name}", "name it as its policy's file"
        )
    else:
        count = _run(folder, file, findings)
    faults = tuple(str(finding) for finding in findings.items)
    return Checked(str(file), faults, detail=f"{count} cases" if count != 1 else "1 case")


def _run(folder: Path, file: Path, findings: Findings) -> int:
    """Run all cases of a file; return how many there are."""
    root = read_mapping(file, findings)
    if root is None:
        return 0
    try:
        cases = CasesDocument.model_validate(plain(root)).cases
    except ValidationError as error:
        for fault in error.errors():
            problem, remedy = explain(fault, keys_beside(CasesDocument, fault["loc"]))
            key, line = ".".join(map(str, fault["loc"])), line_of(root, fault["loc"])
            findings.error(f"{_named(root, fault['loc'])}{key}", line, problem, remedy)
        return 0
    folders = _Folders(folder, file)
    for place, case in enumerate(cases):
        line = line_of(root, ("cases", place))
        for difference in _differences(folders, case, findings, line):
            remedy = "correct the policy, or what the case expects"
            findings.error(f"case {case.name!r}", line, difference, remedy)
    return len(cases)


class _Folders:
    """The policies of a folder as cases have them: with another mode, or keys changed."""

    def __init__(self, folder: Path, file: Path) -> None:
        self._folder, self._file = folder, file
        self._read: dict[str, tuple[PolicySet | None, list[Finding]]] = {}

    def under(self, case: CaseDocument) -> tuple[PolicySet | None, list[Finding]]:
        """Return the case's policies, None if its change is at fault, and all findings."""
        name = f"{case.mode} {json.dumps(case.change, sort_keys=True, default=str)}"
        if name not in self._read:
            changes = {self._file.name: case.change}
            self._read[name] = read_policies(self._folder, case.mode, changes)
        return self._read[name]


def _differences(
    folders: _Folders, case: CaseDocument, findings: Findings, line: int
) -> Sequence[str]:
    """Return how what comes of a case differs from what it expects; none if it cannot be run."""
    policies, found = folders.under(case)
    for fault in errors_among(found):
        key = f"case {case.name!r}: change{f'.{fault.key}' if fault.key else ''}"
        findings.error(key, line, fault.problem, fault.remedy)
    if policies is None:
        return ()
    unknown = sorted(set(case.given.windows) - {policy.name for policy in policies.spend_limit})
    for name in unknown:
        key = f"case {case.name!r}: given.windows.{name}"
        findings.error(key, line, "is no spend limit of this folder", "name it as its policy")
    return () if unknown else differences(case, policies)


def _named(root: MappingNode, key: Key) -> str:
    """Return which case a key is in, `case 'name': `, as far as it has a name."""
    values = plain(root)
    cases = values.get("cases")
    place = key[1] if len(key) > 1 else None
    case = cases[place] if isinstance(cases, list) and isinstance(place, int) else None
    name = case.get("name") if isinstance(case, dict) else None
    return f"case {name!r}: " if isinstance(name, str) else ""
