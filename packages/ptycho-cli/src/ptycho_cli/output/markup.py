"""Pieces of an HTML page that refers to nothing outside itself (specs/cli.md, CLI-70).

Whatever a stranger wrote, such as a name, a path or a note, passes :func:`words`.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Sequence
from html import escape

from ptycho_cli.output.terminal import printable

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_BYTES = 24
"""Of a PNG, up to its width and height."""
_WIDE = 1.5
"""Width over height above which a picture takes the whole width of the page."""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""A page from files of strangers loads and runs nothing, whatever it holds."""

_STYLE = """
:root { color-scheme: light; font-size: 15px; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 76rem; color: #111; background: #fff;
  font: 1rem/1.45 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { margin: 2rem 0 .6rem; padding-bottom: .2rem; border-bottom: 2px solid #111; font-size: 1.15rem; }
h3 { margin: 1rem 0 .3rem; font-size: 1rem; }
p { margin: .4rem 0; }
.lead, figcaption, .note, footer { color: #444; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .6rem; margin: 1.2rem 0; }
.figures div { padding: .5rem .7rem; border: 1px solid #888; border-radius: 4px; }
.figures b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.figures span { display: block; font-size: .85rem; color: #444; }
.advice { margin: 1rem 0; padding: .6rem .9rem; border: 1px solid #111; border-left-width: 6px; }
.advice ul { margin: .3rem 0; padding-left: 1.2rem; }
.pictures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem; align-items: start; }
figure { margin: 0; }
figure.wide { grid-column: 1 / -1; }
img { display: block; width: auto; max-width: 100%; height: auto; max-height: 46rem; border: 1px solid #ccc; }
figcaption { margin: .25rem 0 .5rem; font-size: .9rem; }
.columns { columns: 20rem; column-gap: 2rem; margin-bottom: 1rem; }
.columns h3, .columns table { margin-top: 0; }
.columns section + section { padding-top: .8rem; }
.columns .scroll { overflow: visible; }
h3, tr { break-inside: avoid; }
h2, h3 { break-after: avoid; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th, td { padding: .2rem .5rem .2rem 0; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { font-weight: 600; }
tbody th { font-weight: 400; }
thead th { border-bottom: 1px solid #111; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
td.number { white-space: nowrap; }
code { font: .85em/1.4 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
footer { margin-top: 2rem; padding-top: .5rem; border-top: 1px solid #888; font-size: .85rem; }
@page { size: A4; margin: 13mm; }
@media print {
  :root { font-size: 9pt; }
  body { padding: 0; max-width: none; }
  h2 { margin-top: 5mm; }
  figure, .advice, .figures div { break-inside: avoid; }
  img { max-height: 92mm; }
  .figures { grid-template-columns: repeat(auto-fit, minmax(32mm, 1fr)); }
  .columns { columns: 3; column-gap: 5mm; }
  .scroll { overflow: visible; }
}
@media (max-width: 45rem) and (not print) { .pictures { grid-template-columns: 1fr; } }
"""


def words(value: object) -> str:
    """Text of a page, safe between tags and in quoted attributes.

    >>> words('<b>"x"\\x1b')
    '&lt;b&gt;&quot;x&quot;\\\\x1b'
    """
    return escape(printable(str(value)), quote=True)


def code(value: object) -> str:
    """Words in a typewriter's letters."""
    return f"<code>{words(value)}</code>"


def table(rows: Iterable[Sequence[str]], *, head: Sequence[str] = ()) -> str:
    """A table of cells that are markup already; the first of each row names it."""
    top = "<thead><tr>" + "".join(f'<th scope="col">{cell}</th>' for cell in head) + "</tr></thead>" if head else ""
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(map(_cell, others)) + "</tr>" for first, *others in rows
    )
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def _cell(content: str) -> str:
    """A cell that does not break if it is one number."""
    is_number = content.replace(".", "").isdigit()
    return f'<td class="number">{content}</td>' if is_number else f"<td>{content}</td>"


def picture(content: bytes, caption: str, *, beside_others: bool = False) -> str:
    """A PNG in the page itself, with its caption in plain text.

    Args:
        content: Of the file.
        caption: What it shows.
        beside_others: Whether it stays in its column even if it is wide.

    Raises:
        ValueError: no PNG.
    """
    if not content.startswith(_SIGNATURE) or len(content) < _HEADER_BYTES:
        raise ValueError("a picture that is no PNG")
    width, height = struct.unpack(">II", content[_HEADER_BYTES - 8 : _HEADER_BYTES])
    shape = ' class="wide"' if width > _WIDE * height and not beside_others else ""
    data = base64.b64encode(content).decode("ascii")
    image = f'<img src="data:image/png;base64,{data}" alt="{words(caption)}">'
    return f"<figure{shape}>{image}<figcaption>{words(caption)}</figcaption></figure>"


def section(title: str, *content: str) -> str:
    """A part of the page with its title, which is markup already; nothing without content."""
    inner = "".join(content)
    return f"<section><h2>{title}</h2>{inner}</section>" if inner else ""


def document(title: str, *content: str) -> str:
    """The whole page; the title is plain text, the content markup."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{words(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in content if part)
        + "\n</body>\n</html>\n"
    )
