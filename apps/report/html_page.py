"""A report as one HTML file: pictures inside, nothing loaded, light and dark, for any width."""

import base64

from tfgrad.figures import canvas
from tfgrad.figures.result_pages import HtmlTable, escaped

from .sections import Block, Picture, Report, Section

# Nothing but what the file itself holds may be loaded.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --text: #1c2733; --soft: #566573; --back: #fff; --line: #d5dbe1;
  --stripe: #f5f7f9; --accent: #0b5fa5; }
@media (prefers-color-scheme: dark) { :root { --text: #e3e8ed; --soft: #9aa7b4; --back: #14191f;
  --line: #36414d; --stripe: #1b222a; --accent: #72b7ee; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .4rem; padding-top: .9rem;
  border-top: 1px solid var(--line); }
p { margin: .5rem 0; }
.how { color: var(--soft); font-size: .92rem; }
.summary { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.2rem, 1fr)); gap: .7rem;
  margin: 1rem 0; padding: 0; }
.summary div { border: 1px solid var(--line); border-radius: .5rem; padding: .55rem .75rem; }
.summary dt { color: var(--soft); font-size: .8rem; }
.summary dd { margin: 0; font-size: 1.12rem; font-weight: 600; }
nav ul { columns: 2 16rem; margin: .5rem 0; padding-left: 1.2rem; }
a { color: var(--accent); }
.table { overflow-x: auto; margin: .9rem 0 .3rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
tbody tr:nth-child(odd) { background: var(--stripe); }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: normal;
  min-width: 7rem; }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.facts td:first-child { color: var(--soft); white-space: nowrap; }
.notes { color: var(--soft); font-size: .82rem; margin: .3rem 0 1rem; padding-left: 1.1rem; }
figure { margin: 1rem 0; padding: .5rem; background: #fff; border: 1px solid var(--line);
  border-radius: .5rem; width: fit-content; max-width: 100%; }
figure img { display: block; max-width: 100%; height: auto; }
@media print { :root { color-scheme: light; --text: #000; --soft: #444; --back: #fff;
    --line: #bbb; --stripe: #f5f5f5; --accent: #000; }
  nav { display: none; } main { max-width: none; padding: 0; } body { font-size: 11pt; }
  h2 { break-after: avoid; } figure, tr { break-inside: avoid; } .table { overflow: visible; } }
"""


def page(report: Report) -> str:
    """The page, whose texts are all escaped."""
    title = escaped(report.title)
    cards = "".join(
        f"<div><dt>{escaped(what)}</dt><dd>{escaped(value)}</dd></div>"
        for what, value in report.summary
    )
    links = "".join(
        f'<li><a href="#{escaped(part.key)}">{escaped(part.title)}</a></li>'
        for part in report.sections
    )
    sections = "\n".join(map(_section, report.sections))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<dl class="summary">{cards}</dl>
<nav aria-label="Contents"><ul>{links}</ul></nav>
{sections}
</main>
</body>
</html>
"""


def _section(part: Section) -> str:
    blocks = "\n".join(map(_block, part.blocks))
    key, title, how = escaped(part.key), escaped(part.title), escaped(part.how)
    return f'<section id="{key}">\n<h2>{title}</h2>\n<p class="how">{how}</p>\n{blocks}\n</section>'


def _block(block: Block) -> str:
    if isinstance(block, str):
        return f"<p>{escaped(block)}</p>"
    if isinstance(block, HtmlTable):
        return _table(block)
    return _figure(block)


def _figure(picture: Picture) -> str:
    content = base64.b64encode(canvas.png(picture.figure)).decode("ascii")
    width = round(picture.figure.get_size_inches()[0] * 96)
    label = escaped(picture.label)
    source = f"data:image/png;base64,{content}"
    return f'<figure><img alt="{label}" width="{width}" src="{source}"></figure>'


def _table(table: HtmlTable) -> str:
    head, kind = "", ' class="facts"'
    if any(table.headings):
        cells = "".join(f'<th scope="col">{escaped(one)}</th>' for one in table.headings)
        head, kind = f"<thead><tr>{cells}</tr></thead>", ""
    rows = "\n".join(
        "<tr>"
        + "".join(_cell(cell, (i, j) in table.strong) for j, cell in enumerate(row))
        + "</tr>"
        for i, row in enumerate(table.rows)
    )
    notes = "".join(f"<li>{escaped(note)}</li>" for note in table.notes)
    below = f'<ul class="notes">{notes}</ul>' if notes else ""
    body = f"<table{kind}>{head}<tbody>{rows}</tbody></table>"
    return f'<div class="table" role="region" tabindex="0">{body}</div>{below}'


def _cell(text: str, strong: bool) -> str:
    return f"<td><strong>{escaped(text)}</strong></td>" if strong else f"<td>{escaped(text)}</td>"
