"""The site: `make docs` builds it, offline, into build/docs.

The pages are those of this folder and the notebooks of colab/, which are shown as they
are stored, with their outputs: nothing is run here. The reference is made of docstrings,
the tables of options and commands of the program itself.
"""

import html
import os
import pathlib
import re
import sys
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
HERE = pathlib.Path(__file__).resolve().parent
ROOT, NOTEBOOKS = HERE.parent, HERE / 'notebooks'
sys.path.insert(0, str(ROOT))

import jdiffclust  # noqa: E402
from jdiffclust import config as config_lib  # noqa: E402

project, author = 'jdiffclust', 'the jdiffclust developers'
version = release = jdiffclust.__version__

extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
html_theme = 'sphinx_book_theme'
html_title = 'jdiffclust'
html_theme_options = {'show_toc_level': 2, 'navigation_with_keys': False,
                      'use_download_button': False, 'home_page_in_toc': False,
                      'navbar_persistent': []}
html_static_path = ['site.css']
html_css_files = ['site.css']
html_show_sourcelink = False
html_show_copyright = False
html_copy_source = False
html_math_renderer = 'mathml'

nb_execution_mode = 'off'
myst_enable_extensions = ['dollarmath', 'deflist']
myst_heading_anchors = 4
suppress_warnings = ['myst.header']  # a notebook's cells may begin below a heading

autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_preserve_defaults = True
autodoc_typehints_format = 'short'
add_module_names = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_numpy_docstring = False
default_role, highlight_language = 'code', 'none'
# What other libraries document cannot be looked up offline.
nitpick_ignore_regex = [('py:.*', r'(?!jdiffclust\.).*')]
# Parts that no user of the library meets.
nitpick_ignore = [('py:class', f'jdiffclust.{name}') for name in (
    'config.options.Config', 'clustering.starts.recognition.Recognised',
    'data.sources.common.Stored', 'training.storage.Store')]

SECTION = re.compile(r'(Args|Attributes|Returns|Raises|Yields)( and \w+)?:$')

PART = re.compile(r' {4}[\w, ]+: ')  # of an argument that is a record


def as_restructured(app, what, name, obj, options, lines):
  """Makes a docstring's plain text reStructuredText, before napoleon sees it.

  Indented paragraphs are formulas or programs and stay as they are; elsewhere stars, bars
  and final underscores mean themselves.
  """
  del app, what, name, obj, options
  found, in_section, literal = [], False, False
  nested = in_section
  for number, line in enumerate(lines):
    indented = line.startswith(' ')
    if line and not indented:
      in_section, literal = bool(SECTION.match(line)), False
    elif in_section and re.match(r'  \w', line):  # an argument; does it have parts?
      nested = False
    elif in_section and PART.match(line) and (
        nested or (lines + [''])[number + 1].startswith(' ' * 6)):
      found += [] if nested else ['']
      nested, line = True, f'    - {line.strip()}'
    elif indented and not in_section and not literal and not lines[number - 1]:
      found += ['::', '']
      literal = True
    if not literal:
      parts = re.split(r'(`[^`]*`)', line)
      line = ''.join(part if part.startswith('`') else
                     re.sub(r'([*|])|(?<=\w)_(?!\w)', lambda m: '\\' + m[0], part)
                     for part in parts)
    found.append(line)
  lines[:] = found

SCIKIT_LEARN = re.compile(r'set_(\w+_request|output)|get_metadata_routing')


def without_fields(app, what, name, obj, skip, options):
  """Leaves out what is no method of ours, and fields that `Attributes` describe."""
  del app, what, options
  text = getattr(obj, '__doc__', None) or ''
  if text.startswith('Alias for field number') or SCIKIT_LEARN.fullmatch(name):
    return True
  return skip


MATHML = 'http://www.w3.org/1998/Math/MathML'
ACCENTS = {'\u02c9': '\u00af', '\u00af': '\u00af', '\u02dc': '\u02dc', '~': '\u02dc'}
ElementTree.register_namespace('', MATHML)


def cell(text):
  """A text in a table of Markdown."""
  return str(text).replace('|', r'\|').replace('\n', ' ').replace('$', r'\$')


def options_table() -> str:
  """Every option, section by section."""
  levels = {'person': 'Options that most people need',
            'machine': 'Options of the machine', 'model': 'Options of the model'}
  parts = []
  for level, heading in levels.items():
    parts += [f'## {heading}', '']
    before = None
    for name, option in config_lib.all_options().items():
      if option.level != level:
        continue
      section = name.rpartition('.')[0]
      if section != before:
        parts += ['', f"### {f'`{section}`' if section else 'The run'}", '',
                  '| option | default | allowed | meaning |', '|---|---|---|---|']
        before = section
      readers = f" (of {', '.join(option.methods)})" if option.methods else ''
      parts.append(f'| `{name}` | `{cell(repr(option.default))}` | '
                   f'{cell(option.allowed)} | {cell(option.meaning)}{readers}'
                   + '; *may change*' * (not option.defines_run) + ' |')
  return '\n'.join(parts)


