"""HTML by small functions; whatever is not `Html` already is escaped, so nothing from data can become markup."""

import base64
import html
import re
from collections.abc import Sequence


class Html(str):
    """Text that is markup."""

    __slots__ = ()


def escape(value: object) -> Html:
    """Markup that shows the value."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(parts: Sequence[object], between: str = "\n") -> Html:
    """One after the other."""
    return Html(between.join(escape(part) for part in parts))


def element(tag: str, *content: object, **attributes: object) -> Html:
    """`<tag class="...">content</tag>`; `class_` is for class."""
    given = "".join(f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"' for name, value in attributes.items())
    return Html(f"<{tag}{given}>{join(content, '')}</{tag}>")


def section(title: str, *content: object) -> Html:
    """A part of the page."""
    slug = re.sub(r"\W+", "-", title.lower())
    return element("section", element("h2", title), *content, id=slug)


def note(*content: object) -> Html:
    """A sentence in small print."""
    return element("p", *content, class_="note")


def details(summary: str, *content: object) -> Html:
    """Content that opens on a click."""
    return element("details", element("summary", summary), *content)


def table(head: Sequence[object], rows: Sequence[Sequence[object]], *, numbers: Sequence[int] = ()) -> Html:
    """A table that scrolls when it is too wide; columns listed in `numbers` are aligned right."""

    def cells(tag: str, row: Sequence[object]) -> Html:
        made = [element(tag, cell, **({"class_": "number"} if n in numbers else {})) for n, cell in enumerate(row)]
        return element("tr", *made)

    body = join([cells("td", row) for row in rows])
    whole = element("table", element("thead", cells("th", head)), element("tbody", body))
    return element("div", whole, class_="scroll")


def picture(data: bytes, kind: str, alt: str) -> Html:
    """An image whose bytes are in the page."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Html(f'<img src="{source}" alt="{escape(alt)}">')


def short(number: float) -> str:
    """At most four figures: 1234567 -> 1.23 M."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            scaled = number / (size if unit != "k" else 1e3)
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f} {unit}"
    return f"{number:,.0f}" if number >= 10 else f"{number:.3g}"


def duration(seconds: float) -> str:
    """2:05 minutes, or 1:02:05 hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
