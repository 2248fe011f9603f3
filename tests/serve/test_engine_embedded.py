"""The torch engine against transformers, on random folders of every kind that it runs."""

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from starloom.serve.engines.batch import Scheduler  # noqa: E402
from starloom.serve.engines.blocks import BlockManager  # noqa: E402
from starloom.serve.engines.embedded import EmbeddedExecutor  # noqa: E402
from starloom.serve.models import BadModelFolder  # noqa: E402

from engine_fixtures import VOCAB, core_of, request, save_tokenizer  # noqa: E402

torch.set_num_threads(1)

SIZE = 8
BASE = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
KINDS = {
    "llama": ("Llama", {}),
    "all heads": ("Llama", {"num_key_value_heads": 4}),
    "tied, biased": (
        "Llama",
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "linear": ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "llama3": ("Llama", {"rope_scaling": LLAMA3, "rope_theta": 5000.0}),
    "yarn": ("Llama", {"rope_scaling": YARN}),
    "yarn, stated factor": ("Qwen3", {"rope_scaling": {**YARN, "attention_factor": 1.3}}),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3, one kv head": ("Qwen3", {"head_dim": 32, "num_key_value_heads": 1}),
    "qwen2": ("Qwen2", {}),
    "mistral": ("Mistral", {"sliding_window": None}),
}


def make(folder, kind="Llama", shards=None, **options):
    """A random model and its folder; weights are large enough for peaked answers."""
    torch.manual_seed(5)
    config = getattr(transformers, f"{kind}Config")(**{**BASE, **options})
    model = getattr(transformers, f"{kind}ForCausalLM")._from_config(
        config, attn_implementation="sdpa"
    )
    for name, tensor in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(tensor, 1.0 if "norm" in name else 0.0, 0.3)
    model.eval().save_pretrained(folder, **({"max_shard_size": shards} if shards else {}))
    save_tokenizer(folder)
    return model


def executor(folder, blocks=64):
    config = json.loads((folder / "config.json").read_text())
    numbers = config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"]
    per_block = 2 * 4 * numbers * SIZE
    return EmbeddedExecutor(
        folder, kv_cache_bytes=blocks * per_block, block_tokens=SIZE, context_tokens=512
    )


def prompt(length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (length,), generator=generator).tolist()


def last_logits(engine, tokens, chunk):
    """Logits after the last token, prefilled in chunks."""
    blocks = BlockManager(engine.num_blocks, SIZE)
    scheduler = Scheduler(blocks, max_batch=4, max_batch_tokens=chunk)
    scheduler.submit(request("a", tokens, block_tokens=SIZE, max_tokens=1))
    scheduler.start(scheduler.can_start())
    while not scheduler.idle:
        step = scheduler.next_step()
        logits = engine.logits(step)
        scheduler.finish_step(step, [0] * len(step.sampled))
    return logits[0]


def reference(model, tokens):
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0]


@pytest.fixture
def no_padding(monkeypatch):
    """Every context is long enough to attend alone."""
    monkeypatch.setattr("starloom.serve.engines.embedded.attention.ALONE_TOKENS", 2)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(tmp_path, kind):
    """Within 1e-4, whole and in chunks that end inside blocks and tiles."""
    model = make(tmp_path, KINDS[kind][0], **KINDS[kind][1])
    engine = executor(tmp_path)
    tokens = prompt(300)
    expected = reference(model, tokens)[-1]
    assert expected.std() > 0.1
    for chunk in (512, 299, 37):
        torch.testing.assert_close(
            last_logits(engine, tokens, chunk), expected, atol=1e-4, rtol=1e-4
        )


