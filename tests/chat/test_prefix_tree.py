"""Prefix trees compared with stock LlamaForCausalLM and PEFT, one row at a time and without toolhone code."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from labelled import labelled
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from toolhone.chat.prefix_tree import PrefixTree, build_tree, shareable_ids
from toolhone.chat.probe import make_renderer
from toolhone.chat.render import IGNORED, LabelledTokens
from toolhone.config import ChatConfig
from toolhone.data.read import read_conversations, read_tools, turns
from toolhone.train import attention
from toolhone.train.attention import TREE_ATTENTION, visible
from toolhone.train.batches import TreeCollator, tree_features
from toolhone.train.packing import other_layers
from toolhone.train.trainer import ToolCallTrainer

PAD = 31
KINDS = ("llama", "qwen3", "gemma3", "mistral")
DATA = Path(__file__).parents[2] / "data" / "customer_service"
SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def adapted(kind: str, layers: int = 2) -> Any:
    """Return a random model whose adapter is not zero."""
    torch.manual_seed(0)
    if kind == "llama":
        model: Any = LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, **SIZES))
    elif kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=layers, head_dim=16, **SIZES))
    elif kind == "mistral":  # every layer has a window of 5 tokens
        model = MistralForCausalLM(MistralConfig(num_hidden_layers=layers, sliding_window=5, **SIZES))
    else:  # every second layer has one
        layer_types = ["sliding_attention", "full_attention"] * (layers // 2)
        windowed = {"layer_types": layer_types, "sliding_window": 5, "head_dim": 16, "query_pre_attn_scalar": 16}
        model = Gemma3ForCausalLM(Gemma3TextConfig(num_hidden_layers=layers, **windowed, **SIZES))
    # Large weights make attention far from uniform, so that a wrong mask changes the loss.
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.3)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def in_double(model: Any) -> Any:
    """Convert the model to float64. Its norms are replaced, because those of transformers always round to float32."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                is_gemma = type(child).__name__.startswith("Gemma")  # Gemma stores the weight minus 1
                norm = nn.RMSNorm(child.weight.shape[0], eps=child.eps if is_gemma else child.variance_epsilon)
                norm.weight = nn.Parameter(child.weight + 1, requires_grad=False) if is_gemma else child.weight
                setattr(module, name, norm)
    return model.double()


@pytest.fixture
def _double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make transformers keep float64 where it casts logits and rotary angles to float32."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {kind: in_double(adapted(kind)) for kind in KINDS}


Result = tuple[float, dict[str, torch.Tensor]]


def result(model: Any, loss: torch.Tensor) -> Result:
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    return loss.item(), gradients


def one_by_one(model: Any, rows: Sequence[LabelledTokens]) -> Result:
    """Return the mean loss over all labelled tokens and its gradients, from a stock forward pass of each row alone."""
    model.zero_grad()
    model.get_base_model().set_attn_implementation("sdpa")
    counts = [len(row.ids) - row.prompt_length for row in rows]
    whole = torch.zeros(())
    for row, count in zip(rows, counts, strict=True):
        labels = [IGNORED] * row.prompt_length + row.ids[row.prompt_length :]
        loss = model(input_ids=torch.tensor([row.ids]), labels=torch.tensor([labels])).loss * count / sum(counts)
        loss.backward()
        whole = whole + loss.detach()
    return result(model, whole)


def collate(rows: Sequence[LabelledTokens], max_tokens: int) -> dict[str, torch.Tensor]:
    return TreeCollator(PAD, max_tokens)([tree_features(row) for row in rows])


