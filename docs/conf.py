"""The documentation site: `make docs` builds it into build/docs, with warnings as errors.

Fonts, scripts and formulas come with the pages, so that they work offline and from the disk.
"""

import re
import sys
from functools import partial
from pathlib import Path

from jupyter_cache.executors import utils
from pygments.lexers.shell import BashSessionLexer
from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent)]

from fastcam._version import __version__  # noqa: E402

project = "fastcam"
author = "The fastcam developers"
copyright = f"%Y, {author}"
version = release = __version__

extensions = [
    "myst_nb",  # MyST's Markdown, and notebooks, which it runs
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "equations",
    "local_links",
    "reference",
]
exclude_patterns = ["_extensions", "conf.py", "figures"]
nitpicky = True

# Markdown
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3  # headings that links may lead to, by the rule of GitHub

# Tutorials are scripts of jupytext: cells between lines of `# %%`. They run in folders of their own.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"  # what did not change does not run again
nb_execution_cache_path = str(HERE.parent / "build/notebooks")
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
# What a command prints in pieces is one text. (`nb_merge_streams` would break its lines where it pauses.)
utils.executenb = partial(utils.executenb, coalesce_streams=True)

# Reference
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_attr_annotations = False
autosummary_generate = False
python_maximum_signature_line_length = 88
default_role = "py:obj"  # of single backticks in docstrings; reference.py says what becomes a link
smartquotes = False  # would make dashes of options

# Pages
html_theme = "furo"
html_title = f"fastcam {version}"
html_math_renderer = "equations"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["fastcam.css"]
html_show_search_summary = False  # would be fetched, which browsers refuse where pages come from the disk
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "github-dark"

# What is copied from consoles are the commands.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
copybutton_remove_prompts = True
copybutton_line_continuation_character = "\\"

linkcheck_anchors = False  # of pages that scripts make
linkcheck_timeout = 20


class Console(BashSessionLexer):
    """Only `$ ` begins a command: what commands print has % and #."""

    _ps1rgx = re.compile(r"^(\$ )(.*\n?)")


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.add_lexer("console", Console)
