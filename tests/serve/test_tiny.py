"""The tiny models' tasks, their tokenizer's promises, and the shipped weights' answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from starloom.serve.tiny import MODELS, model_path, tasks

MAKERS: dict[str, Callable[[int], tasks.Example]] = {
    "recall": lambda seed: tasks.recall(seed, 300, facts=8),
    "recall in the system message": lambda seed: tasks.recall(seed, 300, place="system"),
    "copying": lambda seed: tasks.copying(seed, 300, words=8),
    "multi_hop": lambda seed: tasks.multi_hop(seed, 300, chains=3, facts=5),
    "multi_hop of three": lambda seed: tasks.multi_hop(seed, 300, chains=3, hops=3),
    "arithmetic": tasks.arithmetic,
}


def solve(messages: list[tasks.Message]) -> str:
    """Answer the last question by reading the prompt's facts, without the generators' help."""
    text = "\n".join(m["content"] for m in messages if m["role"] != "assistant")
    question = text.rsplit("\n", 1)[-1]
    if total := re.fullmatch(r"(\d+)\+(\d+)=", question):
        return str(int(total[1]) + int(total[2]))
    if not question.endswith("?"):
        return tasks.ACKNOWLEDGEMENT
    facts = dict(line.split("=") for line in text.split("\n") if "=" in line and line[-1] != "=")
    answer = question.rstrip("?")
    for _ in range(question.count("?")):
        answer = facts[answer]
    return answer


def test_words_are_distinct_and_one_syllable_pair_each() -> None:
    """The word list has the stated size and shape."""
    assert len(set(tasks.WORDS)) == tasks.WORD_COUNT
    assert all(w[:2] in tasks.SYLLABLES and w[2:] in tasks.SYLLABLES for w in tasks.WORDS)


@pytest.mark.parametrize("name", MAKERS)
def test_an_example_is_a_function_of_its_seed(name: str) -> None:
    """The same seed gives the same example, and another seed another."""
    make = MAKERS[name]
    assert make(5) == make(5)
    assert make(5) != make(6)


@pytest.mark.parametrize("name", MAKERS)
def test_the_stated_answer_is_right(name: str) -> None:
    """Reading the prompt gives the answer that the generator states."""
    for seed in range(40):
        example = MAKERS[name](seed)
        assert solve(example.messages) == example.answer


@pytest.mark.parametrize("length_tokens", [64, 129, 1000, 4096])
@pytest.mark.parametrize("place", ["user", "system"])
def test_a_prompt_is_as_long_as_asked(length_tokens: int, place: str) -> None:
    """A prompt takes at most the tokens asked for, and at most two fewer."""
    for seed in range(10):
        example = tasks.recall(seed, length_tokens, facts=4, place=place)
        assert length_tokens - 2 <= tasks.prompt_tokens(example.messages) <= length_tokens


def test_questions_can_share_one_document() -> None:
    """Examples that differ only in the question share the system message and not the answer."""
    first, second = (
        tasks.recall(3, 200, facts=4, place="system", question=number) for number in (0, 1)
    )
    assert first.messages[0] == second.messages[0]
    assert first.messages[1] != second.messages[1]


def test_too_short_a_length_is_refused() -> None:
    """Facts that do not fit are an error that says how much is lacking."""
    with pytest.raises(ValueError, match="too few"):
        tasks.recall(0, 20, facts=8)


def test_too_many_facts_are_refused() -> None:
    """More keys than there are words kept for them is an error."""
    with pytest.raises(ValueError, match="run out"):
        tasks.recall(0, 32768, facts=900)


def test_an_unknown_place_is_refused() -> None:
    """A document stands in the user's or the system message and nowhere else."""
    with pytest.raises(ValueError, match="place"):
        tasks.recall(0, 200, place="assistant")


def test_held_out_sums_stay_out_of_training() -> None:
    """The splits of the sums do not meet, and an unknown split is refused."""

    def operands(example: tasks.Example) -> tuple[int, int]:
        first, second = example.messages[0]["content"].rstrip("=").split("+")
        return int(first), int(second)

    for seed in range(50):
        assert tasks.is_held_out(*operands(tasks.arithmetic(seed, split="test")))
        assert not tasks.is_held_out(*operands(tasks.arithmetic(seed, split="train")))
    with pytest.raises(ValueError, match="split"):
        tasks.arithmetic(0, split="some")


def test_every_turn_of_a_conversation_is_answered_rightly() -> None:
    """Each turn's answer follows from what was said before it."""
    for seed in range(10):
        chat = tasks.conversation(
            seed, 14, kinds=tasks.TASKS, filler_tokens_per_turn=40, system_facts=seed % 3
        )
        assert len(chat.turns) == 14
        for example in chat.examples():
            assert solve(example.messages) == example.answer