def what_is_read() -> str:
  """Which options each command but the fit reads."""
  from jdiffclust.config.modes import ASKED, NEW_IMAGES
  rows = ['| command | options that it reads |', '|---|---|']
  for mode, names in ASKED.items():
    names = [*names, *NEW_IMAGES.get(mode, ())]
    known = config_lib.all_options()
    rows.append(f'| `--mode={mode}` | ' + (', '.join(
        f"`{name}{'' if name in known else '.*'}`" for name in names) or 'none') + ' |')
  return '\n'.join(rows)


def help_text() -> str:
  """The text of --help."""
  from jdiffclust import main
  return f'```text\n{main.help_text()}\n```'


MADE = {'options_table': options_table, 'what_is_read': what_is_read,
        'help_text': help_text}


def for_the_site(app, docname, source):
  """Puts in what the program makes, and leads links where the site has their pages.

  On the web pages of a repository links lead from file to file. The site has the
  notebooks in a folder of its own, and no files other than these pages.
  """
  del app
  text = re.sub(r'<!-- made by (\w+) -->', lambda m: MADE[m[1]](), source[0])
  if not docname.startswith('notebooks/'):
    text = text.replace('](../colab/', '](notebooks/')
    text = re.sub(r'(?<!!)\[([^]]*)\]\(\.\./(\w[^)]*)\)', r'`\2`', text)
  source[0] = text


def bring_notebooks(app, config):
  """Copies the notebooks into the folder of the site, as far as they have changed."""
  del app, config
  NOTEBOOKS.mkdir(exist_ok=True)
  for path in (ROOT / 'colab').glob('*.ipynb'):
    text = path.read_text(encoding='utf-8').replace('](../docs/', '](../')
    copy = NOTEBOOKS / path.name
    if not copy.exists() or copy.read_text(encoding='utf-8') != text:
      copy.write_text(text, encoding='utf-8')


def without_private(app, what, name, obj, options, signature, returned):
  """Leaves out the private fields of a data class, the last ones."""
  del app, what, name, obj, options
  return signature and re.sub(r', _\w+: .*\)$', ')', signature), returned


def well_set(text: str) -> str:
  """MathML of docutils with the bars and tildes of letters clear of them.

  Their indices stand at the letter's foot, not below it as limits do.
  """
  named = re.sub(r'&(?!lt;|gt;|amp;)\w+;', lambda m: html.unescape(m[0]), text)
  root = ElementTree.fromstring(named)
  for node in root.iter():
    *_, accent = [None, *node]
    if accent is None or accent.text not in ACCENTS:
      continue
    accent.text = ACCENTS[accent.text]
    if node.tag == f'{{{MATHML}}}munderover':
      base, index, _ = node
      over = ElementTree.Element(f'{{{MATHML}}}mover')
      over.extend([base, accent])
      node.tag = f'{{{MATHML}}}msub'
      node[:] = [over, index]
    elif node.tag == f'{{{MATHML}}}mover':
      node.attrib.pop('accent', None)
  return ElementTree.tostring(root, encoding='unicode')


def mathml(writer, node, block):
  """Writes a formula as MathML, which browsers show without a script or a network."""
  try:
    written = well_set(tex2mathml(node.astext(), as_block=block))
  except MathError as error:
    logging.getLogger(__name__).warning(
        'the formula %r: %s', node.astext(), error, location=node)
    written = node.astext()
  number = f'<span class="eqno">({node["number"]})</span>' if node.get('number') else ''
  target = ' '.join(f'id="{name}"' for name in node.get('ids', ())[:1])
  writer.body.append(f'<div class="formula" {target}>{written}{number}</div>'
                     if block else written)
  raise nodes.SkipNode


def setup(app):
  """Connects the above."""
  app.add_html_math_renderer('mathml', (lambda w, n: mathml(w, n, False), None),
                             (lambda w, n: mathml(w, n, True), None))
  app.connect('autodoc-process-docstring', as_restructured, priority=400)
  app.connect('autodoc-skip-member', without_fields)
  app.connect('autodoc-process-signature', without_private)
  app.connect('source-read', for_the_site)
  app.connect('config-inited', bring_notebooks)
  return {'parallel_read_safe': True, 'parallel_write_safe': True}
