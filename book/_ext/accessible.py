"""Two things in the pages' HTML that a screen reader stumbles over."""

from docutils import nodes
from sphinx.application import Sphinx


def list_bibliography(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Make the bibliography a plain list.

    docutils gives its entries the role doc-biblioentry, which is deprecated and not allowed where
    it stands. bibtex's own `:list: bullet` gives a list, but no citation can link to it.
    """
    entries: dict[nodes.Element, nodes.bullet_list] = {}
    for citation in list(doctree.findall(nodes.citation)):
        parent = citation.parent
        text = [child for child in citation.children if not isinstance(child, nodes.label)]
        item = nodes.list_item("", *text, ids=citation["ids"])
        if parent in entries:
            parent.remove(citation)
        else:
            entries[parent] = nodes.bullet_list(classes=["bibliography"])
            parent[parent.index(citation)] = entries[
                parent
            ]  # replace_self would give the list the entry's id too
        entries[parent].append(item)


def fill_table_corners(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Make the corner of a pandas table a cell: it is an empty header, which heads nothing."""
    for raw in list(doctree.findall(nodes.raw)):
        if 'class="dataframe"' in raw.astext():
            text = raw.astext().replace("<th></th>", "<td></td>")
            raw.replace_self(nodes.raw(text, text, format=raw["format"], classes=raw["classes"]))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", list_bibliography)
    app.connect("doctree-resolved", fill_table_corners)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
