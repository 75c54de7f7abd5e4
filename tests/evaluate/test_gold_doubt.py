"""The doubt of a model that has memorised three turns about gold that differs from them in each way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from served import CHAT, LEARNED, SYSTEM, TOOLS, example, learn

from toolhone.chat.probe import make_renderer
from toolhone.chat.render import ChatRenderer
from toolhone.config import Config, DataConfig, EvaluateConfig, ModelConfig, TrainConfig
from toolhone.data.read import examples
from toolhone.errors import UserError
from toolhone.evaluate.doubts import Doubt, ranked, read_doubts, write_doubts
from toolhone.evaluate.gold_doubt import gold_doubts
from toolhone.records import Conversation, Example, Gold, Message, ToolCall
from toolhone.train.hardware import choose_hardware

Memorised = tuple[Any, ChatRenderer, Path]


@pytest.fixture(scope="module")
def memorised(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Memorised:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("memorised")
    learn(tiny_llama, folder)
    renderer = make_renderer(AutoTokenizer.from_pretrained(folder), CHAT, "tiny")
    return AutoModelForCausalLM.from_pretrained(folder).eval(), renderer, folder


def doubts(memorised: Memorised, turns: list[Example], packing: str = "prefix_tree") -> dict[str, Doubt]:
    model, renderer, folder = memorised
    config = Config(
        name="doubted",
        model=ModelConfig(name=str(folder), device="cpu", dtype="float32"),
        data=DataConfig(train=("a.jsonl",), test=("b.jsonl",)),
        chat=CHAT,
        train=TrainConfig(packing=packing),  # type: ignore[arg-type]  # one of the three
        evaluate=EvaluateConfig(batch_size=3),
    )
    model.set_attn_implementation("sdpa")
    hardware = choose_hardware(config.model, cudnn_attention=False)
    rows = [renderer.render(turn) for turn in turns]
    found = gold_doubts(model, renderer, rows, config, hardware, Console(quiet=True))
    return {doubt.id: doubt for doubt in found}


def gold(question: str, *calls: ToolCall, text: str = "") -> Example:
    """Return the question with another gold than the memorised one. Its id says which."""
    turn = Message("assistant", text, calls)
    name = f"{question}/{'+'.join(call.name for call in calls) or 'text'}"
    return replace(example(question), id=name, turn=turn, gold=Gold.of_message(turn))


RIGHT = [example(question) for question in LEARNED]
ORDER, PERSON, THANKS = LEARNED


def test_gold_that_the_model_has_memorised_is_not_doubted(memorised: Memorised) -> None:
    assert doubts(memorised, RIGHT) == {}


@pytest.mark.parametrize(
    ("wrong", "place", "message"),
    [
        (gold(ORDER, ToolCall("help", {})), "tool", "expected `help`, the model says `query_order`"),
        (
            gold(ORDER, ToolCall("query_order", {"order_id": "ORD-7"})),
            "value",
            'expected order_id: "ORD-7", the model says order_id: "ORD-1…',
        ),
        (gold(ORDER, text="不客气"), "call or text", "expected text, the model says a call with"),
        (gold(THANKS, ToolCall("help", {})), "call or text", "expected a call of `help`, the model says text with"),
        (gold(PERSON, LEARNED[PERSON].tool_calls[0], text="好"), "end of turn", "expected the end of the turn, the mo"),
        (
            gold(ORDER, *LEARNED[ORDER].tool_calls, ToolCall("help", {})),
            "call",
            "expected a call of `help`, the model says the end of the turn",
        ),
    ],
    ids=["wrong tool", "wrong value", "call dropped", "call added", "second call dropped", "second call added"],
)
def test_each_fault_is_found_at_its_place(memorised: Memorised, wrong: Example, place: str, message: str) -> None:
    found = doubts(memorised, [*RIGHT, wrong])
    assert set(found) == {wrong.id}
    doubt = found[wrong.id]
    assert doubt.place == place
    assert str(doubt).startswith(message)
    assert doubt.doubt is not None
    assert doubt.doubt > 2
    assert doubt.probability is not None
    assert 0.5 < doubt.probability <= 1


def test_the_wording_of_a_plain_answer_is_no_doubt(memorised: Memorised) -> None:
    assert doubts(memorised, [*RIGHT, gold(THANKS, text="Glad to hear it.")]) == {}


def test_shared_prefixes_change_no_doubt(memorised: Memorised) -> None:
    wrong = [gold(ORDER, ToolCall("help", {})), gold(ORDER, text="no"), gold(THANKS, ToolCall("help", {}))]
    several = (SYSTEM, Message("user", "Hi"), wrong[0].turn, Message("user", "And?"), wrong[2].turn)
    wrong += examples(Conversation("talk", several, TOOLS, "made:1"))  # the second turn's prompt contains the first
    trees, rows = (doubts(memorised, [*RIGHT, *wrong], packing) for packing in ("prefix_tree", "rows"))
    assert set(trees) == set(rows) == {one.id for one in wrong}
    for id_, doubt in trees.items():
        assert doubt.doubt == pytest.approx(rows[id_].doubt, abs=1e-3)
        assert (doubt.place, doubt.says) == (rows[id_].place, rows[id_].says)


def test_a_file_of_doubts_is_read_in_the_order_of_ranks(tmp_path: Path) -> None:
    made = [
        Doubt(f"r{n}/1", "a:1", 1, size, "nats", "tool", "`a`", "`b`", 0.9) for n, size in enumerate((1.0, None, 3.0))
    ]
    write_doubts(tmp_path / "doubts.jsonl", ranked(made))
    assert list(read_doubts(tmp_path / "doubts.jsonl").values()) == [made[2], made[0], made[1]]


def test_a_line_that_is_no_doubt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "doubts.jsonl").write_text('{"id": "r1/1"}\n')
    with pytest.raises(UserError, match=r"doubts.jsonl:1: not a doubt .*; `toolhone data doubt` writes such files"):
        read_doubts(tmp_path / "doubts.jsonl")
