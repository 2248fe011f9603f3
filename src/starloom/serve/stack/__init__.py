"""All processes of one site on this machine: started, watched, stopped."""

from starloom.serve.stack.children import Child, children
from starloom.serve.stack.keys import make_key, tenant_keys
from starloom.serve.stack.supervisor import Stack, StackError, listen

__all__ = ["Child", "Stack", "StackError", "children", "listen", "make_key", "tenant_keys"]
