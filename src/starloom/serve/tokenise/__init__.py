"""Text to tokens without transformers: remembered by prefix, safe against forged turns."""

from starloom.serve.tokenise.template import ChatTemplate, load_template
from starloom.serve.tokenise.tokeniser import Tokeniser

__all__ = ["ChatTemplate", "Tokeniser", "load_template"]
