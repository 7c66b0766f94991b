"""What tables say, in words: the templates of `templates/`, filled with values.

A template of sentences holds a macro per kind of sentence; each may be wrapped as one likes, since `sentence` joins its
words by single blanks. A page is a template as a whole. Filters: `label`, `p` (a p value) and
`signed` (three decimals with their sign).
"""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from pretrain_xai.names import label


def p_value(p: float) -> str:
    """Return a p value with three decimals, or two digits where these would all be 0."""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


_TEMPLATES = Environment(
    loader=PackageLoader("pretrain_xai"),
    autoescape=select_autoescape(),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_TEMPLATES.filters |= {"label": label, "p": p_value, "signed": "{:+.3f}".format}


def render(template: str, **values: Any) -> str:
    """Return a template of `templates/`, such as "report.html", as a whole; in HTML the values are escaped."""
    return _TEMPLATES.get_template(template).render(values)


def sentence(template: str, kind: str, **values: Any) -> str:
    """Return one sentence: the macro `kind` of a template, called with the values that it names."""
    macro = getattr(_TEMPLATES.get_template(template).module, kind)
    return " ".join(macro(**values).split())
