"""Drawing: one style for all pictures, as PNG files and as SVG inside the page.

The SVG is drawn once, in the colours of LIGHT; the page replaces each by a variable of its style sheet, which has the
dark ones, too. Curves are told apart by colour, by dashes and by markers.
"""

import io
import re
from dataclasses import asdict, dataclass

import matplotlib
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Theme:
    """Colours by their part in a picture; the last five are Okabe and Ito's, as near as the background allows."""

    card: str
    text: str
    faint: str
    line: str
    blue: str
    orange: str
    green: str
    purple: str
    yellow: str


LIGHT = Theme("#fffffe", "#1c2128", "#5c6672", "#e1e5ea", "#0072b2", "#d55e00", "#009e73", "#b8578f", "#b87a00")
DARK = Theme("#171b21", "#e6e9ee", "#9fa9b5", "#2b323b", "#56b4e9", "#ff8a47", "#3fcf9f", "#e39cc4", "#f0b840")

SOLID, DASHED, DOTTED, DASH_DOT, LONG = "-", (0, (5, 2)), (0, (1.2, 1.8)), (0, (6, 2, 1.2, 2)), (0, (9, 3))


def styled(axes, theme, title, xlabel="", ylabel=""):
    """The frame of a panel: no box, a faint grid, the title on the left."""
    axes.set_facecolor(theme.card)
    axes.grid(color=theme.line, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=theme.faint, length=0, labelsize=9, which="both")
    axes.set_title(title, loc="left", color=theme.text, fontsize=11, fontweight="bold", pad=10)
    axes.set_xlabel(xlabel, color=theme.faint, fontsize=9.5)
    axes.set_ylabel(ylabel, color=theme.faint, fontsize=9.5)


def legend(axes, theme, **options):
    """A legend on the panel's own background."""
    given = {"fontsize": 9, "labelcolor": theme.text, "facecolor": theme.card, "edgecolor": theme.line, **options}
    axes.legend(framealpha=1, handlelength=2.8, **given)


def draw(picture, theme, narrow):
    """The figure of a picture, its panels in a row or one below the other."""
    count = len(picture.panels)
    size = (4.6, picture.height * count) if narrow else (10.6, picture.height)
    figure = Figure(figsize=size, facecolor=theme.card, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1, w_pad=0.1)
    grid = figure.subplots(count if narrow else 1, 1 if narrow else count, squeeze=False)
    for axes, panel in zip(grid.flat, picture.panels, strict=True):
        panel(axes, theme)
    return figure


def png(picture):
    """The picture as the bytes of a PNG file, light and wide."""
    buffer = io.BytesIO()
    draw(picture, LIGHT, narrow=False).savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def svg(picture, narrow):
    """The picture as an element of the page, in the variables of its style sheet."""
    buffer = io.StringIO()
    kind = "narrow" if narrow else "wide"
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{picture.name} {kind}"}):
        draw(picture, LIGHT, narrow).savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit-from-page", text).replace("inherit-from-page", "var(--font)")
    # Ids are of the whole page; matplotlib's own names, such as figure_1, come in every picture.
    text = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{picture.name}-{kind}-", text)
    for role, colour in asdict(LIGHT).items():
        text = text.replace(colour, f"var(--{role})")
    return text.replace("<svg ", f'<svg class="{kind}" aria-hidden="true" ', 1)
