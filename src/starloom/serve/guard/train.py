"""`python -m starloom.serve.guard.train EXAMPLES.jsonl MODEL.npz`: train a local safety model."""

import argparse
import sys
from pathlib import Path

from starloom.serve.guard.linear import read_examples, train


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m starloom.serve.guard.train", description=__doc__)
    parser.add_argument("examples", type=Path, help="JSONL with `text` and `label`")
    parser.add_argument("model", type=Path, help="file to write, .npz")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    try:
        examples = read_examples(asked.examples)
        train(examples, seed=asked.seed).save(asked.model)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    sys.stdout.write(f"{asked.model}: trained on {len(examples)} texts\n")


if __name__ == "__main__":
    main()
