"""MyST Markdown of a chapter → plain Markdown, as Jupyter and Colab render it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pybtex.database import BibliographyData, parse_file
from pybtex.exceptions import PybtexError

from autograder.chapters import ChapterError

ADMONITIONS = ("note", "tip", "warning", "important", "seealso")
FENCE = re.compile(r"^(?P<fence>`{3,}|:{3,})\{(?P<name>[\w:-]+)\} *(?P<title>.*)$")
ROLE = re.compile(r"\{(?P<name>[\w:]+)\}`(?P<text>[^`]+)`")
LABELLED = re.compile(r"\$\$(?P<body>.+?)\$\$ *\((?P<label>[\w:-]+)\)", re.S)


class MystError(ValueError):
    """A directive or role that has no plain form here."""


@dataclass
class PlainMarkdown:
    """Converts the Markdown cells of one chapter, in order, so that equations are counted.

    Args:
        bibliography: for `{cite:t}` and `{cite:p}`.
        titles: title by chapter id, for `{doc}`.
    """

    bibliography: BibliographyData
    titles: dict[str, str]
    equations: dict[str, int] = field(default_factory=dict)

    def number_equations(self, sources: list[str]) -> None:
        """Number all labelled equations first, since a text may refer to a later one."""
        for source in sources:
            for match in re.finditer(r"^:label: *(\S+)|\$\$ *\(([\w:-]+)\)", source, re.M):
                self.equations[match.group(1) or match.group(2)] = len(self.equations) + 1

    def convert(self, source: str) -> str:
        """One cell.

        Raises:
            MystError: for a directive, role, citation or equation that is not known.
        """
        lines = source.split("\n")
        out: list[str] = []
        i = 0
        while i < len(lines):
            opening = FENCE.match(lines[i])
            if opening is None:
                out.append(lines[i])
                i += 1
                continue
            end = next(
                (j for j in range(i + 1, len(lines)) if lines[j].strip() == opening["fence"]), None
            )
            if end is None:
                raise MystError(f"the directive {{{opening['name']}}} is not closed")
            out += self._directive(opening["name"], opening["title"].strip(), lines[i + 1 : end])
            i = end + 1
        text = LABELLED.sub(
            lambda m: f"$$\n{m['body'].strip()} \\tag{{{self._equation(m['label'])}}}\n$$",
            "\n".join(out),
        )
        return ROLE.sub(self._role, text)

    def _directive(self, name: str, title: str, lines: list[str]) -> list[str]:
        options = {}
        while lines and (option := re.match(r"^:(\w+): *(.*)$", lines[0])):
            options[option[1]] = option[2].strip()
            lines = lines[1:]
        body = self.convert("\n".join(lines).strip("\n"))
        if name == "math":
            tag = f" \\tag{{{self._equation(options['label'])}}}" if "label" in options else ""
            return ["$$", body + tag, "$$"]
        if name == "dropdown":
            return ["<details>", f"<summary>{title}</summary>", "", body, "", "</details>"]
        if name == "admonition" or name in ADMONITIONS:
            heading = title if name == "admonition" else name.capitalize()
            heading = "See also" if name == "seealso" else heading
            return [f"> **{heading}**", ">", *(f"> {line}".rstrip() for line in body.split("\n"))]
        raise MystError(f"the directive {{{name}}} has no plain form")

    def _role(self, match: re.Match) -> str:
        roles: dict[str, Callable[[str], str]] = {
            "cite:t": lambda keys: ", ".join(self._cite(k, "{a} ({y})") for k in keys.split(",")),
            "cite:p": lambda keys: (
                f"({'; '.join(self._cite(k, '{a}, {y}') for k in keys.split(','))})"
            ),
            "eq": lambda label: f"({self._equation(label)})",
            "doc": self._doc,
            "term": lambda text: text.split(" <")[0],
        }
        role = roles.get(match["name"])
        if role is None:
            raise MystError(f"the role {{{match['name']}}} has no plain form")
        return role(match["text"])

    def _equation(self, label: str) -> int:
        if label not in self.equations:
            raise MystError(f"there is no equation {label}")
        return self.equations[label]

    def _doc(self, text: str) -> str:
        named = re.match(r"(.*\S) *<(.+)>$", text)
        label, target = (named[1], named[2]) if named else (None, text)
        if target in self.titles:
            return f"[{label or self.titles[target]}]({target}.ipynb)"
        return label or target.split("/")[-1]

    def _cite(self, key: str, form: str) -> str:
        entry = self.bibliography.entries.get(key.strip())
        if entry is None:
            raise MystError(f"book/references.bib has no entry {key.strip()}")
        people = [" ".join(p.prelast_names + p.last_names) for p in entry.persons["author"]]
        authors = (
            people[0]
            if len(people) == 1
            else (f"{people[0]} and {people[1]}" if len(people) == 2 else f"{people[0]} et al.")
        )
        text = form.format(a=authors.strip("{}"), y=entry.fields["year"])
        doi, url = entry.fields.get("doi"), entry.fields.get("url")
        link = f"https://doi.org/{doi}" if doi else url
        return f"[{text}]({link})" if link else text


def read_bibliography(root: Path) -> BibliographyData:
    """`book/references.bib`.

    Raises:
        ChapterError: if it is broken or has a key twice.
    """
    path = root / "book" / "references.bib"
    try:
        return parse_file(str(path))
    except PybtexError as error:
        raise ChapterError(f"{path}: {error}.") from None