def test_a_turn_extends_the_turn_before() -> None:
    """The prompt of a turn begins with the turn before and its answer."""
    chat = tasks.conversation(4, 6)
    for turn in range(1, 6):
        before = chat.messages(turn - 1)
        answered = [*before, {"role": "assistant", "content": chat.turns[turn - 1].answer}]
        assert chat.messages(turn)[:-1] == answered


def test_a_study_session_keeps_its_length_and_its_answers() -> None:
    """The training chats fit their length and are answered rightly."""
    for seed in range(12):
        chat = tasks.study_session(seed, 400, lists=1, chains=2, kinds=tasks.TASKS)
        last = chat.examples()[-1]
        assert tasks.prompt_tokens(last.messages) + tasks.count_tokens(last.answer) <= 400
        assert all(solve(e.messages) == e.answer for e in chat.examples())


def test_an_unknown_model_is_named_in_the_error() -> None:
    """Asking for a model that does not ship says so and lists those that do."""
    with pytest.raises(ValueError, match=r"loom-x.*loom-s, loom-l"):
        model_path("loom-x")


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_is_complete_and_small(name: str) -> None:
    """Each model is an ordinary folder of a few megabytes."""
    folder = model_path(name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["max_position_embeddings"] == 32768
    assert config["tie_word_embeddings"] is True
    for part in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "README.md"):
        assert (folder / part).stat().st_size > 0
    assert (folder / "model.safetensors").stat().st_size < 8_000_000


@pytest.mark.parametrize("name", MODELS)
def test_the_tokenizer_keeps_its_promises(name: str) -> None:
    """Any text comes back, each word is one token, and lengths can be counted without it."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path(name))
    for text in ("héllo 世界 🙂\n\t x  y??? 3.14", "bako baba=dire", "ok okra", " a "):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert all(len(tokenizer.encode(word)) == 1 for word in tasks.WORDS)
    for make in MAKERS.values():
        messages = make(1).messages
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert len(tokenizer.encode(text)) == tasks.prompt_tokens(messages)


@pytest.mark.parametrize("name", MODELS)
def test_a_turns_tokens_are_a_prefix_of_the_next_turns(name: str) -> None:
    """A prompt and its generated answer are, token for token, how the next prompt begins."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path(name))

    def render(messages: list[tasks.Message]) -> list[int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(tokenizer.encode(text))

    chat = tasks.conversation(2, 8, kinds=tasks.TASKS, system_facts=2)
    for turn in range(7):
        answer = tokenizer.encode(chat.turns[turn].answer)
        spoken = [*render(chat.messages(turn)), *answer, tokenizer.eos_token_id]
        assert render(chat.messages(turn + 1))[: len(spoken)] == spoken


def answered_rightly(name: str, examples: list[tasks.Example]) -> float:
    """Return the share of ``examples``, all of one length, that ``name`` answers exactly."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = model_path(name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = [
        tokenizer.apply_chat_template(e.messages, tokenize=False, add_generation_prompt=True)
        for e in examples
    ]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    made = model.generate(**batch, max_new_tokens=16, do_sample=False)
    answers = tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :])
    wanted = [e.answer + tokenizer.eos_token for e in examples]
    return sum(a.startswith(w) for a, w in zip(answers, wanted, strict=True)) / len(examples)


EXAMPLES: dict[str, Callable[[int], tasks.Example]] = {
    "recall": lambda seed: tasks.recall(seed, 200, facts=8),
    "copying": lambda seed: tasks.copying(seed, 200, words=6),
    "multi_hop": lambda seed: tasks.multi_hop(seed, 128, chains=3),
    "arithmetic": tasks.arithmetic,
}


@pytest.mark.parametrize("task", ["recall", "copying"])
@pytest.mark.parametrize("name", MODELS)
def test_both_models_recall_and_copy(name: str, task: str) -> None:
    """Both shipped models answer short recall and copying through transformers."""
    assert answered_rightly(name, [EXAMPLES[task](seed) for seed in range(50)]) >= 0.94


def test_the_large_model_answers_what_the_small_one_cannot() -> None:
    """Sums tell the models apart: the small one knows none."""
    examples = [tasks.arithmetic(seed) for seed in range(50)]
    assert answered_rightly("loom-l", examples) >= 0.85
    assert answered_rightly("loom-s", examples) <= 0.6


def test_the_large_model_hops_better() -> None:
    """Two hops are for the large one: the small one does not go on from the word it finds."""
    examples = [tasks.multi_hop(seed, 128, chains=3, facts=2) for seed in range(50)]
    assert answered_rightly("loom-l", examples) >= 0.9
    assert answered_rightly("loom-s", examples) <= 0.5
