"""Draws S-JEPA: nbs/figures/sjepa.svg, and one strip a page of the model, "you are here"; the
site's icon and the card that a link to it shows.

    python tools/diagram.py

The ground is transparent and the colours hold on a light and on a dark page. The card has a white
ground; `python tools/rendered.py card` makes the PNG of it.
"""
from pathlib import Path

FIGURES = Path(__file__).resolve().parent.parent / "nbs" / "figures"
TRAINED, FOLLOWS, DATA, LOSS = "#9ecae1", "#fdd0a2", "#d9d9d9", "#c7e9c0"
INK, LINE = "#111", "#7f8c99"
STRIP = [("window", "signals"), ("tokens", "local encoder"), ("places", "positional encoding"),
         ("mask", "hidden patch"), ("context", "contextual encoder"),
         ("prediction", "predictor"), ("loss", "target and EMA")]
HERE = {"local": 1, "positions": 2, "mask": 3, "context": 4, "predictor": 5, "model": 6}


def text(x, y, words, size=13, ink=INK, weight="normal"):
    "Words centred at a place."
    return (f'<text x="{x}" y="{y}" font-size="{size}" fill="{ink}" font-weight="{weight}" '
            f'text-anchor="middle">{words}</text>')


def box(x, y, w, h, fill, *lines):
    "A rounded box; its first line is bold."
    parts = [f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="7" fill="{fill}" '
             f'stroke="{LINE}"/>']
    top = y + h / 2 - 8 * (len(lines) - 1) + 4
    for i, line in enumerate(lines):
        parts.append(text(x + w / 2, top + 16 * i, line, 12.5 if i == 0 else 11.5, INK,
                          "bold" if i == 0 else "normal"))
    return "".join(parts)


def arrow(*points, dashed=False):
    "A line through points, with a head at its end."
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    way = " ".join(f"{x},{y}" for x, y in points)
    return (f'<polyline points="{way}" fill="none" stroke="{LINE}" stroke-width="1.8"{dash} '
            f'marker-end="url(#head)"/>')


def label(x, y, words): return text(x, y, words, 11.5, LINE)


def svg(width, height, title, parts):
    "A whole file; the title is read out by screen readers."
    head = (f'<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{LINE}"/></marker>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="system-ui, sans-serif" '
            f'role="img"><title>{title}</title>'
            f'<defs>{head}</defs>\n' + "\n".join(parts) + "\n</svg>\n")


def whole():
    "The method in one picture."
    parts = [
        box(6, 150, 84, 60, DATA, "window", "C channels", "T samples"),
        arrow((90, 180), (110, 180)),
        box(110, 150, 104, 60, TRAINED, "local encoder", "one channel", "at a time"),
        arrow((214, 180), (234, 180)),
        box(234, 150, 92, 60, DATA, "tokens", "+ position", "(C·n, 64)"),
        # the way of the context
        arrow((280, 150), (280, 92), (314, 92)),
        box(314, 62, 104, 60, DATA, "visible ones", "a patch hidden", "(v·n, 64)"),
        arrow((418, 92), (446, 92)),
        box(446, 62, 104, 60, TRAINED, "contextual", "encoder", "(v·n, 64)"),
        arrow((550, 92), (584, 92)),
        box(584, 62, 106, 60, TRAINED, "predictor", "answers", "(h·n, 64)"),
        box(584, 8, 106, 34, DATA, "queries", "mask + position"),
        arrow((637, 42), (637, 61)),
        # the way of the target
        arrow((280, 210), (280, 270), (314, 270), dashed=True),
        box(314, 240, 104, 60, DATA, "all of them", "nothing hidden", "(C·n, 64)"),
        arrow((418, 270), (446, 270), dashed=True),
        box(446, 240, 104, 60, FOLLOWS, "contextual", "encoder,", "a slow copy"),
        arrow((550, 270), (584, 270), dashed=True),
        box(584, 240, 106, 60, DATA, "targets", "of hidden ones", "(h·n, 64)"),
        # where they meet
        box(580, 158, 114, 46, LOSS, "loss", "mean |difference|"),
        arrow((637, 122), (637, 157)),
        arrow((637, 240), (637, 205), dashed=True),
        arrow((498, 122), (498, 239)),
        label(428, 176, "moving average"),
        label(428, 191, "of the weights"),
        label(280, 326, "dashed: no gradient goes back this way"),
    ]
    return svg(700, 336, "S-JEPA: each channel's window becomes tokens with a position; a "
               "contextual encoder sees the visible ones, a predictor answers for the hidden "
               "ones, and a slow copy of the encoder, which sees all, says what is right", parts)


def strip(here):
    "The chain of pages in one line, one of them marked."
    parts = []
    for i, (name, page) in enumerate(STRIP):
        x = 4 + 99 * i
        parts.append(box(x, 6, 84, 30, LOSS if i == here else DATA, name))
        parts.append(text(x + 42, 50, page, 10, LINE, "bold" if i == here else "normal"))
        if i < len(STRIP) - 1: parts.append(arrow((x + 84, 21), (x + 98, 21)))
    return svg(692, 56, f"You are here: {STRIP[here][0]}", parts)


def icon():
    "A head from above; one of its sensors is hidden."
    parts = ['<circle cx="32" cy="34" r="25" fill="none" stroke="#4292c6" stroke-width="5"/>',
             '<path d="M25,9 L32,1 L39,9" fill="none" stroke="#4292c6" stroke-width="5"/>']
    for x, y in [(22, 27), (22, 43), (42, 43), (32, 35)]:
        parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="#4292c6"/>')
    parts.append('<circle cx="42" cy="27" r="7" fill="#fdae6b"/>')
    return svg(64, 64, "sjepa_nb", parts)


def card():
    "The method with the project's name and what it is, 1200 by 630."
    inner = whole().replace("<svg ", '<svg x="70" y="150" ', 1)
    inner = inner.replace('width="700" height="336"', 'width="1060" height="460"')
    words = "self-supervised learning for EEG, developed page by page in notebooks"
    parts = ['<rect width="1200" height="630" fill="#fff"/>',
             text(600, 78, "sjepa_nb", 54, INK, "bold"), text(600, 122, f"S-JEPA, {words}", 26),
             inner]
    return svg(1200, 630, "sjepa_nb", parts)


def main():
    FIGURES.mkdir(exist_ok=True)
    pictures = {"sjepa": whole(), "favicon": icon(), "card": card()}
    pictures |= {f"here_{k}": strip(i) for k, i in HERE.items()}
    for name, picture in pictures.items():
        (FIGURES / f"{name}.svg").write_text(picture, encoding="utf-8", newline="\n")


if __name__ == "__main__": main()
