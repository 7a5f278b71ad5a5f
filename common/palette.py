"""The colours of curves, annotated videos, reports and the local page.

The series are from the palette of Okabe and Ito ("Color Universal Design", 2008), which is safe for the common forms
of colour blindness.
"""

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
GREY = "#8a94a0"

LIGHT = {
    "ink": "#1d2733", "soft": "#5b6875", "line": "#dde3e9", "card": "#ffffff", "back": "#f5f7f9",
    "accent": SERIES[0], "good": "#00704f", "weak": "#8a5a00", "bad": "#b54400",
}  # fmt: skip
DARK = {
    "ink": "#e4e9ee", "soft": "#a3aeb9", "line": "#353e48", "card": "#1d2329", "back": "#14181c",
    "accent": "#56b4e9", "good": "#3fc79a", "weak": "#e6a93c", "bad": "#ff8a4a",
}  # fmt: skip


def theme() -> str:
    """Return the CSS shared by all pages, with colours for light and dark mode."""
    light, dark = ("; ".join(f"--{name}: {colour}" for name, colour in side.items()) for side in (LIGHT, DARK))
    return f"""\
:root {{ color-scheme: light dark; {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }}
main {{ max-width: 1120px; margin: 0 auto; padding: 24px; }}
section {{ background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 20px;
  margin-top: 20px; }}
h1 {{ font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; }}
h2 {{ font-size: 19px; margin: 0 0 12px; }}
p {{ margin: 0 0 12px; }}
a {{ color: var(--accent); }}
.soft {{ color: var(--soft); }}
@media (max-width: 600px) {{ main {{ padding: 12px; }} section {{ padding: 12px; }} }}
"""
