"""Every text of an answer that a client could read, past the guard: each is a strand of its own.

A chat's choice says more than its content: reasoning, arguments of tool calls, a refusal, a
transcript, and what servers add. So all strings of it count but for labels. Pieces of one strand
stand at the same path in event after event (`delta.tool_calls[i].function.arguments`).

What is not covered: labels (ids, roles, types), and media that an answer holds as data.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from starloom.serve.base import Delta
from starloom.serve.gateway.outlet import Outlet

_Path = tuple[str | int, ...]
_Text = tuple[_Path, Any, str | int]
_LABELS = frozenset(
    {
        *("role", "type", "id", "index", "object", "finish_reason", "stop_reason", "tool_call_id"),
        *("logprobs", "prompt_logprobs", "token_ids", "model", "data", "signature"),
    }
)
_AT_ONCE = "name"
"""A client needs it whole at its beginning, so nothing of it is held back for what may follow."""
_JSON = "arguments"
_CONTENT: _Path = ("content",)
_ESCAPED = (0x22, 0x5C)
_HEX = "[0-9a-fA-F]"
_HIGH = rf"[dD][89abAB]{_HEX}{{2}}"
_ESCAPE = re.compile(
    rf"(?P<begun>\\(?:u(?:{_HEX}{{0,3}}|{_HIGH}(?:\\(?:u{_HEX}{{0,3}})?)?))?\Z)"
    rf"|\\u(?P<high>{_HIGH})\\u(?P<low>[dD][c-fC-F]{_HEX}{{2}})"
    rf"|\\u(?P<code>{_HEX}{{4}})|\\.",
    re.DOTALL,
)


class Strands:
    """The texts of one choice. `make` gives a guard for a text."""

    def __init__(self, make: Callable[[], Outlet]) -> None:
        self._make = make
        self._outlets: dict[_Path, Outlet] = {}
        self._escapes: dict[_Path, str] = {}
        self._spent: list[Outlet] = []
        self.cut = False
        """Whether a text was ended: then nothing more of the choice may be seen."""

    def piece(self, holder: dict[str, Any], *, final: bool) -> bool:
        """Guard what one event adds, in place; whether it was changed."""
        changed = False
        said = holder.get("content") if len(holder) == 1 else None  # as most events are
        plain: list[_Text] = [(_CONTENT, holder, "content")]
        found = plain if isinstance(said, str) else _texts(holder, ())
        for path, place, key in found:
            text = place[key]
            out = "" if self.cut else self._let_out(path, text)
            if out != text:
                place[key] = out
                changed = True
        if final and not self.cut:
            for path in tuple(self._outlets):
                if (rest := self._rest(path)) and not self.cut:
                    _put(holder, path, rest)
                    changed = True
        return changed or self.cut

    def pieces(self, texts: Sequence[str]) -> list[str]:
        """Pieces of content that came together, at one look: what each may show of it.

        Where the content is cut, those that show less than they said are what it ends in.
        """
        outlet = self._outlet(_CONTENT)
        end = outlet.held_chars
        shown = self._through(outlet, "".join(texts), final=False)
        out, begin = [], 0
        for text in texts:
            end += len(text)
            out.append(shown[begin:end])
            begin = end
        return out

    def close(self) -> None:
        """Tell what was found."""
        for outlet in (*self._outlets.values(), *self._spent):
            outlet.close()

    def _let_out(self, path: _Path, text: str) -> str:
        at_once = path[-1] == _AT_ONCE
        outlet = self._outlet(path)
        if path[-1] == _JSON:
            text, self._escapes[path] = unescaped(self._escapes.get(path, "") + text)
        return self._through(outlet, text, final=at_once)

    def _outlet(self, path: _Path) -> Outlet:
        outlet = self._outlets.get(path)
        if outlet is None:
            outlet = self._make()
            if path[-1] == _AT_ONCE:
                self._spent.append(outlet)
            else:
                self._outlets[path] = outlet
        return outlet

    def _rest(self, path: _Path) -> str:
        return self._through(self._outlets[path], self._escapes.pop(path, ""), final=True)

    def _through(self, outlet: Outlet, text: str, *, final: bool) -> str:
        delta = outlet.let_out(Delta(id="", text=text, finish="stop" if final else None))
        self.cut = self.cut or delta.finish == "content_filter"
        return delta.text


def is_clean(holder: dict[str, Any], clean: Callable[[str], bool]) -> bool:
    """Whether all texts of a whole choice may go out as they are. False where that is not plain."""
    found = _texts(holder, ())
    if len(found) > 1 and len({path for path, _, _ in found}) < len(found):
        return False  # pieces of one text
    texts = [(path[-1], place[key]) for path, place, key in found]
    return not any(key == _JSON and "\\" in text for key, text in texts) and all(
        clean(text) for _, text in texts
    )


def unescaped(text: str) -> tuple[str, str]:
    r"""JSON with characters for `\uXXXX` where that is allowed, and an escape begun at the end.

    It says the same, spelt so that words can be found in it.
    """
    if "\\" not in text:
        return text, ""
    begun = ""

    def plain(match: re.Match[str]) -> str:
        nonlocal begun
        if match["begun"] is not None:
            begun = match["begun"]
            return ""
        if match["high"] is not None:
            high, low = int(match["high"], 16), int(match["low"], 16)
            return chr(0x10000 + ((high - 0xD800) << 10) + low - 0xDC00)
        code = int(match["code"], 16) if match["code"] is not None else 0
        bare = code >= 0x20 and code not in _ESCAPED and not 0xD800 <= code < 0xE000
        return chr(code) if bare else match.group()

    return _ESCAPE.sub(plain, text), begun


def _texts(place: dict[str, Any] | list[Any], path: _Path) -> list[_Text]:
    """Where each text stands: its path, and what holds it under which key."""
    found: list[_Text] = []
    items: Iterable[tuple[str | int, Any]]
    items = place.items() if isinstance(place, dict) else enumerate(place)
    for key, value in items:
        if key in _LABELS:
            continue
        if isinstance(value, str):
            if value:
                found.append(((*path, key), place, key))
        elif isinstance(value, dict):
            stated = value.get("index", key) if isinstance(place, list) else key
            found += _texts(value, (*path, stated))
        elif isinstance(value, list):
            found += _texts(value, (*path, key))
    return found


def _put(holder: dict[str, Any], path: _Path, rest: str) -> None:
    """Add the rest of a text to an event that may not speak of it."""
    place: Any = holder
    for key, after in pairwise(path):
        place = _child(place, key, [] if isinstance(after, int) else {})
    if isinstance(place, list):
        place.append(rest)
    else:
        place[path[-1]] = (place.get(path[-1]) or "") + rest


def _child(place: Any, key: str | int, fresh: Any) -> Any:
    if isinstance(place, list):
        for at, item in enumerate(place):
            if isinstance(item, dict) and item.get("index", at) == key:
                return item
        place.append({"index": key})
        return place[-1]
    if not isinstance(place.get(key), type(fresh)):
        place[key] = fresh
    return place[key]
