"""JavaScript and TypeScript as acts, over tree-sitter's syntax tree (which reads broken code, too).

The same forward pass as for Python: constants folded, `require` and `import` followed to dotted
names, `obj['na' + 'me']` read as `obj.name`, functions entered where they are called.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from starloom.skills.errors import MissingExtra
from starloom.skills.scan.decode import base64_text, hex_text, unescaped
from starloom.skills.scan.flow import (
    EMPTY,
    HOLE,
    UNKNOWN,
    Act,
    Label,
    Session,
    Value,
    label_of_variable,
    picked,
    union,
)

MAX_DEPTH = 80
_LOOPS = 12
"""Rounds of a loop over known items."""
_FETCH = re.compile(
    r"^(?:fetch|axios|got|request|needle|superagent|undici\.fetch|ky|\$fetch|node_fetch|nodefetch)$|^(?:axios|got|request|needle|superagent|ky|undici|http|https|client|api)\.(?:post|put|patch|get|request|delete|stream)$|"
    r"^(?:navigator\.sendBeacon|XMLHttpRequest\(\)\.open|http2\.connect)$"
)
_SHELL = re.compile(
    r"^(?:child_process|execa|shelljs|shell)\.(?:exec|execSync|execaCommand|command)$|^(?:execSync|exec|execAsync|execPromise|execaCommand)$|^Bun\.\$|^util\.promisify\(\)$"
)
_SPAWN = re.compile(
    r"^(?:child_process\.)?(?:spawn|spawnSync|execFile|execFileSync|fork)$|^execa$|^Deno\.(?:run|Command)$|^Bun\.spawn(?:Sync)?$"
)
_READ = re.compile(
    r"^(?:fs|fs\.promises|fsp|fse|fs_extra|promises)\.(?:readFileSync|readFile|createReadStream|readJson|readJSON|readJsonSync)$|^(?:readFileSync|readFile|Bun\.file|Deno\.readTextFile(?:Sync)?)$"
)
_WRITE = re.compile(
    r"(?:^|\.)(?:writeFileSync|writeFile|appendFileSync|appendFile|outputFile|writeTextFile)$"
)
_MODULES = re.compile(r"^(?:node:)?(.+)$")


@dataclass(slots=True)
class _Thing:
    value: Value = UNKNOWN
    dotted: str = ""
    function: Any = None
    items: list["_Thing"] = field(default_factory=list)
    fields: dict[str, "_Thing"] = field(default_factory=dict)


_NOTHING = _Thing()


def javascript(session: Session, code: Value, line: int) -> Value:
    """The language `javascript`, for a session."""
    tree = _parser("javascript").parse(code.text.encode("utf-8", "replace"))
    if tree.root_node.has_error:
        other = _parser("typescript").parse(code.text.encode("utf-8", "replace"))
        if not other.root_node.has_error:
            tree = other
    _Reader(session, line, code.labels).program(tree.root_node)
    return UNKNOWN


@cache
def _parser(language: str) -> Any:
    try:
        import tree_sitter
        import tree_sitter_javascript
        import tree_sitter_typescript
    except ImportError:
        raise MissingExtra(
            "JavaScript is read with tree-sitter: pip install 'starloom[skills]'"
        ) from None
    made = (
        tree_sitter_javascript.language()
        if language == "javascript"
        else tree_sitter_typescript.language_typescript()
    )
    return tree_sitter.Parser(tree_sitter.Language(made))


class _Reader:
    def __init__(self, session: Session, line: int, outer: frozenset[Label]) -> None:
        self.session = session
        self.first = line
        self.outer = outer
        self.scopes: list[dict[str, _Thing]] = [{}]
        self.returned: list[_Thing] = []
        self.depth = 0
        self.entered: dict[int, int] = {}

    def program(self, root: Any) -> None:
        for node in _walk(root):
            if node.type in ("function_declaration", "generator_function_declaration"):
                name = node.child_by_field_name("name")
                if name is not None:
                    self.scopes[0].setdefault(_text(name), _Thing(function=node))
        self.block(root)
        # What nobody calls here is called by somebody else.
        for node in _walk(root):
            if (
                node.type
                in (
                    "function_declaration",
                    "method_definition",
                    "function_expression",
                    "arrow_function",
                    "function",
                )
                and node.id not in self.entered
            ):
                self._enter(node, [])

    def block(self, node: Any) -> None:
        for child in node.named_children:
            if not self.session.step():
                return
            self.statement(child)

    def statement(self, node: Any) -> None:
        kind = node.type
        if kind in ("lexical_declaration", "variable_declaration"):
            for it in node.named_children:
                if it.type == "variable_declarator":
                    value = it.child_by_field_name("value")
                    thing = self.eval(value) if value is not None else _NOTHING
                    self._bind(it.child_by_field_name("name"), thing)
        elif kind == "import_statement":
            self._import(node)
        elif kind == "return_statement":
            if node.named_children:
                self.returned.append(self.eval(node.named_children[0]))
        elif kind in (
            "function_declaration",
            "generator_function_declaration",
            "comment",
            "interface_declaration",
            "type_alias_declaration",
        ):
            return
        elif kind == "for_in_statement":
            thing = self.eval(node.child_by_field_name("right"))
            body = node.child_by_field_name("body")
            for it in thing.items[:_LOOPS] or [_Thing(thing.value.opaque())]:
                self._bind(node.child_by_field_name("left"), it)
                if body is not None:
                    self.statement(body)
        elif kind.endswith(
            ("_statement", "_clause", "_block", "_declaration", "_body", "_case")
        ) or kind in ("statement_block", "program", "switch_default", "ERROR"):
            self._nested(node)
        else:
            self.eval(node)

    def _nested(self, node: Any) -> None:
        if self.depth > MAX_DEPTH:
            return
        self.depth += 1
        try:
            self.block(node)
        finally:
            self.depth -= 1

    def _import(self, node: Any) -> None:
        source = node.child_by_field_name("source")
        module = _module(_text(source).strip("'\"")) if source is not None else ""
        for it in _walk(node):
            if it.type == "namespace_import" or (
                it.type == "identifier" and it.parent.type == "import_clause"
            ):
                name = it.named_children[0] if it.type == "namespace_import" else it
                self.scopes[0][_text(name)] = _Thing(dotted=module)
            elif it.type == "import_specifier":
                name = it.child_by_field_name("name")
                alias = it.child_by_field_name("alias") or name
                if name is not None:
                    self.scopes[0][_text(alias)] = _Thing(dotted=f"{module}.{_text(name)}")

    def _bind(self, target: Any, thing: _Thing, *, assigns: bool = False) -> None:
        if target is None:
            return
        kind = target.type
        if kind in ("identifier", "shorthand_property_identifier_pattern"):
            name = _text(target)
            scope = self.scopes[-1]
            if assigns:  # a variable of a scope around this one
                scope = next((it for it in reversed(self.scopes) if name in it), scope)
            held = scope.get(name)
            if held is not None and held.value.labels and thing.function is None:
                thing = _Thing(
                    thing.value.with_labels(held.value.labels),
                    thing.dotted,
                    None,
                    thing.items,
                    thing.fields,
                )
            scope[name] = thing
        elif kind in ("lexical_declaration", "variable_declaration", "variable_declarator"):
            for it in target.named_children:
                self._bind(it, thing)
        elif kind == "object_pattern":
            for it in target.named_children:
                if it.type == "shorthand_property_identifier_pattern":
                    self._bind(it, self._member(thing, _text(it)))
                elif it.type == "pair_pattern":
                    key, value = it.child_by_field_name("key"), it.child_by_field_name("value")
                    self._bind(value, self._member(thing, _text(key) if key is not None else ""))
                elif it.type == "object_assignment_pattern":
                    left = it.child_by_field_name("left")
                    if left is not None:
                        self._bind(left, self._member(thing, _text(left)))
        elif kind == "array_pattern":
            for at, it in enumerate(target.named_children):
                self._bind(
                    it, thing.items[at] if at < len(thing.items) else _Thing(thing.value.opaque())
                )
        elif kind in ("member_expression", "subscript_expression"):
            base = target.child_by_field_name("object")
            if base is not None and base.type == "identifier":
                held = self._get(_text(base))
                name = self._key(target)
                if held.dotted.endswith("process.env"):
                    self.session.act(
                        Act("command", self._line(target), Value(f"{name}={thing.value.text}"), "=")
                    )
                fields = {**held.fields, name: thing}
                self.scopes[-1][_text(base)] = _Thing(
                    held.value.with_labels(thing.value.labels),
                    held.dotted,
                    held.function,
                    held.items,
                    fields,
                )
            elif base is not None and self.eval(base).dotted == "process.env":
                self.session.act(
                    Act(
                        "command",
                        self._line(target),
                        Value(f"{self._key(target)}={thing.value.text}"),
                        "=",
                    )
                )
        elif kind == "assignment_pattern":
            left, right = target.child_by_field_name("left"), target.child_by_field_name("right")
            self._bind(left, thing if thing is not _NOTHING or right is None else self.eval(right))

    def _get(self, name: str) -> _Thing:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return _Thing(dotted=name)

    def _key(self, node: Any) -> str:
        prop = node.child_by_field_name("property")
        if prop is not None:
            return _text(prop)
        index = node.child_by_field_name("index")
        value = self.eval(index).value if index is not None else UNKNOWN
        return value.text if value.known else ""

    # --- expressions

    def eval(self, node: Any) -> _Thing:
        if node is None or self.depth > MAX_DEPTH or not self.session.step():
            return _NOTHING
        self.depth += 1
        try:
            return self._eval(node)
        finally:
            self.depth -= 1

    def _eval(self, node: Any) -> _Thing:
        kind = node.type
        if kind == "string":
            return _Thing(self._literal(unescaped(_text(node)[1:-1])))
        if kind == "template_string":
            made = EMPTY
            for it in node.children:
                if it.type in ("string_fragment", "escape_sequence"):
                    made += self._literal(unescaped(_text(it)))
                elif it.type == "template_substitution" and it.named_children:
                    made += self.eval(it.named_children[0]).value
            return _Thing(made)
        if kind == "number":
            return _Thing(Value(_text(node)))
        if kind in ("identifier", "shorthand_property_identifier", "this", "undefined"):
            return self._get(_text(node))
        if kind in ("member_expression", "subscript_expression"):
            return self._access(node)
        if kind in ("call_expression", "new_expression"):
            return self._call(node)
        if kind == "binary_expression":
            left, right = (
                self.eval(node.child_by_field_name("left")),
                self.eval(node.child_by_field_name("right")),
            )
            operator = node.child_by_field_name("operator")
            if operator is not None and _text(operator) == "+":
                return _Thing(left.value + right.value)
            if operator is not None and _text(operator) in ("||", "??"):
                best = (
                    left if left.value.known or (left.dotted and not right.value.known) else right
                )
                return _Thing(
                    best.value.with_labels(left.value.labels | right.value.labels),
                    best.dotted,
                    best.function,
                    best.items,
                    best.fields,
                )
            return _Thing(union((left.value, right.value)))
        if kind == "array":
            items = [self.eval(it) for it in node.named_children]
            return _Thing(union(it.value for it in items), items=items)
        if kind == "object":
            return self._object(node)
        if kind in ("arrow_function", "function_expression", "function", "generator_function"):
            return _Thing(function=node)
        if kind in ("assignment_expression", "augmented_assignment_expression"):
            right = self.eval(node.child_by_field_name("right"))
            left = node.child_by_field_name("left")
            if kind.startswith("augmented") and left is not None:
                right = _Thing(self.eval(left).value + right.value)
            self._bind(left, right, assigns=True)
            return right
        if kind == "ternary_expression":
            a, b = (
                self.eval(node.child_by_field_name("consequence")),
                self.eval(node.child_by_field_name("alternative")),
            )
            best = a if a.value.known else b
            return _Thing(
                best.value.with_labels(a.value.labels | b.value.labels), a.dotted or b.dotted
            )
        if kind in (
            "parenthesized_expression",
            "await_expression",
            "non_null_expression",
            "spread_element",
            "as_expression",
            "satisfies_expression",
            "unary_expression",
        ):
            return self.eval(node.named_children[0]) if node.named_children else _NOTHING
        if kind == "statement_block":
            self._nested(node)
            return _NOTHING
        parts = [self.eval(it).value for it in node.named_children]
        return _Thing(union(parts))

    def _literal(self, text: str) -> Value:
        return Value(text, self.outer if HOLE in text else frozenset())

    def _object(self, node: Any) -> _Thing:
        fields: dict[str, _Thing] = {}
        parts: list[Value] = []
        for it in node.named_children:
            if it.type == "pair":
                key, value = it.child_by_field_name("key"), it.child_by_field_name("value")
                thing = self.eval(value)
                fields[_text(key).strip("'\"") if key is not None else ""] = thing
                parts.append(thing.value)
            elif it.type == "shorthand_property_identifier":
                thing = self._get(_text(it))
                fields[_text(it)] = thing
                parts.append(thing.value)
            elif it.type == "spread_element":
                thing = self.eval(it)
                fields.update(thing.fields)
                parts.append(thing.value)
            elif it.type == "method_definition":
                continue
            else:
                parts.append(self.eval(it).value)
        return _Thing(union(parts), fields=fields)

    def _access(self, node: Any) -> _Thing:
        holder = self.eval(node.child_by_field_name("object"))
        name = self._key(node)
        if node.type == "subscript_expression":
            index = node.child_by_field_name("index")
            if (
                re.fullmatch(r"[A-Za-z_]\w+", name)
                and index is not None
                and index.type
                in ("binary_expression", "call_expression", "identifier", "template_string")
            ):
                self.session.act(
                    Act(
                        "import",
                        self._line(node),
                        Value(name),
                        f"{holder.dotted}.{name}",
                        how="by a name put together",
                    )
                )
            if name.isdigit() and int(name) < len(holder.items):
                return holder.items[int(name)]
        return self._member(holder, name)

    def _member(self, holder: _Thing, name: str) -> _Thing:
        if name in holder.fields:
            return holder.fields[name]
        dotted = (
            holder.dotted.removeprefix("globalThis.")
            .removeprefix("global.")
            .removeprefix("window.")
        )
        if dotted in ("globalThis", "global", "window", "self"):
            return self._get(name)
        dotted = f"{dotted}.{name}" if dotted else f"?.{name}"
        if dotted in ("process.env", "Deno.env", "Bun.env", "import.meta.env"):
            return _Thing(Value(HOLE, frozenset({Label("environment")})), "process.env")
        if holder.dotted == "process.env":
            return _Thing(
                Value("~")
                if name in ("HOME", "USERPROFILE")
                else Value(HOLE, label_of_variable(name))
            )
        if dotted == "process.argv":
            return _Thing(Value(HOLE, frozenset({Label("input")})))
        return _Thing(
            picked(holder.value, name) if holder.value.labels else UNKNOWN,
            dotted,
            items=holder.items if name == "value" else [],
        )

    # --- calls

    def _call(self, node: Any) -> _Thing:
        callee = node.child_by_field_name("function") or node.child_by_field_name("constructor")
        listed = node.child_by_field_name("arguments")
        base = _NOTHING
        function = self.eval(callee)
        if callee is not None and callee.type in ("member_expression", "subscript_expression"):
            base = self.eval(callee.child_by_field_name("object"))
        arguments: list[_Thing] = []
        if listed is not None and listed.type == "template_string":
            arguments = [self.eval(listed)]
        elif listed is not None:
            arguments = [self.eval(it) for it in listed.named_children]
        if callee is not None and callee.type == "import":
            function = _Thing(dotted="require")
        if function.function is not None:
            return self._enter(function.function, arguments)
        name = function.dotted.rsplit(".", 1)[-1]
        callback = arguments[0].function if arguments else None
        if base.items and callback is not None and name in ("map", "forEach", "flatMap"):
            each = [self._enter(callback, [it]) for it in base.items[:_LOOPS]]
            return _Thing(union(it.value for it in each), items=each)
        everything = union([function.value, base.value, *(it.value for it in arguments)])
        folded = self._folded(function.dotted, base, node, arguments, everything)
        made = (
            folded
            if folded is not None
            else self._effect(function.dotted, node, base, arguments, everything)
        )
        for it in arguments:
            if it.function is not None:  # callbacks are called with what the call gives
                given = _Thing(made.value.opaque().with_labels(base.value.labels))
                self._enter(it.function, [given, given])
        return made

    def _folded(
        self, dotted: str, base: _Thing, node: Any, arguments: Sequence[_Thing], everything: Value
    ) -> _Thing | None:
        first = arguments[0].value if arguments else EMPTY
        name = dotted.rsplit(".", 1)[-1]
        if dotted == "require" and arguments:
            if first.known and node.child_by_field_name("arguments").named_children[0].type not in (
                "string",
                "template_string",
            ):
                self.session.act(
                    Act("import", self._line(node), first, first.text, how="by a name put together")
                )
            return _Thing(dotted=_module(first.text) if first.known else "")
        if dotted == "atob" or (
            dotted == "Buffer.from" and len(arguments) > 1 and "base64" in arguments[1].value.text
        ):
            said = base64_text(first.text) if first.known else ""
            return _Thing(Value(said or HOLE, first.labels | {Label("decoded", "base64")}))
        if dotted == "Buffer.from" and len(arguments) > 1 and arguments[1].value.text == "hex":
            said = hex_text(first.text) if first.known else ""
            return _Thing(Value(said or HOLE, first.labels | {Label("decoded", "hex")}))
        if dotted in ("String.fromCharCode", "String.fromCodePoint"):
            numbers = [
                it.value.text
                for it in (
                    arguments[0].items if len(arguments) == 1 and arguments[0].items else arguments
                )
            ]
            if numbers and all(it.isdigit() and int(it) < 0x110000 for it in numbers):
                return _Thing(
                    Value(
                        "".join(chr(int(it)) for it in numbers),
                        frozenset({Label("decoded", "numbers")} if len(numbers) > 3 else ()),
                    )
                )
            return _Thing(everything)
        if name == "join" and base.items:
            separator = first.text if arguments else ","
            made = EMPTY
            for at, it in enumerate(base.items[:4_000]):
                made = made + Value(separator) + it.value if at else made + it.value
            return _Thing(made)
        if name == "reverse" and base.items:
            return _Thing(base.value, items=base.items[::-1])
        if name == "split" and base.value.known and first.known and base.value.text:
            texts = base.value.text.split(first.text) if first.text else list(base.value.text)
            return _Thing(
                base.value, items=[_Thing(Value(it, base.value.labels)) for it in texts[:4_000]]
            )
        if name == "concat" and base.value.known and not base.items:
            made = base.value
            for it in arguments:
                made += it.value
            return _Thing(made)
        if name in ("toString", "trim", "toLowerCase", "valueOf", "normalize") and base.value.known:
            return _Thing(base.value)
        if (
            name in ("replace", "replaceAll")
            and base.value.known
            and len(arguments) == 2
            and all(it.value.known for it in arguments)
            and arguments[0].value.text
        ):
            return _Thing(
                Value(
                    base.value.text.replace(arguments[0].value.text, arguments[1].value.text),
                    base.value.labels,
                )
            )
        if dotted in ("path.join", "path.resolve", "join", "path.posix.join"):
            made = EMPTY
            for at, it in enumerate(arguments):
                made = made + Value("/") + it.value if at else made + it.value
            return _Thing(made)
        if dotted in ("os.homedir", "homedir"):
            return _Thing(Value("~"))
        if dotted in ("util.promisify", "promisify") and arguments:
            return arguments[0]
        if dotted in (
            "decodeURIComponent",
            "unescape",
            "JSON.stringify",
            "JSON.parse",
            "String",
            "encodeURIComponent",
            "btoa",
        ):
            return _Thing(
                first
                if dotted == "String"
                else first.with_labels(everything.labels)
                if dotted in ("JSON.stringify", "JSON.parse")
                else first.opaque()
            )
        return None

    def _effect(
        self, dotted: str, node: Any, base: _Thing, arguments: Sequence[_Thing], everything: Value
    ) -> _Thing:
        first = arguments[0].value if arguments else EMPTY
        line = self._line(node)
        name = dotted.rsplit(".", 1)[-1]
        if (
            dotted
            in (
                "eval",
                "Function",
                "vm.runInNewContext",
                "vm.runInThisContext",
                "vm.Script",
                "setTimeout",
                "setInterval",
            )
            and arguments
        ):
            code = arguments[-1].value if dotted == "Function" else first
            if dotted.startswith("set") and (arguments[0].function is not None or not first.known):
                return _NOTHING
            if code.text.strip(HOLE) or code.labels:
                self.session.run("javascript", code, line, dotted)
            return _Thing(code.opaque())
        if name == "constructor" and first.known and first.text:
            self.session.run("javascript", first, line, "constructor")
            return _NOTHING
        if dotted in ("process.binding", "process.dlopen"):
            self.session.act(Act("import", line, first, dotted, how="native"))
        if _SHELL.search(dotted):
            return _Thing(self.session.run("shell", first, line, dotted))
        if _SPAWN.search(dotted):
            return self._spawn(dotted, arguments, line)
        if _READ.search(dotted):
            return _Thing(
                self.session.read(first.text, line).with_labels(first.labels - {Label("input")})
            )
        if _WRITE.search(dotted):
            content = arguments[1].value if len(arguments) > 1 else UNKNOWN
            self.session.write(first.text, content, line, append="append" in dotted)
            return _NOTHING
        if (
            re.search(r"(?:^|\.)(?:unlinkSync|unlink|rmSync|rm|rmdirSync|rimraf)$", dotted)
            and arguments
        ):
            self.session.act(
                Act(
                    "delete",
                    line,
                    first,
                    first.text,
                    how="-rf" if "ecursive" in _text(node)[:300] else "",
                )
            )
            return _NOTHING
        if re.search(r"(?:^|\.)(?:chmodSync|chmod)$", dotted) and len(arguments) > 1:
            words = (Value("chmod"), Value(arguments[1].value.text.replace("0o", "")), first)
            self.session.act(
                Act("command", line, Value(" ".join(it.text for it in words)), "chmod", words)
            )
            return _NOTHING
        if dotted in (
            "os.hostname",
            "os.userInfo",
            "os.networkInterfaces",
            "os.platform",
            "hostname",
            "userInfo",
        ):
            return _Thing(Value(HOLE, frozenset({Label("host", dotted)})))
        if dotted in (
            "Object.entries",
            "Object.keys",
            "Object.values",
            "Object.assign",
            "Object.fromEntries",
        ):
            labels = (
                everything.labels
                if not dotted.endswith("keys")
                else everything.labels - {Label("environment")}
            )
            return _Thing(Value(HOLE, labels))
        if dotted in ("Deno.env.get", "process.env.get"):
            return _Thing(Value(HOLE, label_of_variable(first.text)))
        if dotted == "Deno.env.toObject":
            return _Thing(Value(HOLE, frozenset({Label("environment")})))
        if dotted in ("clipboardy.read", "clipboardy.readSync", "navigator.clipboard.readText"):
            return _Thing(Value(HOLE, frozenset({Label("clipboard")})))
        if _FETCH.search(dotted) or (
            dotted.endswith((".post", ".put")) and first.text.startswith("http")
        ):
            return self._request(dotted, node, arguments)
        if dotted in (
            "net.connect",
            "net.createConnection",
            "tls.connect",
            "net.Socket().connect",
            "net.Socket",
        ) or (name == "connect" and "Socket" in base.dotted):
            host = next((it.value.text for it in arguments if "." in it.value.text), "") or (
                arguments[0].fields.get("host", _NOTHING).value.text if arguments else ""
            )
            self.session.act(Act("fetch", line, EMPTY, host, how="socket"))
            return _Thing(Value(HOLE, frozenset({Label("network", host)})), "socket")
        if (
            name == "pipe"
            and base.dotted
            and (
                base.dotted.startswith("socket")
                or (arguments and arguments[0].dotted.startswith("spawned"))
            )
        ):
            host = next(iter(base.value.details("network") or everything.details("network")), "")
            self.session.act(Act("shell-socket", line, UNKNOWN, host, how="pipe"))
            return _NOTHING
        if (
            name in ("write", "end", "send")
            and (
                everything.has("credential", "environment", "env", "history", "host")
                or base.dotted.startswith(("http", "socket", "ws", "XMLHttp", "?.request"))
            )
            and arguments
        ):
            target = next(iter(base.value.details("network")), "")
            if base.dotted.startswith(("http", "socket", "ws", "XMLHttp")) or target:
                self.session.act(Act("send", line, first, target, how="body"))
            return _NOTHING
        if (
            re.search(r"(?:^|\.)(?:resolve|lookup|resolve4|resolveTxt)$", dotted)
            and dotted.startswith("dns")
            and first.labels - {Label("input")}
        ):
            self.session.act(
                Act("send", line, first, first.text.rsplit(HOLE, 1)[-1].lstrip("."), how="dns")
            )
            return _NOTHING
        if (name in ("push", "unshift") and base.dotted == "") or name == "push":
            return _Thing(everything)
        keep = (
            dotted + "()"
            if dotted.split(".", maxsplit=1)[0]
            in ("http", "https", "net", "XMLHttpRequest", "WebSocket", "axios", "got")
            else ""
        )
        return _Thing(everything, keep, items=base.items if name in ("filter", "slice") else [])

    def _spawn(self, dotted: str, arguments: Sequence[_Thing], line: int) -> _Thing:
        del dotted
        if not arguments:
            return _NOTHING
        rest = arguments[1].items if len(arguments) > 1 else []
        words = [arguments[0].value, *(it.value for it in rest)]
        shown = " ".join(
            it.text
            if re.fullmatch(r"[\w./:@%+=,-]+", it.text)
            else "'" + it.text.replace("'", "'\\''") + "'"
            for it in words
        )
        reader = self.session.languages.get("shell")
        labels = union([it.value for it in arguments[:2]]).labels
        if reader is not None and self.session.depth < 4:
            self.session.depth += 1
            try:
                reader(
                    self.session, Value(shown if rest else arguments[0].value.text, labels), line
                )
            finally:
                self.session.depth -= 1
        shell_ = re.search(r"(?:^|/)(?:ba|z|da)?sh$|cmd(?:\.exe)?$", arguments[0].value.text)
        return _Thing(Value(HOLE, labels), "spawned" if shell_ else "")

    def _request(self, dotted: str, node: Any, arguments: Sequence[_Thing]) -> _Thing:
        line = self._line(node)
        first = arguments[0] if arguments else _NOTHING
        options = next((it for it in arguments[1:] if it.fields), _NOTHING)
        url = first.value
        if first.fields and not first.value.known:
            options = first
            found = (
                first.fields.get("url")
                or first.fields.get("hostname")
                or first.fields.get("host")
                or _NOTHING
            )
            url = found.value
        body = [
            options.fields[key].value
            for key in ("body", "data", "json", "form", "params")
            if key in options.fields
        ]
        method = options.fields.get("method", _NOTHING).value.text.upper()
        if re.search(r"\.(?:post|put|patch)$", dotted) or dotted == "navigator.sendBeacon":
            body += [
                it.value
                for it in arguments[1:2]
                if not (
                    it.fields
                    and ("body" in it.fields or "json" in it.fields or "headers" in it.fields)
                )
            ]
        headers = options.fields.get("headers", options.fields.get("auth", _NOTHING)).value
        if body:
            self.session.act(
                Act("send", line, body[0] if len(body) == 1 else union(body), url.text, how="body")
            )
        if headers.labels:
            self.session.act(Act("send", line, headers, url.text, how="header"))
        if url.labels - {Label("input")}:
            self.session.act(Act("send", line, url, url.text, how="url"))
        if not body:
            self.session.act(Act("fetch", line, EMPTY, url.text, how=method))
        keep = "http.request()" if dotted.startswith(("http.", "https.")) else ""
        return _Thing(Value(HOLE, frozenset({Label("network", url.text)})), keep)

    def _enter(self, node: Any, arguments: Sequence[_Thing]) -> _Thing:
        times = self.entered.get(node.id, 0)
        if times >= _LOOPS + 2 or len(self.scopes) > 12:
            return _Thing(union([it.value for it in arguments]))
        self.entered[node.id] = times + 1
        scope: dict[str, _Thing] = {}
        self.scopes.append(scope)
        saved, self.returned = self.returned, []
        try:
            parameters = node.child_by_field_name("parameters") or node.child_by_field_name(
                "parameter"
            )
            if parameters is not None:
                listed = (
                    [parameters] if parameters.type == "identifier" else parameters.named_children
                )
                for at, it in enumerate(listed):
                    typed = it.type in ("required_parameter", "optional_parameter")
                    pattern = (it.child_by_field_name("pattern") or it) if typed else it
                    given = (
                        arguments[at]
                        if at < len(arguments)
                        else _Thing(Value(HOLE, frozenset({Label("input")})))
                    )
                    self._bind(pattern, given)
            body = node.child_by_field_name("body")
            if body is None:
                return _NOTHING
            if body.type == "statement_block":
                self._nested(body)
                if not self.returned:
                    return _NOTHING
                one = next((it for it in self.returned if it.value.known), self.returned[0])
                labels = union(it.value for it in self.returned).labels
                return _Thing(
                    one.value.with_labels(labels), one.dotted, one.function, one.items, one.fields
                )
            return self.eval(body)
        finally:
            self.scopes.pop()
            self.returned = saved

    def _line(self, node: Any) -> int:
        return self.first + int(node.start_point[0])


def _text(node: Any) -> str:
    return node.text.decode("utf-8", "replace") if node is not None and node.text else ""


def _module(name: str) -> str:
    found = _MODULES.match(name)
    plain = found[1] if found else name
    return {
        "fs/promises": "fs",
        "fs-extra": "fs",
        "original-fs": "fs",
        "node-fetch": "node_fetch",
        "undici": "undici",
        "axios": "axios",
    }.get(plain, plain).replace("/", ".")


def _walk(root: Any) -> Iterator[Any]:
    """All nodes, without recursion: hostile code nests deeper than Python's stack."""
    stack, seen = [root], 0
    while stack:
        node = stack.pop()
        seen += 1
        if seen > 200_000:
            return
        yield node
        stack.extend(reversed(node.named_children))
