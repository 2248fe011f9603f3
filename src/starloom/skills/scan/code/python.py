"""Python as acts: a forward pass over the syntax tree that follows values through names and calls.

Constants are folded (`'ev' + 'al'`, `chr(...)`, `bytes.fromhex`, `b64decode`), imports and aliases are
followed to full dotted names, functions are entered with what their callers pass. Branches are all
taken and joined; loops run once over the union. That finds flows that may happen, not all that can.
"""

import ast
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

from starloom.skills.scan.decode import base64_text, hex_text, readable, rot13
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

_SEND = re.compile(
    r"^(?:requests|httpx|aiohttp|urllib3)\b.*\.(?:post|put|patch|request|delete)$|^urllib\.request\.(?:urlopen|Request)$|"
    r"\.(?:sendall|sendto|send_message|sendmail|storbinary|upload_file|upload_fileobj|put_object|putrequest)$|"
    r"^(?:requests|httpx|aiohttp)\b.*\.(?:get|head|options|stream)$|^urllib\.urlopen$|^http\.client\.\w+\.request$|\.(?:urlopen|request)$|"
    r"^(?:session|client|http|s|sess)\.(?:post|put|patch|get)$"
)
_GET = re.compile(r"\.(?:get|head|options|stream|urlopen|urlretrieve)$|^urlopen$")
_RUN_SHELL = re.compile(
    r"^os\.(?:system|popen|popen[234])$|^subprocess\.(?:getoutput|getstatusoutput)$|^commands\.get\w+$|^pty\.spawn$|asyncio\.create_subprocess_shell$"
)
_RUN_ARGS = re.compile(
    r"^subprocess\.(?:run|call|Popen|check_call|check_output)$|^os\.(?:exec[lv]\w*|spawn\w+|posix_spawn)$|asyncio\.create_subprocess_exec$"
)
_DESERIALISE = re.compile(
    r"^(?:pickle|cPickle|_pickle|dill|cloudpickle|marshal|jsonpickle|shelve|joblib)\.(?:loads?|decode|open|Unpickler)$|^torch\.load$"
)
_HOST = re.compile(
    r"^(?:platform|socket)\.(?:node|gethostname|getfqdn|uname|platform)$|^getpass\.getuser$|^os\.(?:getlogin|uname)$|^uuid\.getnode$"
)
_BUILTINS = {
    "open",
    "eval",
    "exec",
    "compile",
    "getattr",
    "__import__",
    "input",
    "chr",
    "str",
    "bytes",
    "bytearray",
    "map",
    "print",
    "globals",
    "vars",
    "locals",
    "setattr",
    "list",
    "dict",
    "sorted",
    "repr",
    "type",
    "ord",
}
_PURE = re.compile(
    r"\.(?:strip|lstrip|rstrip|encode|decode|lower|upper|read|text|content|json|replace|splitlines|copy|expanduser|resolve|as_posix|items|values|keys|getvalue|hexdigest|digest)$"
)


_LOOPS = 12
"""Rounds of a loop over known items."""


@dataclass(slots=True)
class _Function:
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    active: bool = False
    runs: int = 0


@dataclass(slots=True)
class Thing:
    """What a name may stand for: a value, a dotted name (module, function, instance), a function here."""

    value: Value = UNKNOWN
    dotted: str = ""
    function: _Function | None = None
    items: list["Thing"] = field(default_factory=list)

    def with_labels(self, labels: frozenset[Label]) -> "Thing":
        return Thing(self.value.with_labels(labels), self.dotted, self.function, self.items)


_NOTHING = Thing()


def python(session: Session, code: Value, line: int) -> Value:
    """The language `python`, for a session. Code that does not parse is left to the text checks."""
    tree = parsed(code.text)
    if tree is None:
        return code.opaque()
    _Reader(session, line - 1, code.labels).module(tree)
    return UNKNOWN


def parsed(text: str) -> ast.Module | None:
    """The tree of a script, of an indented piece, or of one with holes; None where there is none."""
    text = text.replace("\x00", "")
    tries = [text.lstrip("\ufeff")]
    if HOLE in text:
        tries.append(text.replace(HOLE, "_"))
    tries.append("if 1:\n" + "\n".join(" " + it for it in text.split("\n")))
    for it in tries:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(it)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


