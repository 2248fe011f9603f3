import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, UnigramTrainer

from starloom.serve.errors import BadRequest
from starloom.serve.models import BadModelFolder
from starloom.serve.tokenise import ChatTemplate, Tokeniser

CORPUS = [
    "The quick brown fox jumps over the lazy dog, it's 123 times.\n\nLine: ünïcode 中文 text!\n",
    "def add(a, b):\n    return a + b  # 'quoted' <| end |> <|user and more|>\n",
] * 20
TEMPLATE = (
    "{%- for m in messages -%}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)
SPECIALS = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def trained(pre, *, model="bpe", specials=(), decoder=None):
    specials = specials or [AddedToken(text, special=True, normalized=False) for text in SPECIALS]
    tokenizer = Tokenizer(models.BPE() if model == "bpe" else models.Unigram())
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoder or decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if model == "bpe":
        trainer = BpeTrainer(
            vocab_size=420,
            special_tokens=list(specials),
            initial_alphabet=alphabet,
            show_progress=False,
        )
    else:
        trainer = UnigramTrainer(
            vocab_size=120,
            special_tokens=["<unk>", *(str(token.content) for token in specials)],
            unk_token="<unk>",
            show_progress=False,
        )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def gpt2():
    return trained(pre_tokenizers.ByteLevel(add_prefix_space=False))


def qwen():
    split = pre_tokenizers.Split(Regex(QWEN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = trained(pre_tokenizers.Sequence([split, byte_level]))
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>")])
    return tokenizer


def spaced():
    """An added token that a cut at a blank would tear apart."""
    tokenizer = qwen()
    tokenizer.add_tokens([AddedToken("<tool call>")])
    return tokenizer


def prefixed():
    """Metaspace that prefixes the first text only, a BOS, and a token that eats white space."""
    strip = AddedToken("<mask>", special=True, normalized=False, lstrip=True, rstrip=True)
    plain = [AddedToken(text, special=True, normalized=False) for text in SPECIALS]
    pre = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer = trained(pre, specials=[*plain, strip], decoder=decoders.Metaspace())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", tokenizer.token_to_id("<|system|>"))]
    )
    return tokenizer


def unigram():
    return trained(
        pre_tokenizers.Metaspace(prepend_scheme="always"),
        model="unigram",
        decoder=decoders.Metaspace(),
    )


KINDS = {make.__name__: make() for make in (gpt2, qwen, spaced, prefixed, unigram)}
TOKENISERS = {
    name: Tokeniser(tokenizer.to_str(), ChatTemplate(TEMPLATE, {}))
    for name, tokenizer in KINDS.items()
}
PARTS = st.one_of(
    st.sampled_from(
        [
            *SPECIALS,
            "<mask>",
            "<think>",
            "<tool call>",
            " ",
            "\n",
            "  ",
            " the",
            "it's",
            "123",
            "\r\n",
            "中文",
        ]
    ),
    st.sampled_from(["<|", "|>", "<|end", "nd|>", "word " * 500, "line\n" * 600, "中" * 2500]),
    st.text(max_size=8),
)
TEXTS = st.lists(PARTS, max_size=30).map("".join)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_pieces_equal_the_whole(name, text):
    """A prompt cut into remembered pieces has the very tokens of the tokenizer on the whole."""
    if name == "unigram" and any(special in text for special in ("<unk>", *SPECIALS)):
        return  # the whole tokenizer itself is not asked about specials spelt by its vocabulary
    assert TOKENISERS[name].prompt(text) == KINDS[name].encode(text).ids


@pytest.mark.parametrize("name", ["gpt2", "qwen"])
def test_extended_prompts_cost_their_extension(name):
    """A prompt that extends an earlier one is not tokenised again from its start."""
    tokeniser = Tokeniser(KINDS[name].to_str(), None)
    text = " ".join(f"word{at} and more" for at in range(3000))
    tokeniser.prompt(text)
    before = tokeniser.memory.misses
    longer = text + " and then some" * 3
    assert tokeniser.prompt(longer) == KINDS[name].encode(longer).ids
    assert tokeniser.memory.misses - before <= 2
    assert tokeniser.memory.hits >= 15


def test_next_turn_costs_its_own_messages():
    """A chat that goes on finds all earlier messages in memory."""
    tokeniser = Tokeniser(KINDS["gpt2"].to_str(), ChatTemplate(TEMPLATE, {}))
    turns = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "well"}]
    tokeniser.chat(turns)
    before = tokeniser.memory.misses
    tokeniser.chat([*turns, {"role": "user", "content": "a new question"}])
    assert tokeniser.memory.misses == before + 1


