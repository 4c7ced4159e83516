"""Links of the documentation to files beside `docs/` name the file instead: the site does not hold it."""

import re

_OUTSIDE = re.compile(r"\[[^\]]*\]\((?:\.\./)+((?:examples|benchmarks|tests|pp_graph)/[^)]*|[A-Z]+\.md)\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace links that leave `docs/` by the path of the file."""
    return _OUTSIDE.sub(r"`\1`", markdown)
