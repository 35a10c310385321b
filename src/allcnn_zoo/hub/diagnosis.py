"""Naming what arrived instead of the file: captive portals, S3 errors, login pages."""

import re

_TITLE = re.compile(rb"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_S3_CODE = re.compile(rb"<Code>(.*?)</Code>", re.DOTALL)
_S3_MESSAGE = re.compile(rb"<Message>(.*?)</Message>", re.DOTALL)
_HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body")

HEAD_SIZE = 4096
"""How many of the first bytes of a file a diagnosis looks at."""


def diagnose(head: bytes) -> str | None:
    """Say what kind of error page begins with `head`; None if it looks like neither."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:HEAD_SIZE]
    if start.startswith((b"<?xml", b"<Error")) and (code := _S3_CODE.search(start)):
        message = _S3_MESSAGE.search(start)
        return f"an S3 error ({plain(code[1])}{': ' + plain(message[1]) if message else ''})"
    if start[:16].lower().startswith(_HTML_STARTS):
        title = _TITLE.search(start)
        called = f' titled "{plain(title[1])}"' if title else ""
        return f"an HTML page{called} (a captive portal, a login or an error page?)"
    return None


def plain(text: bytes | str, limit: int = 120) -> str:
    """Make a stranger's text safe to print: one line, no control characters, bounded."""
    decoded = text if isinstance(text, str) else text.decode("utf-8", "replace")
    line = " ".join("".join(c if c.isprintable() else " " for c in decoded[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
