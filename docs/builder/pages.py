"""What mkdocs adds to the pages that lie in docs/: the reference, the files beside docs/ that pages refer to, formulas.

The pages are read on a forge as well: links between them are relative, and `../benchmarks/results/table8.md` is a file
of the repository. On the site that file is a page of its own.
"""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
BESIDE = re.compile(r"\[([^]]*)\]\(\.\./([^)#]+)(#[^)]*)?\)")  # a link out of docs/
ROW, CODE = re.compile(r"^\|.*", re.MULTILINE), re.compile(r"`[^`]*`")  # of tables, in whose code a forge reads \| as |
PAGE = re.compile(r'href="([\w/]+\.md)(?=[#"])')  # a link of a notebook to another page
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files, config):
    """The pages of the reference that the navigation names, and all that is referred to beside docs/."""
    for name in filter(lambda name: name.startswith("api/"), _names(config.nav)):
        module = name.removeprefix("api/").removesuffix(".md")
        files.append(File.generated(config, name, content=f"---\ntitle: {module}\n---\n\n::: {module}\n"))
    results = [p for p in (ROOT / "benchmarks/results").rglob("*") if p.suffix in (".md", ".png")]
    texts = [page.content_string for page in files.documentation_pages()]
    linked = {ROOT / path for text in texts for _, path, _ in BESIDE.findall(text)}
    for path in sorted({*results, *filter(Path.is_file, linked)}):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links out of docs/ as links of the site, one to a folder as its name; in code of tables | without escape."""
    if "/" in page.file.src_uri:
        return markdown
    here = lambda found: (ROOT / found[2]).is_file()
    markdown = BESIDE.sub(lambda m: f"[{m[1]}]({m[2]}{m[3] or ''})" if here(m) else m[1], markdown)
    return ROW.sub(lambda row: CODE.sub(lambda code: code[0].replace(r"\|", "|"), row[0]), markdown)


def on_page_content(content, page, config, files):
    """Formulas in LaTeX as MathML, which browsers draw without a script; links of notebooks, unknown to mkdocs."""
    shown = {"span": "inline", "div": "block"}
    if page.file.src_uri.endswith(".ipynb"):
        at = lambda name: files.get_file_from_path(name).url_relative_to(page.file)
        content = PAGE.sub(lambda m: f'href="{at(m[1])}', content)
    return FORMULA.sub(lambda m: convert(html.unescape(m[2]).strip(), display=shown[m[1]]), content)


def _names(nav) -> list[str]:
    """The files of a navigation, in its order."""
    if isinstance(nav, str):
        return [nav]
    return [name for entry in (nav.values() if isinstance(nav, dict) else nav) for name in _names(entry)]
