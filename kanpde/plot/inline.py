"""Figures within a page: as SVG in a data address, which no other picture's names get in the way of."""

import html
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 90  # of the parts that are no lines: colours of a field, clouds of points
PIXELS = 96  # of a page to the inch
PLAIN = " !$'()*+,-./:;=?@[]_~{}|"  # characters that an address of SVG may have as they are


@dataclass(frozen=True)
class Picture:
    """A figure as a page has it.

    Attributes:
        name: the ending of its file, such as error.
        src: a data address.
        alt: what it shows, in words.
        width, height: in pixels of the page.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> picture("empty", plt.Figure(figsize=(2, 1)), "nothing").width
        192
    """

    name: str
    src: str
    alt: str
    width: int
    height: int


def picture(name: str, figure: "Figure", alt: str = "") -> Picture:
    """The picture of a figure, of which the same figure gives the same bytes; alt is its title unless it is given."""
    import matplotlib

    image = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(image, format="svg", dpi=DPI, metadata={"Date": None})
    width, height = (round(PIXELS * inches) for inches in figure.get_size_inches())
    address = f"data:image/svg+xml,{quote(image.getvalue(), safe=PLAIN)}"
    return Picture(name, address, alt or f"{name}: {' '.join(figure.get_suptitle().split())}", width, height)


class Figures(dict[str, "Figure"]):
    """Figures by their names, which a notebook shows below each other.

    Example:
        >>> Figures()._repr_html_()
        ''
    """

    def _repr_html_(self) -> str:
        made = [picture(name, figure) for name, figure in self.items()]
        style = "max-width: 100%; height: auto; background: white"
        return "".join(f'<p><img src="{p.src}" alt="{html.escape(p.alt)}" style="{style}"></p>' for p in made)
