"""The documentation as a site: ``make docs``. Pages are read on GitHub as well, so links are plain relative ones."""

from longattn import __version__

project = "longattn"
author = "the longattn authors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "cyclopts.ext.sphinx"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"longattn {__version__}"
html_show_sphinx = False
html_show_copyright = False
# links to headings, as GitHub makes them
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# what one module re-exports is documented there alone
autodoc_default_options = {"members": True, "undoc-members": False}
python_use_unqualified_type_names = True
