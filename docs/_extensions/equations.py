"""Formulas as pictures in the page: no script, no font and nothing from the network, in the colour of the text."""

from xml.etree import ElementTree

import ziamath
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

_SIZE = 18  # in which ziamath draws; the page has em

ziamath.config.svg2 = False  # paths in the place of symbols, whose names would be there twice


def setup(app: Sphinx) -> dict[str, bool]:
    """Make this the renderer `html_math_renderer = "equations"`."""
    app.add_html_math_renderer("equations", (_inline, None), (_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(f'<span class="math notranslate nohighlight">{_drawn(node, inline=True)}</span>')
    raise nodes.SkipNode


def _display(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight", STYLE="text-align: center"))
    self.body.append(f"{_drawn(node, inline=False)}</div>\n")
    raise nodes.SkipNode


def _drawn(node: nodes.Element, inline: bool) -> str:
    """An SVG on the text's baseline, with its LaTeX for those who listen."""
    latex = node.astext()
    formula = ziamath.Latex(latex, size=_SIZE, color="currentColor", inline=inline)
    picture = formula.svgxml()
    sides = {side: f"{float(picture.get(side, 0)) / _SIZE:.3f}em" for side in ("width", "height")}
    baseline = f"vertical-align: {(formula.getyofst() - 1) / _SIZE:.3f}em; max-width: 100%"  # it has a margin of 1
    for name, value in {**sides, "style": baseline, "role": "img", "aria-label": latex}.items():
        picture.set(name, value)
    return ElementTree.tostring(picture, encoding="unicode")