def test_shards_are_read_by_their_index(tmp_path):
    model = make(tmp_path, shards="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    tokens = prompt(20)
    torch.testing.assert_close(
        last_logits(executor(tmp_path), tokens, 64),
        reference(model, tokens)[-1],
        atol=1e-4,
        rtol=1e-4,
    )


def greedy(model, tokens, count):
    """Greedy answer of transformers, cut before a near tie: any of the two would be right there."""
    tokens = list(tokens)
    answer = []
    for _ in range(count):
        first, second = reference(model, tokens)[-1].topk(2).values
        if first - second < 1e-3:
            break
        answer.append(int(reference(model, tokens)[-1].argmax()))
        tokens.append(answer[-1])
    return answer


def answers(core, *requests):
    """Tokens of each request, as they were drawn."""
    found = {r.id: [] for r in requests}
    sequences = {}
    for one in requests:
        assert core.submit(one) is None
        sequences[one.id] = core._scheduler._by_id[one.id]
    while not core.idle:
        core.step()
        core.check_integrity()
    for name, sequence in sequences.items():
        found[name] = sequence.tokens[sequence.prompt_tokens :]
    return found


@pytest.fixture(scope="module", params=["Llama", "Qwen3"])
def model(request, tmp_path_factory):
    """A model, its folder, and greedy answers to four prompts of which three share a prefix."""
    folder = tmp_path_factory.mktemp("model")
    made = make(folder, request.param)
    shared = prompt(40)
    prompts = {
        "a": shared,
        "b": [*shared[:32], *prompt(9, 1)],
        "c": [*shared[:20], *prompt(30, 2)],
        "d": prompt(5, 3),
    }
    return folder, prompts, {name: greedy(made, tokens, 12) for name, tokens in prompts.items()}


def core(folder, blocks=64, **options):
    return core_of(executor(folder, blocks), block_tokens=SIZE, **{"eos": (), **options})


def ask(prompts, salt="t", count=12):
    return [
        request(name, tokens, block_tokens=SIZE, salt=salt, max_tokens=count)
        for name, tokens in prompts.items()
    ]


def check(found, expected):
    for name, tokens in expected.items():
        assert found[name][: len(tokens)] == tokens
        assert len(tokens) >= 3, "too few tokens without near ties to say anything"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_batch": 1},
        {"max_batch_tokens": 512},
        {"max_batch_tokens": 3},
        {"blocks": 9},
    ],
    ids=["batched", "alone", "one chunk", "small chunks", "preempted"],
)
@pytest.mark.parametrize("salt", ["t", None], ids=["reuse", "no reuse"])
def test_greedy_answers_do_not_depend_on_how_they_are_computed(model, options, salt):
    """The tokens of transformers, wherever its first two candidates differ by over 1e-3."""
    folder, prompts, expected = model
    check(answers(core(folder, **options), *ask(prompts, salt)), expected)


@pytest.mark.usefixtures("no_padding")
@pytest.mark.parametrize("blocks", [64, 9])
def test_greedy_answers_of_long_contexts(model, blocks):
    """Each sequence attends alone, in place or gathered from scattered blocks."""
    folder, prompts, expected = model
    check(answers(core(folder, blocks), *ask(prompts)), expected)


def test_greedy_answers_survive_a_hand_over(model):
    """Blocks computed by one engine and decoded on by another: half the prompt, and more."""
    folder, prompts, expected = model
    first, second = core(folder), core(folder)
    answers(first, *ask(prompts, count=1))
    requests = ask(prompts)
    for one in requests:
        second.import_blocks(first.export_blocks(one.keys))
    check(answers(second, *requests), expected)
    assert second.report().cached_tokens_total >= 32 + 32 + 16


def test_a_conversation_goes_on_from_generated_blocks(model):
    """The second turn's prompt holds the first's answer; its blocks are reused and right."""
    folder, prompts, _ = model
    engine = core(folder)
    [first] = ask({"a": prompts["a"]}, count=20)
    answer = answers(engine, first)["a"]
    turn = {"a": [*prompts["a"], *answer, *prompt(6, 9)]}
    again = answers(engine, *ask(turn))
    assert engine.report().cached_tokens_total == 56
    assert again == answers(core(folder), *ask(turn, salt=None))


def test_logprobs_are_those_of_the_softmax(model):
    folder, prompts, _ = model
    one = request("a", prompts["a"], block_tokens=SIZE, max_tokens=1, logprobs=2)
    engine = core(folder)
    engine.submit(one)
    deltas = [delta for _ in range(3) for delta in ([] if engine.idle else engine.step())]
    logits = last_logits(executor(folder), prompts["a"], 64).double()
    expected = logits.log_softmax(-1).topk(2).values.tolist()
    [entry] = deltas[0].logprobs
    assert entry.logprob == pytest.approx(expected[0], abs=1e-4)
    assert [value for _, _, value in entry.top] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "dynamic",
        ),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"quantization_config": {}}, "quantised"),
        ({"vocab_size": 300}, "embed_tokens"),
        ({"num_hidden_layers": 1}, "no part uses"),
        ({"num_hidden_layers": 3}, "no tensor"),
        ({"attention_bias": True}, "q_proj.bias"),
    ],
)
def test_folders_that_would_compute_wrongly_are_refused(tmp_path, change, message):
    make(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadModelFolder, match=message):
        executor(tmp_path)


def test_a_sliding_window_is_refused_unless_the_context_fits_it(tmp_path):
    make(tmp_path, "Mistral", sliding_window=128)
    with pytest.raises(BadModelFolder, match="context_tokens"):
        executor(tmp_path)
    EmbeddedExecutor(tmp_path, kv_cache_bytes=1 << 20, block_tokens=SIZE, context_tokens=128)


def test_missing_and_broken_files_are_named(tmp_path):
    make(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"not safetensors")
    with pytest.raises(BadModelFolder, match=r"model\.safetensors"):
        executor(tmp_path)
    weights.unlink()
    with pytest.raises(BadModelFolder, match="neither"):
        executor(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x"}}')
    with pytest.raises(BadModelFolder, match="not a file of this folder"):
        executor(tmp_path)


def test_a_block_of_another_size_is_refused(model):
    engine = executor(model[0])
    with pytest.raises(ValueError, match="bytes"):
        engine.import_block(0, b"short")