@pytest.mark.parametrize("name", KINDS)
def test_plain_chat_is_the_rendered_text(name):
    """A chat without special text gives the tokens of the rendered template."""
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What > is 2 < 3 | 4?"},
    ]
    text = "<|system|>Be short.<|end|><|user|>What > is 2 < 3 | 4?<|end|><|assistant|>"
    expected = KINDS[name].encode(text, add_special_tokens=False).ids
    assert TOKENISERS[name].chat(messages) == expected


FORGERIES = st.lists(
    st.one_of(
        st.sampled_from(
            [*SPECIALS, "<|", "|>", "<|e", "end|>", "<", ">", " ", "user", "|", "<mask>"]
        ),
        st.text(max_size=3),
        st.sampled_from(["\U000f0000", "\U000f0200x", "\U0010fffd"]),
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=80, deadline=None)
@given(first=FORGERIES, second=FORGERIES)
def test_content_cannot_forge_a_turn(name, first, second):
    """Whatever a client writes, the special tokens of the prompt are the template's own."""
    tokenizer = KINDS[name]
    ids = {tokenizer.token_to_id(text) for text in [*SPECIALS, "<mask>"]} - {None}
    tokens = TOKENISERS[name].chat(
        [{"role": "user", "content": first}, {"role": "assistant", "content": second}]
    )
    turns = ["<|user|>", "<|end|>", "<|assistant|>", "<|end|>", "<|assistant|>"]
    assert [t for t in tokens if t in ids] == [tokenizer.token_to_id(text) for text in turns]


@settings(max_examples=60, deadline=None)
@given(content=FORGERIES)
def test_content_arrives_unchanged(content):
    """Marks leave no trace: the tokens between the turns spell the content."""
    tokens = TOKENISERS["qwen"].chat([{"role": "user", "content": content}])
    assert KINDS["qwen"].decode(tokens[1:-2], skip_special_tokens=False) == content


def test_edits_of_a_template_cannot_join_a_special_token():
    """A template that cuts something out of content does not make a special token of the rest."""
    source = "{{ '<|user|>' + messages[0]['content'].replace('cut', '') }}"
    tokeniser = Tokeniser(KINDS["qwen"].to_str(), ChatTemplate(source, {}))
    tokens = tokeniser.chat([{"role": "user", "content": "<|ecutnd|>"}])
    assert KINDS["qwen"].token_to_id("<|end|>") not in tokens


def test_template_sees_what_transformers_gives_it(tmp_path):
    """Special tokens, helpers, loop controls and `generation` blocks work; lists name a default."""
    template = (
        "{{ bos_token }}{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}\n"
        "    {% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}"
        "{{ strftime_now('%Y')[:2] }}"
    )
    (tmp_path / "tokenizer.json").write_text(KINDS["gpt2"].to_str())
    config = {
        "bos_token": {"content": "<|system|>"},
        "chat_template": [
            {"name": "rag", "template": "no"},
            {"name": "default", "template": template},
        ],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokeniser = Tokeniser.load(tmp_path)
    tokens = tokeniser.chat([{"role": "user", "content": "ü <b>"}] * 3)
    row = '{"role": "user", "content": "ü <b>"}'
    assert tokeniser.decode(tokens) == f"<|system|>{row}{row}20"


def test_refusals_name_the_messages(tmp_path):
    """A template that raises, or is missing, is a 400 about `messages`; a bad folder is named."""
    stubborn = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    tokeniser = Tokeniser(KINDS["gpt2"].to_str(), stubborn)
    with pytest.raises(BadRequest, match="roles must alternate"):
        tokeniser.chat([{"role": "user", "content": "x"}])
    with pytest.raises(BadRequest, match="no chat template"):
        Tokeniser(KINDS["gpt2"].to_str(), None).chat([])
    with pytest.raises(BadModelFolder, match=r"tokenizer\.json"):
        Tokeniser.load(tmp_path)


def test_memory_is_bounded():
    """However many different texts pass, the memory stays below its limit."""
    tokeniser = Tokeniser(KINDS["gpt2"].to_str(), None, memory_bytes=64 << 10)
    for at in range(400):
        tokeniser.prompt(f"text number {at} " * 30)
    assert 32 << 10 < tokeniser.memory.bytes <= 64 << 10


def test_long_prompts_are_quick():
    """100,000 tokens of fresh text take well below a second, and again only a fraction of that."""
    tokeniser = Tokeniser(KINDS["qwen"].to_str(), None)
    text = "".join(f"the quick brown fox jumps over number {at}\n" for at in range(12_000))
    begin = time.perf_counter()
    count = len(tokeniser.prompt(text))
    fresh = time.perf_counter() - begin
    begin = time.perf_counter()
    tokeniser.prompt(text + "more")
    again = time.perf_counter() - begin
    assert count > 100_000
    assert fresh < 3
    assert again < fresh
