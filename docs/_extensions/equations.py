"""Formulas as pictures in the page: no script, no font and nothing from elsewhere, in the colour of the text."""

from typing import Any
from xml.etree import ElementTree

import ziamath
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

_SIZE = 18  # in which ziamath draws; the page has em

ziamath.config.svg2 = False  # paths in the place of symbols, whose names would be there twice


def _inline(page: HTML5Translator, node: nodes.math) -> None:
    page.body.append(f'<span class="math">{_drawn(node, inline=True)}</span>')
    raise nodes.SkipNode


def _block(page: HTML5Translator, node: nodes.math_block) -> None:
    page.body.append(page.starttag(node, "div", CLASS="math"))
    if node["number"]:
        page.body.append(f'<span class="eqno">({get_node_equation_number(page, node)})')
        page.add_permalink_ref(node, "Link to this equation")
        page.body.append("</span>")
    page.body.append(f"{_drawn(node, inline=False)}</div>\n")
    raise nodes.SkipNode


def _drawn(node: nodes.Element, inline: bool) -> str:
    """An SVG on the text's baseline, with its LaTeX for those who listen."""
    latex = node.astext()
    formula = ziamath.Latex(latex, size=_SIZE, color="currentColor", inline=inline)
    picture = formula.svgxml()
    sides = {side: f"{float(picture.get(side, 0)) / _SIZE:.3f}em" for side in ("width", "height")}
    baseline = f"vertical-align: {(formula.getyofst() - 1) / _SIZE:.3f}em"  # it has a margin of 1
    for name, value in {**sides, "style": baseline, "role": "img", "aria-label": latex}.items():
        picture.set(name, value)
    return ElementTree.tostring(picture, encoding="unicode")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer as `equations`."""
    app.add_html_math_renderer("equations", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
