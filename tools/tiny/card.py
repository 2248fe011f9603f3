"""Write a model card: ``python -m tools.tiny.card FOLDER --work FOLDER --results FILE``.

The results are what ``tools.tiny.evaluate --json`` printed; the training figures come from the
checkpoint in ``--work``. Nothing in the card is typed in by hand but its prose.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from tools.tiny.evaluate import SUITES, Row, table

PURPOSE = """\
{name} is a very small {kind} model that answers synthetic questions whose right answers are known.
It ships with starloom so that reuse of keys and values, their hand-over between instances, routing
and long prompts can be tested against real attention: a wrong or stale cache gives a wrong word.
"""

PROMPTS = """\
Every pseudo-word such as `baku` is one token, and so are `=`, `?`, `??`, a blank, a newline and
each digit. A message is `<|user|>…<|end|>`, an answer `<|assistant|>…<|end|>`, with nothing
between, so the tokens of a turn are a prefix of the next turn's.

| task | the user says | the answer |
|---|---|---|
| recall | lines such as `sogu=jebo` among lines of random words, then `sogu?` | `jebo` |
| copying | a line such as `sova=tonu noru vake`, then `sova?` | `tonu noru vake` |
| multi_hop | `bonu=vake` and `vake=rele` in any order, then `bonu??` | `rele` |
| arithmetic | `50+13=` | `63` |
| set | facts without a question | `ok` |

`starloom.serve.tiny.tasks` makes such prompts from a seed, whole conversations included.
"""

LIMITS = """\
It knows no language and no facts, follows no instructions, and answers text that is not one of the
tasks above with words that mean nothing. Keys must be words of the list, must not occur elsewhere
in the prompt but as a value in a chain, and sums are of two numbers from 10 to 99. Documents held
at most 128 facts in training, lists at most 32 words, chains two hops; beyond these nothing was
trained. Sequences in training had at most 8192 tokens; gaps spread the positions of some of them
over the whole window of 32768, which teaches distance but not crowds. Trust an accuracy only
where the table above has a row for it: in this model errors grow with length and with the number
of words to copy.
"""

TRAINING = """\
{steps:,} optimizer steps on {tokens:,} tokens, {minutes:.0f} minutes of one CPU core's time,
without a GPU, from seed {seed}:

    python -m tools.tiny.train {name} --work FOLDER --minutes 60 --export {folder}

Stages gone through: {stages}. Attention did not start at random but close to the circuits that
recall needs (`tools/tiny/start.py`). {note}
"""


def describe(config: dict[str, Any], weights_bytes: int) -> str:
    """Return the architecture as a list; ``weights_bytes`` is the size of the weights file."""
    return "\n".join(
        [
            f"- `{' '.join(config['architectures'])}`",
            f"- {config['num_hidden_layers']} layers of width {config['hidden_size']},"
            f" feed-forward {config['intermediate_size']}",
            f"- {config['num_attention_heads']} query heads, {config['num_key_value_heads']} key"
            f" and value heads, {config['head_dim']} dimensions each",
            f"- vocabulary {config['vocab_size']}, embeddings tied, rotary base"
            f" {config['rope_theta']:g}, positions up to {config['max_position_embeddings']}",
            f"- about {weights_bytes / 2e6:.2f} million parameters, stored as float16, to be"
            " computed in float32",
        ]
    )


def card(folder: Path, work: Path, rows: list[Row], seed: int, note: str) -> str:
    """Return the text of the card for ``folder``."""
    name = folder.resolve().name
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    state = torch.load(work / f"{name}.pt", weights_only=True)
    progress = state["progress"]
    kind = "Llama" if config["model_type"] == "llama" else "Qwen3"
    stages = [*state["done"], *([progress["stage"]] if progress["stage_step"] else [])]
    training = TRAINING.format(
        steps=progress["steps"],
        tokens=progress["tokens"],
        minutes=progress["seconds"] / 60,
        seed=seed,
        note=note,
        name=name,
        folder="FOLDER/" + name,
        stages=", ".join(dict.fromkeys(stages)),
    )
    sections = {
        "Architecture": describe(config, (folder / "model.safetensors").stat().st_size),
        "Prompts": PROMPTS,
        "Accuracy": "Greedy decoding of the stored weights in float32; right means the exact answer"
        " and then the end token, and sums are of the test split. Measured by"
        " `python -m tools.tiny.evaluate`.\n\n" + table(rows),
        "Training": training,
        "What it cannot do": LIMITS,
    }
    body = "\n\n".join(f"## {title}\n\n{text.strip()}" for title, text in sections.items())
    return f"# {name}\n\n{PURPOSE.format(name=name, kind=kind).strip()}\n\n{body}\n"


def main() -> None:
    """Write ``README.md`` into the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, nargs="+", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--note", default="", help="what the command does not tell of the run")
    options = parser.parse_args()
    rows = [row for path in options.results for row in json.loads(path.read_text("utf-8"))]
    order = list(SUITES)
    rows.sort(key=lambda row: (order.index(str(row["task"])), row["length_tokens"]))
    text = card(options.folder, options.work, rows, options.seed, options.note)
    (options.folder / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