class _Reader:
    def __init__(self, session: Session, first: int, outer: frozenset[Label]) -> None:
        self.session = session
        self.first = first
        self.outer = outer
        self.scopes: list[dict[str, Thing]] = [{}]
        self.returned: list[Thing] = []
        self.depth = 0

    def module(self, tree: ast.Module) -> None:
        # Functions first, so that a call above a definition finds it.
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self.scopes[0].setdefault(node.name, Thing(function=_Function(node)))
        self.body(tree.body)
        for thing in list(self.scopes[0].values()):
            if thing.function and not thing.function.runs:
                self._enter(thing.function, [], {})
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for it in node.body:
                    if isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef):
                        self._enter(_Function(it), [], {})

    # --- names

    def _get(self, name: str) -> Thing:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        if name in _BUILTINS:
            return Thing(dotted=name)
        return Thing(dotted=name)

    def _set(self, name: str, thing: Thing) -> None:
        scope = self.scopes[-1]
        held = scope.get(name)
        if held is not None and held.value.labels and not thing.function:
            # Branches are joined: a label is not lost by another assignment.
            thing = Thing(
                thing.value.with_labels(held.value.labels), thing.dotted, None, thing.items
            )
        scope[name] = thing

    # --- statements

    def body(self, nodes: Sequence[ast.stmt]) -> None:
        for node in nodes:
            if not self.session.step():
                return
            self._statement(node)

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Import(names=names):
                for it in names:
                    root = it.name if it.asname else it.name.split(".")[0]
                    self._set(it.asname or root, Thing(dotted=root))
            case ast.ImportFrom(module=module, names=names):
                for it in names:
                    self._set(
                        it.asname or it.name, Thing(dotted=f"{module or ''}.{it.name}".lstrip("."))
                    )
            case ast.Assign(targets=targets, value=value):
                thing = self.eval(value)
                for target in targets:
                    self._bind(target, thing, node)
            case ast.AnnAssign(target=target, value=value) if value is not None:
                self._bind(target, self.eval(value), node)
            case ast.AugAssign(target=target, value=value):
                old, new = self.eval(target), self.eval(value)
                self._bind(
                    target,
                    Thing(
                        old.value + new.value if old.value.known else union((old.value, new.value))
                    ),
                    node,
                )
            case ast.Expr(value=value):
                self.eval(value)
            case ast.Return(value=value) if value is not None:
                self.returned.append(self.eval(value))
            case (
                ast.For(target=target, iter=iterated, body=body, orelse=orelse)
                | ast.AsyncFor(target=target, iter=iterated, body=body, orelse=orelse)
            ):
                thing = self.eval(iterated)
                for each in thing.items[:_LOOPS] or [Thing(union((thing.value,)))]:
                    self._bind(target, each, node)
                    self.body(body)
                self.body(orelse)
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                for item in items:
                    thing = self.eval(item.context_expr)
                    if item.optional_vars is not None:
                        self._bind(item.optional_vars, thing, node)
                self.body(body)
            case (
                ast.FunctionDef(name=name, decorator_list=decorators)
                | ast.AsyncFunctionDef(name=name, decorator_list=decorators)
            ):
                self.scopes[-1][name] = self.scopes[0].get(name) or Thing(function=_Function(node))
                for decorator in decorators:
                    self.eval(decorator)
            case ast.ClassDef(name=name, body=body):
                self._set(name, Thing(dotted=name))
                self.body(
                    [
                        it
                        for it in body
                        if not isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef)
                    ]
                )
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self.eval(child)
                    elif isinstance(child, ast.stmt):
                        self.body([child])
                    elif isinstance(child, (ast.ExceptHandler, ast.match_case)):
                        self.body(child.body)

    def _bind(self, target: ast.expr, thing: Thing, node: ast.stmt) -> None:
        match target:
            case ast.Name(id=name):
                self._set(name, thing)
            case ast.Attribute(value=ast.Name(id=base), attr=attribute):
                self._set(f"{base}.{attribute}", thing)
                if base == "sys" and attribute == "stdout":
                    return
            case ast.Tuple(elts=elts) | ast.List(elts=elts):
                for at, it in enumerate(elts):
                    inner = (
                        thing.items[at] if at < len(thing.items) else Thing(thing.value.opaque())
                    )
                    self._bind(it, inner, node)
            case ast.Subscript(value=base, slice=key):
                holder = self.eval(base)
                if holder.dotted == "os.environ":
                    name = self.eval(key).value.text
                    self._act(
                        "command",
                        node,
                        Value(f"{name}={thing.value.text}", thing.value.labels),
                        "=",
                    )
                elif isinstance(base, ast.Name):
                    merged = holder.value.with_labels(thing.value.labels).opaque()
                    self.scopes[-1][base.id] = Thing(merged, holder.dotted)
            case _:
                return

    # --- expressions

    def eval(self, node: ast.expr) -> Thing:
        if self.depth > 60 or not self.session.step():
            return _NOTHING
        self.depth += 1
        try:
            return self._eval(node)
        finally:
            self.depth -= 1

    def _value(self, node: ast.expr) -> Value:
        return self.eval(node).value

    def _eval(self, node: ast.expr) -> Thing:
        match node:
            case ast.Constant(value=constant):
                return Thing(self._constant(constant))
            case ast.Name(id=name):
                return self._get(name)
            case ast.Attribute(value=base, attr=attribute):
                return self._attribute(base, attribute)
            case ast.JoinedStr(values=values):
                made = EMPTY
                for it in values:
                    inner = it.value if isinstance(it, ast.FormattedValue) else it
                    made += self._value(inner)
                return Thing(made)
            case ast.BinOp(left=left, op=op, right=right):
                a, b = self.eval(left), self.eval(right)
                if isinstance(op, ast.Add):
                    return Thing(a.value + b.value, items=[*a.items, *b.items])
                if isinstance(op, ast.Mod):
                    return Thing(_percent(a.value, b))
                if isinstance(op, ast.Div):
                    return Thing(
                        a.value + Value("/") + b.value, "pathlib.Path" if "Path" in a.dotted else ""
                    )
                if isinstance(op, ast.BitXor):
                    return Thing(
                        union((a.value, b.value)).with_labels(
                            {Label("decoded", "xor")}
                            if (a.value.labels or b.value.labels) & {Label("decoded", "base64")}
                            else ()
                        )
                    )
                return Thing(union((a.value, b.value)))
            case ast.List(elts=elts) | ast.Tuple(elts=elts) | ast.Set(elts=elts):
                items = [self.eval(it) for it in elts]
                return Thing(union(it.value for it in items), items=items)
            case ast.Dict(keys=keys, values=values):
                parts = [self._value(it) for it in (*keys, *values) if it is not None]
                return Thing(union(parts))
            case ast.Call():
                return self._call(node)
            case ast.Subscript(value=base, slice=key):
                return self._subscript(base, key)
            case ast.IfExp(body=body, orelse=orelse, test=test):
                self.eval(test)
                a, b = self.eval(body), self.eval(orelse)
                return Thing(
                    (a.value if a.value.known else b.value).with_labels(
                        a.value.labels | b.value.labels
                    ),
                    a.dotted or b.dotted,
                )
            case ast.BoolOp(values=values):
                things = [self.eval(it) for it in values]
                known = next(
                    (it.value for it in things if it.value.known and it.value.text), things[0].value
                )
                return Thing(known.with_labels(union(it.value for it in things).labels))
            case ast.Lambda():
                return Thing(function=_Function(node))
            case (
                ast.ListComp(elt=elt, generators=generators)
                | ast.SetComp(elt=elt, generators=generators)
                | ast.GeneratorExp(elt=elt, generators=generators)
            ):
                return self._comprehension(elt, generators)
            case ast.DictComp(key=key, value=value, generators=generators):
                pair = ast.Tuple(elts=[key, value], ctx=ast.Load())
                return self._comprehension(ast.copy_location(pair, key), generators)
            case ast.Await(value=value) | ast.Starred(value=value) | ast.YieldFrom(value=value):
                return self.eval(value)
            case ast.NamedExpr(target=target, value=value):
                thing = self.eval(value)
                self._set(target.id, thing)
                return thing
            case _:
                parts = [
                    self._value(it) for it in ast.iter_child_nodes(node) if isinstance(it, ast.expr)
                ]
                return Thing(union(parts))

    def _constant(self, constant: object) -> Value:
        if isinstance(constant, bytes):
            return Value(constant.decode("latin-1"))
        if isinstance(constant, str):
            return Value(constant, self.outer if HOLE in constant else frozenset())
        return Value("" if constant is None or constant is Ellipsis else str(constant))

    def _attribute(self, base: ast.expr, attribute: str) -> Thing:
        if isinstance(base, ast.Name):
            for scope in reversed(self.scopes):
                if f"{base.id}.{attribute}" in scope:
                    return scope[f"{base.id}.{attribute}"]
        holder = self.eval(base)
        dotted = f"{holder.dotted}.{attribute}" if holder.dotted else f"?.{attribute}"
        value = holder.value.opaque() if holder.value.labels else UNKNOWN
        if dotted == "os.environ":
            value = Value(HOLE, frozenset({Label("environment")}))
        return Thing(value, dotted)

    def _subscript(self, base: ast.expr, key: ast.expr) -> Thing:
        holder = self.eval(base)
        if isinstance(key, ast.Slice):
            return Thing(_sliced(holder.value, key))
        name = self.eval(key)
        if holder.dotted == "os.environ":
            return Thing(Value(HOLE, label_of_variable(name.value.text)))
        if holder.dotted in (
            "globals()",
            "locals()",
            "vars()",
            "__builtins__.__dict__",
            "builtins.__dict__",
            "sys.modules",
        ) or holder.dotted.endswith("__dict__"):
            return self._looked_up(name.value, key)
        if holder.dotted == "sys.argv":
            return Thing(Value(HOLE, frozenset({Label("input")})))
        if (
            holder.items
            and isinstance(key, ast.Constant)
            and isinstance(key.value, int)
            and -len(holder.items) <= key.value < len(holder.items)
        ):
            return holder.items[key.value]
        return Thing(picked(holder.value, name.value.text))

    def _looked_up(self, name: Value, node: ast.AST) -> Thing:
        """`globals()['ev' + 'al']`: the name, and that it was put together at run time."""
        if name.known and re.fullmatch(r"[\w.]{1,60}", name.text):
            if not isinstance(node, ast.Constant):
                self._act("import", node, name, name.text, how="by a name put together")
            return Thing(dotted=name.text)
        return _NOTHING

    def _comprehension(self, elt: ast.expr, generators: list[ast.comprehension]) -> Thing:
        self.scopes.append({})
        try:
            things: list[Thing] = []
            for it in generators:
                iterated = self.eval(it.iter)
                first = it is generators[0]
                if (
                    first
                    and len(generators) == 1
                    and iterated.items
                    and len(iterated.items) <= 4_000
                    and isinstance(it.target, ast.Name)
                ):
                    for item in iterated.items:
                        self._bind(it.target, item, ast.Pass())
                        things.append(self.eval(elt))
                    return Thing(union(x.value for x in things), items=things)
                self._bind(it.target, Thing(iterated.value.opaque()), ast.Pass())
                for test in it.ifs:
                    self.eval(test)
            return Thing(self._value(elt))
        finally:
            self.scopes.pop()

    # --- calls

    def _call(self, node: ast.Call) -> Thing:
        function = self.eval(node.func)
        arguments = [self.eval(it) for it in node.args]
        named = {it.arg or "**": self.eval(it.value) for it in node.keywords}
        if function.function is not None:
            return self._enter(function.function, arguments, named)
        dotted = function.dotted
        if not dotted and isinstance(node.func, ast.Attribute):
            dotted = f"?.{node.func.attr}"
        everything = union(
            [function.value, *(it.value for it in arguments), *(it.value for it in named.values())]
        )
        folded = self._folded(dotted, node, arguments)
        if folded is not None:
            return folded
        return self._effect(dotted, node, arguments, named, everything)

    def _folded(self, dotted: str, node: ast.Call, arguments: list[Thing]) -> Thing | None:
        """Calls whose result is known from their arguments; None for all others."""
        first = arguments[0].value if arguments else EMPTY
        base = self.eval(node.func.value) if isinstance(node.func, ast.Attribute) else _NOTHING
        name = dotted.rsplit(".", 1)[-1]
        if name in (
            "b64decode",
            "urlsafe_b64decode",
            "standard_b64decode",
            "b32decode",
            "decodebytes",
            "a85decode",
            "b85decode",
        ):
            said = base64_text(first.text) if first.known else ""
            return Thing(Value(said or HOLE, first.labels | {Label("decoded", "base64")}))
        if name in ("fromhex", "unhexlify"):
            said = hex_text(first.text) if first.known else ""
            return Thing(Value(said or HOLE, first.labels | {Label("decoded", "hex")}))
        if dotted in ("zlib.decompress", "gzip.decompress", "lzma.decompress", "bz2.decompress"):
            return Thing(
                first.opaque().with_labels({Label("decoded", name)} if first.has("decoded") else ())
            )
        if name == "decode" and dotted.startswith("codecs.") and len(arguments) > 1:
            how = arguments[1].value.text.lower()
            said = (
                rot13(first.text)
                if "rot" in how and first.known
                else (base64_text(first.text) if "base64" in how else "")
            )
            return Thing(Value(said or HOLE, first.labels | {Label("decoded", how)}))
        if dotted in ("chr", "str", "bytes", "bytearray", "ord") and len(arguments) >= 1:
            if dotted == "chr" and first.text.isdigit() and int(first.text) < 0x110000:
                return Thing(Value(chr(int(first.text))))
            items = arguments[0].items
            if (
                dotted.startswith("byte")
                and items
                and all(it.value.text.isdigit() and int(it.value.text) < 256 for it in items)
            ):
                said = bytes(int(it.value.text) for it in items).decode("latin-1")
                return Thing(
                    Value(
                        said,
                        frozenset({Label("decoded", "numbers")}) if readable(said) else frozenset(),
                    )
                )
            return Thing(first)
        if dotted == "map" and len(arguments) == 2 and arguments[0].dotted in ("chr", "str"):
            items = [
                Thing(Value(chr(int(it.value.text))))
                if it.value.text.isdigit() and int(it.value.text) < 0x110000
                else it
                for it in arguments[1].items
            ]
            return Thing(
                union(it.value for it in items).with_labels({Label("decoded", "numbers")}),
                items=items,
            )
        if name == "join" and isinstance(node.func, ast.Attribute):
            separator = base.value
            if dotted.startswith(("os.path", "posixpath", "ntpath")):
                parts = [it.value for it in arguments]
                separator = Value("/")
            else:
                items = arguments[0].items if arguments else []
                parts = [it.value for it in items]
                if not items and arguments:
                    return Thing(first.opaque() if not first.known else first)
            made = EMPTY
            for at, it in enumerate(parts[:4_000]):
                made = made + separator + it if at else made + it
            short = sum(len(it.text) == 1 for it in parts)
            if (
                len(parts) >= 6
                and short == len(parts)
                and arguments
                and arguments[0].value.has("decoded")
            ):
                made = made.with_labels({Label("decoded", "characters")})
            return Thing(made, "")
        if name == "format" and base.value.known:
            text = base.value.text
            for given in arguments:
                text = text.replace("{}", given.value.text, 1)
            return Thing(Value(text, union([base.value, *(it.value for it in arguments)]).labels))
        if (
            name == "replace"
            and base.value.known
            and len(arguments) == 2
            and all(it.value.known for it in arguments)
        ):
            return Thing(
                Value(
                    base.value.text.replace(arguments[0].value.text, arguments[1].value.text),
                    base.value.labels,
                )
            )
        if (
            name
            in (
                "decode",
                "encode",
                "strip",
                "lower",
                "rstrip",
                "lstrip",
                "expanduser",
                "resolve",
                "as_posix",
            )
            and base.value.known
        ):
            text = base.value.text.lower() if name == "lower" else base.value.text
            return Thing(
                Value(text, base.value.labels), base.dotted if "Path" in base.dotted else ""
            )
        if name == "joinpath" or (
            dotted in ("pathlib.Path", "pathlib.PurePath", "Path") and arguments
        ):
            made = base.value if name == "joinpath" else EMPTY
            for given in arguments:
                made = made + Value("/") + given.value if made.text else made + given.value
            return Thing(made, "pathlib.Path")
        if dotted in ("pathlib.Path.home", "Path.home"):
            return Thing(Value("~"), "pathlib.Path")
        if (
            dotted.endswith((".expanduser", ".expandvars", ".abspath", ".realpath", ".normpath"))
            and arguments
        ):
            return Thing(first)
        if dotted in ("getattr", "builtins.getattr") and len(arguments) >= 2:
            holder, wanted = arguments[0], arguments[1].value
            if wanted.known and re.fullmatch(r"\w+", wanted.text):
                if not isinstance(node.args[1], ast.Constant):
                    self._act(
                        "import",
                        node,
                        wanted,
                        f"{holder.dotted}.{wanted.text}",
                        how="by a name put together",
                    )
                full = (
                    f"{holder.dotted}.{wanted.text}"
                    if holder.dotted not in ("__builtins__", "builtins")
                    else wanted.text
                )
                return Thing(holder.value, full)
            return Thing(holder.value.opaque(), "")
        if dotted in ("__import__", "importlib.import_module", "builtins.__import__") and arguments:
            if first.known and not isinstance(node.args[0], ast.Constant):
                self._act("import", node, first, first.text, how="by a name put together")
            return Thing(dotted=first.text if first.known else "")
        if name in ("get", "pop") and base.value.has("credential") and first.known:
            return Thing(picked(base.value, first.text))
        if dotted in ("globals", "locals", "vars") and not arguments:
            return Thing(dotted=f"{dotted}()")
        if dotted in ("list", "sorted", "reversed", "tuple", "set", "iter") and arguments:
            return arguments[0]
        return None

    def _effect(
        self,
        dotted: str,
        node: ast.Call,
        arguments: list[Thing],
        named: dict[str, Thing],
        everything: Value,
    ) -> Thing:
        first = arguments[0] if arguments else _NOTHING
        name = dotted.rsplit(".", 1)[-1]
        if dotted in (
            "os.getenv",
            "os.environ.get",
            "environ.get",
            "getenv",
            "os.environ.pop",
            "os.environ.setdefault",
        ):
            fallback = (
                arguments[1].value if len(arguments) > 1 and arguments[1].value.known else UNKNOWN
            )
            return Thing(Value(fallback.text or HOLE, label_of_variable(first.value.text)))
        if dotted in (
            "os.environ.copy",
            "os.environ.items",
            "os.environ.values",
            "dict",
        ) and everything.has("environment"):
            return Thing(Value(HOLE, frozenset({Label("environment")})))
        if dotted in ("open", "io.open", "codecs.open", "builtins.open", "aiofiles.open"):
            mode = (arguments[1] if len(arguments) > 1 else named.get("mode", _NOTHING)).value.text
            if mode[:1] in ("w", "a", "x") or "+" in mode:
                return Thing(Value(first.value.text, frozenset()), "file:" + first.value.text)
            return Thing(
                self.session.read(first.value.text, self._line(node))
                .opaque()
                .with_labels(first.value.labels - {Label("input")}),
                "file:" + first.value.text,
            )
        if name in ("read_text", "read_bytes") and isinstance(node.func, ast.Attribute):
            path = self.eval(node.func.value).value
            return Thing(
                self.session.read(path.text, self._line(node)).with_labels(
                    path.labels - {Label("input")}
                )
            )
        if name in ("write_text", "write_bytes") and isinstance(node.func, ast.Attribute):
            self.session.write(self.eval(node.func.value).value.text, first.value, self._line(node))
            return _NOTHING
        if name in ("write", "writelines") and dotted.startswith("file:"):
            self.session.write(
                dotted[5:].rsplit(".", 1)[0], first.value, self._line(node), append=True
            )
            return _NOTHING
        if dotted.startswith("file:") and name in ("read", "readlines", "readline"):
            held = self.session.files.get(dotted[5:].rsplit(".", 1)[0])
            return Thing(held or everything)
        if name in ("load", "safe_load", "loads") and dotted.startswith(
            ("json.", "toml", "yaml.safe", "configparser")
        ):
            return Thing(everything)
        if dotted in ("eval", "exec", "builtins.eval", "builtins.exec") or (
            name in ("runsource", "runcode", "push") and "code." in dotted
        ):
            self.session.run("python", first.value, self._line(node), name)
            return Thing(first.value.opaque())
        if dotted in ("compile", "builtins.compile"):
            return Thing(first.value)
        if _DESERIALISE.search(dotted) or (
            dotted in ("yaml.load", "yaml.unsafe_load", "yaml.full_load")
            and "SafeLoader" not in ast.dump(node)
        ):
            self._act("deserialise", node, first.value, dotted)
            return Thing(first.value.opaque())
        if _RUN_SHELL.search(dotted):
            return Thing(self.session.run("shell", first.value, self._line(node), dotted))
        if _RUN_ARGS.search(dotted):
            return self._subprocess(dotted, node, arguments, named)
        if name == "urlretrieve" or dotted == "wget.download":
            url = first.value
            self._act("fetch", node, EMPTY, url.text)
            if len(arguments) > 1:
                self.session.write(
                    arguments[1].value.text,
                    Value(HOLE, frozenset({Label("network", url.text)})),
                    self._line(node),
                )
            return _NOTHING
        if (
            dotted
            in (
                "shutil.copy",
                "shutil.copyfile",
                "shutil.move",
                "shutil.copytree",
                "os.rename",
                "os.replace",
                "os.symlink",
            )
            and len(arguments) > 1
        ):
            self.session.write(
                arguments[1].value.text,
                self.session.read(first.value.text, self._line(node)),
                self._line(node),
            )
            return _NOTHING
        if dotted in ("os.remove", "os.unlink", "shutil.rmtree", "os.rmdir") or name == "unlink":
            self._act(
                "delete", node, first.value, first.value.text, how="-rf" if name == "rmtree" else ""
            )
            return _NOTHING
        if dotted == "os.chmod" and len(arguments) > 1:
            mode = arguments[1].value.text
            shown = f"{int(mode):o}" if mode.isdigit() else mode
            words = (Value("chmod"), Value(shown), first.value)
            self.session.act(
                Act(
                    "command",
                    self._line(node),
                    Value(" ".join(it.text for it in words)),
                    "chmod",
                    words,
                )
            )
            return _NOTHING
        if dotted in ("socket.socket", "socket.create_connection"):
            return Thing(Value(_address(first)), "socket")
        if dotted == "socket.connect" or (name in ("connect", "connect_ex") and "socket" in dotted):
            address = _address(first)
            self._act("fetch", node, EMPTY, address, how="socket")
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                self.scopes[-1][node.func.value.id] = Thing(Value(address), "socket")
            return _NOTHING
        if dotted == "socket.bind" or (name == "bind" and "socket" in dotted):
            self._act("listen", node, first.value, _address(first))
            return _NOTHING
        if dotted in ("socket.recv", "socket.recvfrom"):
            return Thing(Value(HOLE, frozenset({Label("network", self._socket_address(node))})))
        if dotted == "os.dup2" and "fileno" in ast.dump(node):
            self._act("shell-socket", node, UNKNOWN, self._any_address(), how="dup2")
            return _NOTHING
        if dotted in (
            "socket.gethostbyname",
            "socket.getaddrinfo",
            "dns.resolver.resolve",
            "dns.resolver.query",
        ):
            if first.value.labels - {Label("input")}:
                self._act(
                    "send",
                    node,
                    first.value,
                    first.value.text.rsplit(HOLE, 1)[-1].lstrip("."),
                    how="dns",
                )
            return _NOTHING
        if _HOST.search(dotted):
            return Thing(Value(HOLE, frozenset({Label("host", dotted)})))
        if dotted in ("input", "sys.stdin.read", "sys.stdin.readline"):
            return Thing(Value(HOLE, frozenset({Label("input")})))
        if dotted.startswith("pyperclip.paste"):
            return Thing(Value(HOLE, frozenset({Label("clipboard")})))
        if dotted in ("keyring.get_password", "browser_cookie3.load") or dotted.startswith(
            "browser_cookie3."
        ):
            return Thing(
                Value(
                    HOLE,
                    frozenset(
                        {
                            Label(
                                "credential",
                                "keychain" if "keyring" in dotted else "browser profile",
                            )
                        }
                    ),
                )
            )
        if dotted in ("glob.glob", "glob.iglob", "os.listdir", "os.walk", "os.scandir") or name in (
            "glob",
            "rglob",
            "iterdir",
        ):
            base = (
                self.eval(node.func.value).value
                if isinstance(node.func, ast.Attribute) and name in ("glob", "rglob", "iterdir")
                else EMPTY
            )
            return Thing(
                Value(
                    f"{base.text}/{first.value.text}".strip("/") if first.value.known else HOLE,
                    everything.labels,
                )
            )
        if dotted in (
            "ctypes.CDLL",
            "ctypes.cdll.LoadLibrary",
            "ctypes.windll",
        ) and first.value.has("network", "decoded"):
            self.session.run("other", first.value, self._line(node), dotted)
        if _SEND.search(dotted):
            return self._request(dotted, node, arguments, named)
        if (
            name in ("append", "add", "extend", "update", "insert")
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            grown = self._get(node.func.value.id)
            self.scopes[-1][node.func.value.id] = Thing(
                grown.value.with_labels(everything.labels).opaque(),
                grown.dotted,
                None,
                [*grown.items, *arguments][:4_000],
            )
            return _NOTHING
        if dotted and dotted[:1].isupper() and "." not in dotted:
            return Thing(everything, dotted)
        keeps = dotted if _PURE.search(dotted) or "(" in dotted else dotted + "()"
        return Thing(everything, keeps if dotted.split(".", maxsplit=1)[0] in _FACTORIES else "")

    def _request(
        self, dotted: str, node: ast.Call, arguments: list[Thing], named: dict[str, Thing]
    ) -> Thing:
        if "socket" in dotted.split(".", maxsplit=1)[0] or re.search(
            r"\.(?:sendall|sendto)$", dotted
        ):
            value = union(it.value for it in arguments)
            self._act("send", node, value, self._socket_address(node), how="socket")
            return _NOTHING
        if re.search(r"\.(?:send_message|sendmail)$", dotted):
            target = next((it.value.text for it in arguments if "@" in it.value.text), "")
            self._act("send", node, union(it.value for it in arguments), target, how="mail")
            return _NOTHING
        at_url = 1 if dotted.endswith(".request") and len(arguments) > 1 else 0
        url = named.get("url", arguments[at_url] if len(arguments) > at_url else _NOTHING).value
        if url.text.startswith("request:"):
            url = Value(url.text[8:], url.labels)
        body = [
            it.value
            for key, it in named.items()
            if key in ("data", "json", "files", "content", "body", "fields", "params", "**")
        ]
        body += [it.value for it in arguments[at_url + 1 :]]
        headers = [it.value for key, it in named.items() if key in ("headers", "auth", "cookies")]
        value = union(body)
        if body and (value.labels or not _GET.search(dotted)):
            self._act(
                "send",
                node,
                body[0] if len(body) == 1 else value,
                url.text,
                how="url"
                if "params" in named and not named.keys() & {"data", "json", "files"}
                else "body",
            )
        if union(headers).labels:
            self._act("send", node, union(headers), url.text, how="header")
        if url.labels - {Label("input")}:
            self._act("send", node, url, url.text, how="url")
        if not body:
            self._act("fetch", node, EMPTY, url.text)
        if dotted.endswith("Request"):
            return Thing(
                Value(url.text, url.labels - {it for it in url.labels if it.kind == "input"}),
                "request",
            )
        return Thing(Value(HOLE, frozenset({Label("network", url.text)})), "")

    def _subprocess(
        self, dotted: str, node: ast.Call, arguments: list[Thing], named: dict[str, Thing]
    ) -> Thing:
        first = arguments[0] if arguments else named.get("args", _NOTHING)
        stdin = named.get("input", _NOTHING).value
        items = first.items or (
            [it for it in arguments if it.value.text]
            if dotted.startswith("os.") and len(arguments) > 1
            else []
        )
        if dotted.startswith("os.exec") and items:
            items = items[1:]
        if items:
            shown = " ".join(_quoted(it.value.text) for it in items)
            code = Value(shown, union(it.value for it in items).labels | stdin.labels)
        else:
            code = first.value.with_labels(stdin.labels)
        reader = self.session.languages.get("shell")
        if not items:
            out = self.session.run("shell", code, self._line(node), dotted)
        elif reader is not None and self.session.depth < 4:
            self.session.depth += 1
            try:
                out = reader(self.session, code, self._line(node))
            finally:
                self.session.depth -= 1
        else:
            out = code.opaque()
        return Thing(out.opaque())

    def _enter(self, function: _Function, arguments: list[Thing], named: dict[str, Thing]) -> Thing:
        """A function of the file, with what it is called with; at most four times."""
        if function.active or function.runs >= 4 or len(self.scopes) > 12:
            return Thing(union([it.value for it in (*arguments, *named.values())]))
        function.active, function.runs = True, function.runs + 1
        node = function.node
        names = [it.arg for it in (*node.args.posonlyargs, *node.args.args)]
        if names[:1] in (["self"], ["cls"]):
            names = names[1:]
        scope = {
            name: Thing(Value(HOLE, frozenset({Label("input")})))
            for name in (*names, *(it.arg for it in node.args.kwonlyargs))
        }
        for name, default in zip(reversed(names), reversed(node.args.defaults), strict=False):
            scope[name] = self.eval(default)
        scope |= dict(zip(names, arguments, strict=False))
        scope |= {key: it for key, it in named.items() if key in scope}
        saved, self.returned = self.returned, []
        self.scopes.append(scope)
        try:
            if isinstance(node, ast.Lambda):
                return self.eval(node.body)
            self.body(node.body)
            if not self.returned:
                return _NOTHING
            one = next((it for it in self.returned if it.value.known), self.returned[0])
            return one.with_labels(union(it.value for it in self.returned).labels)
        finally:
            self.scopes.pop()
            self.returned = saved
            function.active = False

    # --- small things

    def _line(self, node: ast.AST) -> int:
        return self.first + getattr(node, "lineno", 1)

    def _act(self, kind: str, node: ast.AST, value: Value, target: str, how: str = "") -> None:
        self.session.act(Act(kind, self._line(node), value, target, how=how))  # type: ignore[arg-type]

    def _socket_address(self, node: ast.Call) -> str:
        if isinstance(node.func, ast.Attribute):
            return self.eval(node.func.value).value.text
        return ""

    def _any_address(self) -> str:
        return next(
            (
                it.value.text
                for scope in self.scopes
                for it in scope.values()
                if it.dotted == "socket"
            ),
            "",
        )


_FACTORIES = {
    "requests",
    "httpx",
    "aiohttp",
    "urllib3",
    "http",
    "socket",
    "smtplib",
    "boto3",
    "urllib",
    "ftplib",
    "globals()",
    "pathlib",
    "paramiko",
}


def _percent(shape: Value, things: Thing) -> Value:
    parts = [it.value for it in things.items] or [things.value]
    texts = iter(parts)
    labels = shape.labels | union(parts).labels
    text = re.sub(r"%[-\d.]*[sdrx]", lambda _: next(texts, EMPTY).text, shape.text)
    return Value(text, labels)


def _sliced(value: Value, key: ast.Slice) -> Value:
    """`text[::-1]` and other slices with plain bounds."""
    bounds: list[int | None] = []
    for it in (key.lower, key.upper, key.step):
        if it is None:
            bounds.append(None)
            continue
        try:
            bound = ast.literal_eval(it)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return value.opaque()
        if not isinstance(bound, int):
            return value.opaque()
        bounds.append(bound)
    if not value.known or bounds[2] == 0:
        return value.opaque()
    labels = value.labels | (
        {Label("decoded", "reversed")} if bounds[2] == -1 and len(value.text) > 12 else frozenset()
    )
    return Value(value.text[slice(*bounds)], labels)


def _address(thing: Thing) -> str:
    return ":".join(it.value.text for it in thing.items) if thing.items else thing.value.text


def _quoted(text: str) -> str:
    """One word of a command line, so that the shell reads it as one."""
    return (
        "'" + text.replace("'", "'\\''") + "'"
        if not re.fullmatch(r"[\w./:@%+=,-]+", text)
        else text
    )