def loss_of_trees(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the trainer's own loss of a batch, on one process."""
    model.get_base_model().set_attn_implementation(TREE_ATTENTION)
    alone: Any = SimpleNamespace(accelerator=SimpleNamespace(num_processes=1), packing="prefix_tree")
    count = (batch["labels"] != IGNORED).sum()
    loss: torch.Tensor = ToolCallTrainer.compute_loss(alone, model, batch, num_items_in_batch=count)
    return loss


def as_trees(model: Any, rows: Sequence[LabelledTokens], max_tokens: int) -> Result:
    """Return loss and gradients of the rows laid out as trees."""
    model.zero_grad()
    loss = loss_of_trees(model, collate(rows, max_tokens))
    loss.backward()
    return result(model, loss)


def assert_equal(found: Result, expected: Result, tolerance: float) -> None:
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        # If a token can attend only to itself, the gradient of its query is zero up to rounding.
        assert (found[1][name] - gradient).norm() <= tolerance * gradient.norm() + 1e-14, name


PROMPT = [5, 6, 7, 8, 9, 10]
CASES = {
    "another first label": [labelled([*PROMPT, 1, 2, 3], 6), labelled([*PROMPT, 4, 2, 3], 6)],
    "the same first label": [labelled([*PROMPT, 1, 2, 3], 6), labelled([*PROMPT, 1, 2, 9, 9], 6)],
    "exact duplicates": [labelled([*PROMPT, 1, 2], 6)] * 3,
    "turns of one conversation": [
        labelled([*PROMPT, 1, 2], 6),
        labelled([*PROMPT, 1, 2, 11, 12, 3], 10),
        labelled([*PROMPT, 1, 2, 11, 12, 3, 13, 14, 4, 4], 13),
    ],
    "a duplicate turn, and the turn after it": [
        labelled([*PROMPT, 1, 2], 6),
        labelled([*PROMPT, 1, 2], 6),
        labelled([*PROMPT, 1, 3, 3], 6),
        labelled([*PROMPT, 1, 2, 11, 12, 3], 10),
    ],
    "two conversations that differ after a turn": [
        labelled([*PROMPT, 1, 2], 6),
        labelled([*PROMPT, 1, 2, 11, 12, 3], 10),
        labelled([*PROMPT, 1, 2, 11, 13, 3], 10),
        labelled([*PROMPT, 1, 2, 11, 13, 3, 4, 4, 4], 13),
    ],
    "two turns that one prompt continues": [
        labelled([*PROMPT, 1], 6),
        labelled([*PROMPT, 1, 2], 6),
        labelled([*PROMPT, 1, 2, 11, 3], 9),
    ],
    "one prompt inside another": [labelled([*PROMPT, 1], 6), labelled([*PROMPT[:4], 2, 2], 4)],
    "unequal lengths": [
        labelled([*PROMPT, 1], 6),
        labelled([*PROMPT[:3], *range(11, 25), 1, 2, 3, 4, 5, 6, 7], 17),
        labelled([*PROMPT, 15, 16, 2, 2], 8),
    ],
    "a single row": [labelled([*PROMPT, 1, 2, 3], 6)],
    "the shortest row": [labelled([3, 4], 1), labelled([3, 5, 6], 1)],
    "nothing shared": [labelled([n, *PROMPT, n], 7) for n in (1, 2, 3)],
}


@pytest.fixture(params=[1, 3, 256])
def _block_queries(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention in blocks of this many queries: one block per segment, some joined, or all in one."""
    monkeypatch.setattr(attention, "_BLOCK_QUERIES", request.param)


@pytest.mark.usefixtures("_double", "_block_queries")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_loss_and_every_lora_gradient_equal_those_of_the_rows_alone(
    models: dict[str, Any], kind: str, case: str
) -> None:
    rows = CASES[case]
    expected = one_by_one(models[kind], rows)
    assert all(gradient.norm() > 1e-4 for gradient in expected[1].values())
    assert_equal(as_trees(models[kind], rows, max_tokens=1000), expected, 1e-9)


@pytest.mark.usefixtures("_double", "_block_queries")
@pytest.mark.parametrize("kind", KINDS)
def test_several_padded_trees_in_a_batch_give_the_same_loss_and_gradients(models: dict[str, Any], kind: str) -> None:
    rows = [row for case in CASES.values() for row in case]
    random.Random(0).shuffle(rows)
    expected = one_by_one(models[kind], rows)
    for max_tokens in (1, 25, 40):
        assert collate(rows, max_tokens)["input_ids"].shape[0] > 1
        assert_equal(as_trees(models[kind], rows, max_tokens), expected, 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unmodified_model_in_float32_gives_the_same_loss_and_gradients(kind: str) -> None:
    rows = [row for case in CASES.values() for row in case]
    model = adapted(kind)
    assert_equal(as_trees(model, rows, max_tokens=40), one_by_one(model, rows), 1e-5)


WEIGHTED = [
    labelled([*PROMPT, 1, 2, 3], 6, 0.25),
    labelled([*PROMPT, 1, 2, 3, 11, 12, 3], 11, 0.5),  # continues the row above, which is learned within it
    labelled([*PROMPT, 4, 2, 3], 6),
    labelled([8, 8, 1, 2], 2, 0.125),
]


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("max_tokens", [1, 1000])
def test_labels_after_the_first_are_weighted_by_their_row(models: dict[str, Any], max_tokens: int) -> None:
    model = models["llama"]
    model.zero_grad()
    model.get_base_model().set_attn_implementation("sdpa")
    expected = torch.zeros(())
    for row in WEIGHTED:
        likely = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(dim=-1)
        first, *others = (-likely[place - 1, row.ids[place]] for place in range(row.prompt_length, len(row.ids)))
        expected = expected + first + row.weights[-1] * sum(others)
    count = sum(len(row.ids) - row.prompt_length for row in WEIGHTED)
    (expected / count).backward()
    alone = result(model, (expected / count).detach())
    model.train()
    try:
        assert_equal(as_trees(model, WEIGHTED, max_tokens), alone, 1e-9)
    finally:
        model.eval()


@pytest.mark.usefixtures("_double")
def test_validation_loss_ignores_weights(models: dict[str, Any]) -> None:
    assert not models["llama"].training
    plain = [labelled(row.ids, row.prompt_length) for row in WEIGHTED]
    assert_equal(as_trees(models["llama"], WEIGHTED, 1000), as_trees(models["llama"], plain, 1000), 1e-12)


@pytest.mark.slow
@pytest.mark.smollm2
def test_smollm2_gives_the_same_loss_and_gradients_on_real_rows(
    fetched_tokenizer: Callable[[str], Any],
) -> None:
    """Three rows of 900 tokens with a shared prefix of 850, in float32, on real weights."""
    tokenizer = fetched_tokenizer("smollm2")
    renderer = make_renderer(tokenizer, ChatConfig(), "smollm2")
    examples = turns(list(read_conversations(DATA / "train.jsonl", read_tools(DATA / "tools.json")))[:8])
    rows = sorted((renderer.render(example).tokens for example in examples), key=lambda row: len(row.ids))[:3]
    assert len(collate(rows, 10_000)["input_ids"][0]) < 0.5 * sum(len(row.ids) for row in rows)
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM.from_pretrained(tokenizer.name_or_path, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.01)
    model.eval()
    assert_equal(as_trees(model, rows, max_tokens=10_000), one_by_one(model, rows), 1e-4)


ids = st.integers(0, 2)


@st.composite
def training_rows(draw: st.DrawFn) -> LabelledTokens:
    prompt = draw(st.lists(ids, min_size=1, max_size=6))
    turn = draw(st.lists(ids, min_size=1, max_size=3))
    return labelled([*prompt, *turn], len(prompt), draw(st.sampled_from([1.0, 0.25])))


tries = st.lists(training_rows(), min_size=1, max_size=8)


def naive_count(rows: Sequence[LabelledTokens]) -> int:
    """Count the tokens of a tree: the nodes of the trie of shareable ids, plus the other tokens of each row. Turns that
    are learned within the next prompt do not count."""
    nodes = {tuple(row.ids[:n]) for row in rows for n in range(1, row.prompt_length)}
    return (
        len(nodes)
        + sum(len(row.ids) - row.prompt_length + 1 for row in rows if row not in learned_within(rows))
        + sum((len(row.ids) - row.prompt_length + 1) * (rows.count(row) - 1) for row in learned_within(rows))
    )


def learned_within(rows: Sequence[LabelledTokens]) -> list[LabelledTokens]:
    """Return the distinct rows that the next longer prompt in lexical order starts with. Of several rows with one
    prompt, only the shortest counts, because a token has only one label there."""
    prompts = sorted({tuple(shareable_ids(row)) for row in rows})
    following = dict(zip(prompts, [*prompts[1:], ()], strict=True))
    distinct = [row for n, row in enumerate(rows) if row not in rows[:n]]
    within = [row for row in distinct if following[tuple(shareable_ids(row))][: len(row.ids)] == tuple(row.ids)]
    longest_first = sorted(within, key=lambda row: len(row.ids), reverse=True)
    return list({tuple(shareable_ids(row)): row for row in longest_first}.values())


def rows_read_back(tree: PrefixTree) -> list[tuple[list[int], list[int]]]:
    """Return ids and labels of each row, found from the tokens that its last token sees."""
    index = torch.arange(len(tree))
    mask = visible(torch.tensor(tree.ends), index, index)
    rows = []
    for last, (end, label) in enumerate(zip(tree.ends, tree.labels, strict=True)):
        # A row ends at a token without descendants, or whose next descendant is not learned.
        if label == IGNORED or (end > last + 1 and tree.labels[last + 1] != IGNORED):
            continue
        seen = mask[last].nonzero().squeeze(1).tolist()
        assert [tree.positions[n] for n in seen] == list(range(len(seen)))
        for depth, token in enumerate(seen):
            assert mask[token].nonzero().squeeze(1).tolist() == seen[: depth + 1]
        # The last labels of the path belong to this row. Each is predicted by the token before it in the layout.
        own = next(n for n in range(len(seen), 0, -1) if tree.labels[seen[n - 1]] == IGNORED)
        assert seen[own - 1 :] == list(range(seen[own - 1], last + 1))
        rows.append(([tree.ids[n] for n in seen], [IGNORED] * own + [tree.labels[n] for n in seen[own:]]))
    return rows


@given(tries)
@settings(deadline=None, max_examples=200)
def test_every_token_sees_exactly_the_earlier_tokens_of_its_row(rows: list[LabelledTokens]) -> None:
    expected = [(r.ids, [IGNORED] * r.prompt_length + r.ids[r.prompt_length :]) for r in rows]
    assert sorted(rows_read_back(build_tree(rows))) == sorted(expected)


@given(tries)
@example([labelled([0, 0], 1), labelled([0, 0, 0], 1), labelled([0, 0, 0, 0, 0], 4)])
@settings(deadline=None)
def test_a_tree_contains_each_shared_prefix_once(rows: list[LabelledTokens]) -> None:
    assert len(build_tree(rows)) == naive_count(rows)


@given(tries, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_a_tree_does_not_depend_on_the_order_of_its_rows(rows: list[LabelledTokens], shuffler: random.Random) -> None:
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    assert build_tree(shuffled) == build_tree(rows)


@pytest.mark.usefixtures("_double", "_block_queries")
@given(tries, st.integers(1, 40))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_rows_give_the_loss_of_the_rows_alone(
    models: dict[str, Any], rows: list[LabelledTokens], max_tokens: int
) -> None:
    assert_equal(as_trees(models["llama"], rows, max_tokens), one_by_one(models["llama"], rows), 1e-9)


SMALL_TREE = [
    labelled([5, 6, 7, 1, 2], 3),
    labelled([5, 6, 8, 3], 3),
    labelled([5, 6, 7, 1, 2, 9, 4], 6),
    labelled([5, 6, 7, 1, 2], 3),
]


def leaf_ends(tree: PrefixTree) -> set[int]:
    """Return the last tokens of rows. Nothing is predicted from them, so what they see does not matter."""
    return {n for n, end in enumerate(tree.ends) if end == n + 1}


@pytest.mark.usefixtures("_double")
def test_each_single_wrong_bit_of_the_mask_changes_the_loss(
    models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = build_tree(SMALL_TREE)
    queries = [n for n in range(len(tree)) if n not in leaf_ends(tree)]
    assert len(queries) == len(tree) - len(SMALL_TREE) + len(learned_within(SMALL_TREE))
    with torch.no_grad():
        right = loss_of_trees(models["llama"], collate(SMALL_TREE, 100)).item()
        for query, key in product(queries, range(len(tree))):

            def flipped(*of: torch.Tensor, place: tuple[int, int] = (query, key)) -> torch.Tensor:
                mask = visible(*of)
                mask[place] ^= True
                return mask

            monkeypatch.setattr(attention, "visible", flipped)
            loss = loss_of_trees(models["llama"], collate(SMALL_TREE, 100)).item()
            assert not abs(loss - right) <= 1e-9 * right, (query, key)


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("shift", [1, -2])
def test_each_single_wrong_end_changes_the_loss(models: dict[str, Any], shift: int) -> None:
    tree = build_tree(SMALL_TREE)
    checked = 0
    with torch.no_grad():
        right = loss_of_trees(models["llama"], collate(SMALL_TREE, 100)).item()
        for index, end in enumerate(tree.ends):
            # The token that now sees this one, or no longer sees it. Nothing is predicted from the last token of a row.
            query = end if shift == 1 else end - 2
            if query >= len(tree) or query < index or query in leaf_ends(tree):
                continue
            checked += 1
            batch = collate(SMALL_TREE, 100)
            ends, positions = batch["tree_blocks"].ends, batch["tree_blocks"].positions
            ends[0, index] += shift
            batch["tree_blocks"] = attention.AttentionBlocks(ends, positions)
            loss = loss_of_trees(models["llama"], batch).item()
            assert not abs(loss - right) <= 1e-9 * right, index
    assert checked >= 4


def test_the_turns_of_a_conversation_cost_no_more_tokens_than_the_conversation() -> None:
    conversation = CASES["turns of one conversation"]
    assert len(build_tree(conversation)) == len(conversation[-1].ids)


@given(tries)
def test_every_label_keeps_its_weight(rows: list[LabelledTokens]) -> None:
    tree = build_tree(rows)
    assert [weight == 0 for weight in tree.weights] == [label == IGNORED for label in tree.labels]
    assert sum(tree.weights) == pytest.approx(sum(sum(r.weights) for r in rows))


def test_two_thousand_rows_that_each_extend_the_row_before_do_not_overflow_the_stack() -> None:
    rows = [labelled([1] * n + [2, 3], n + 1) for n in range(1, 2001)]
    assert len(build_tree(rows)) == 2000 + 2 * 2000


@given(tries, st.integers(1, 40))
@settings(deadline=None)
def test_the_collator_respects_its_token_limit_and_counts_tokens(rows: list[LabelledTokens], max_tokens: int) -> None:
    batch = collate(rows, max_tokens)
    real = batch["input_ids"] != PAD  # PAD is in no row
    assert batch["examples"] == len(rows)
    assert batch["logical_tokens"] == sum(len(row.ids) for row in rows)
    assert batch["computed_tokens"] == real.sum()
    assert batch["labels"][~real].eq(IGNORED).all()
    found = []
    for line, kept in enumerate(real):
        columns = [batch[name] for name in ("input_ids", "position_ids", "labels", "weights")]
        columns.insert(2, batch["tree_blocks"].ends)
        tree = PrefixTree(*(column[line][kept].tolist() for column in columns))
        one_tree = rows_read_back(tree)
        assert len(tree) <= max_tokens or len(one_tree) == 1
        laid_out = [labelled(row, labels.count(IGNORED)) for row, labels in one_tree]
        assert len(tree) == naive_count(laid_out)
        found += one_tree
    assert sorted(ids for ids, _ in found) == sorted(row.ids for row in rows)


def test_rows_that_fit_into_one_tree_become_one_tree() -> None:
    assert collate(SMALL_TREE, len(build_tree(SMALL_TREE)))["input_ids"].shape[0] == 1
    assert collate(SMALL_TREE, len(build_tree(SMALL_TREE)) - 1)["input_ids"].shape[0] > 1


@pytest.mark.parametrize(
    ("model_config", "kind"),
    [
        (AutoConfig.for_model("qwen3_next"), "linear_attention"),
        (AutoConfig.for_model("gemma2"), "capped attention logits"),
        (AutoConfig.for_model("gpt_oss"), "attention sinks"),
        (AutoConfig.for_model("gemma3_text", use_bidirectional_attention=True), "bidirectional attention"),
    ],
)
def test_attention_that_trees_do_not_support_is_found_in_the_config(model_config: PreTrainedConfig, kind: str) -> None:
    assert other_layers(model_config) == [kind]


@pytest.mark.parametrize(
    "model_config",
    [
        LlamaConfig(),
        Qwen3Config(),
        Qwen3Config(sliding_window=16),
        MistralConfig(sliding_window=None),
        MistralConfig(sliding_window=16),
        AutoConfig.for_model("gemma3_text"),
    ],
)
def test_trees_support_full_and_sliding_attention_and_no_other_layer_type(
    model_config: PreTrainedConfig,
) -> None:
    assert other_layers(model_config) == []
    layers = model_config.num_hidden_layers
    model_config.layer_types = ["full_attention", "sliding_attention"] * (layers // 2 - 1) + ["chunked_attention"] * 2
    assert other_layers(model_config) == ["chunked_attention"]


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("kind", ["gemma3", "mistral"])
def test_a_window_that_is_one_token_too_wide_changes_the_loss(
    models: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = CASES["unequal lengths"]
    right = loss_of_trees(models[kind], collate(rows, 1000)).item()
    within = attention.AttentionBlocks.within
    monkeypatch.setattr(
        attention.AttentionBlocks, "within", lambda blocks, window: within(blocks, window and window + 1)
    )
    assert loss_of_trees(models[kind], collate(rows, 1000)).item() != pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize("unknown", [{"softcap": 50.0}, {"s_aux": torch.zeros(4)}])
def test_unsupported_attention_options_are_an_error(unknown: dict[str, Any]) -> None:
    states = torch.zeros(1, 1, 2, 4)
    blocks = attention.AttentionBlocks(torch.tensor([[2, 2]]), torch.tensor([[0, 1]]))
    with pytest.raises(NotImplementedError):
        attention.tree_attention(nn.Module(), states, states, states, None, tree_blocks=blocks, scaling=1, **unknown)
