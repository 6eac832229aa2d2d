"""What a person does with a widget and sees of it: press Generate and wait, the text, the elements."""

from __future__ import annotations

from html.parser import HTMLParser

import ipywidgets

PROMPT = "The river was"
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def pressed(panel):
    panel.start.click()
    panel.wait()
    assert not panel.busy
    return panel


def plain(widget):
    """What a reader sees of a widget's HTML: every text outside tags."""
    parser = HTMLParser()
    seen = []
    parser.handle_data = seen.append
    parser.feed(widget.value)
    return "".join(seen)


def elements(panel):
    """All tags and attributes in all HTML of a widget and below."""
    found, waiting = set(), [panel]
    while waiting:
        each = waiting.pop()
        waiting += getattr(each, "children", ())
        if isinstance(each, ipywidgets.HTML):
            parser = HTMLParser()
            parser.handle_starttag = lambda tag, attributes: found.update({tag, *(name for name, _ in attributes)})
            parser.feed(each.value)
    return found
