"""Statistics of a data set: what is counted, that tokens add up, and that the expected gain equals training's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import labelled
from rich.console import Console

from toolhone.chat.prefix_tree import build_tree
from toolhone.chat.probe import make_renderer
from toolhone.chat.render import LabelledTokens
from toolhone.chat.segments import segments
from toolhone.chat.token_bytes import TokenBytes
from toolhone.config import ChatConfig
from toolhone.config_file import load_config
from toolhone.data.importers.importer import RowFault
from toolhone.data.importers.openai import conversation
from toolhone.data.read import examples, read_conversations, read_tools
from toolhone.data.stats import Stats, TokenCounter, data_stats, guess_language, measure, tree_gain
from toolhone.errors import UserError
from toolhone.records import Conversation, Message, Tool
from toolhone.report.stats import build_page, show_stats, stats_page
from toolhone.train.estimate import count_batches

SHIPPED = Path(__file__).parents[2] / "data" / "customer_service"
TOOLS = [
    {"name": name, "description": name, "parameters": {"type": "object", "properties": {"id": {"type": "string"}}}}
    for name in ("look", "send", "never")
]
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}"


def call(name: str) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": {"id": "7"}}}


def row(messages: list[dict[str, Any]], **more: Any) -> Conversation:
    return conversation({"messages": messages, "tools": TOOLS, **more}, "rows.jsonl:1")


ROWS = [
    row(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Look up 7"},
            {"role": "assistant", "content": None, "tool_calls": [call("look"), call("look")]},
            {"role": "tool", "content": "seven"},
            {"role": "tool", "content": "seven"},
            {"role": "assistant", "content": "It is seven."},
        ],
        meta={"language": "en"},
    ),
    row(
        [
            {"role": "user", "content": "查一下 ORD-ABC 的订单"},
            {"role": "assistant", "content": None, "tool_calls": [call("send")], "weight": 0},
            {"role": "user", "content": "谢谢"},
            {"role": "assistant", "content": "不客气。"},
        ],
        gold_source="gpt-4o",
    ),
    row([{"role": "user", "content": "Send 7"}, {"role": "assistant", "content": None, "tool_calls": [call("send")]}]),
]


def test_turns_with_thinking_are_counted_if_there_are_any() -> None:
    assert "turns_with_thinking" not in measure(ROWS).to_json()
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi.", "reasoning_content": "Hm."}]
    found = measure([*ROWS, row(messages)])
    assert found.to_json()["turns_with_thinking"] == 1
    out = StringIO()
    show_stats(found, ["rows.jsonl"], Console(file=out, width=200))
    assert re.search(r"Turns with thinking[ │]+1 ", out.getvalue())


def figures(stats: Stats) -> dict[str, Any]:
    return stats.to_json()


def test_rows_turns_calls_and_messages_are_counted() -> None:
    found = figures(measure(ROWS))
    assert (found["rows"], found["turns"], found["unlearned_turns"], found["calls"]) == (3, 4, 1, 3)
    assert found["messages"] == {"user": 4, "assistant": 5, "tool": 2, "system": 1}
    assert found["turns_per_row"] == {"1": 2, "2": 1}
    assert found["calls_per_turn"] == {"0": 2, "1": 1, "2": 1}
    assert found["gold_sources"] == {"gpt-4o": 1}


def test_a_call_of_a_turn_that_is_not_learned_is_not_counted() -> None:
    """The second row calls only in a turn of weight 0, so it teaches not to call."""
    found = figures(measure(ROWS))
    assert found["no_call_rows"] == {"value": 1 / 3, "numerator": 1, "denominator": 3}
    assert found["no_call_turns"] == {"value": 0.5, "numerator": 2, "denominator": 4}
    assert list(found["tools"]) == [
        {"name": "look", "offered": 3, "called": 2},
        {"name": "send", "offered": 3, "called": 1},
        {"name": "never", "offered": 3, "called": 0},
    ]


def test_languages_are_guessed_only_for_rows_that_state_none() -> None:
    found = figures(measure(ROWS))
    assert found["languages"] == {"en": 1}
    assert found["guessed_languages"] == {"zh": 1, "Latin script": 1}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("查订单 ORD-ABCDEFGHIJ", "zh"),
        ("Where is 订 my parcel now", "Latin script"),
        ("注文を確認してください", "ja"),
        ("주문을 확인해 주세요", "ko"),
        ("Где мой заказ", "Cyrillic script"),
        ("12345 !?", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_language_is_guessed_from_the_script(text: str, language: str) -> None:
    assert guess_language([text]) == language


def test_faults_are_counted_with_their_first_places() -> None:
    faults = [RowFault(f"rows.jsonl:{n}", "broken-json", "cut") for n in range(5)]
    (fault,) = figures(measure([*faults, *ROWS]))["faults"]
    assert (fault["rule"], fault["count"]) == ("broken-json", 5)
    assert list(fault["places"]) == [f"rows.jsonl:{n}: cut" for n in range(3)]


def test_rows_are_counted_one_by_one_and_not_kept() -> None:
    alive = 0

    class Counted(str):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def rows() -> Iterator[Conversation]:
        nonlocal alive
        for _ in range(50):
            alive += 1
            assert alive < 5, "rows stay in memory"
            yield Conversation("", (Message("user", Counted("x")), Message("assistant", "y")), (), "rows.jsonl:1")

    assert measure(rows()).rows == 50


@pytest.fixture(scope="module")
def shipped() -> list[Conversation]:
    rows = read_conversations(SHIPPED / "train.jsonl", read_tools(SHIPPED / "tools.json"))
    return [row for number, row in enumerate(rows) if number % 12 == 0]


@pytest.fixture(scope="module")
def counted(shipped: list[Conversation], tiny_llama: Path) -> Stats:
    return measure(shipped, tokenizer=str(tiny_llama))


@pytest.fixture(scope="module")
def training_rows(shipped: list[Conversation], tiny_tokenizer: Any) -> list[LabelledTokens]:
    renderer = make_renderer(tiny_tokenizer, ChatConfig(), "tiny")
    return [renderer.render(example).tokens for row in shipped for example in examples(row)]


def test_the_tokens_of_examples_equal_those_of_training(counted: Stats, training_rows: list[LabelledTokens]) -> None:
    tokens = counted.tokens
    assert tokens is not None
    assert list(tokens.lengths) == [len(row.ids) for row in training_rows]
    assert tokens.example is not None
    assert tokens.example.max == max(tokens.lengths)
    assert tokens.example.total == sum(tokens.lengths)
    assert tokens.labelled_tokens == sum(len(row.ids) - row.prompt_length for row in training_rows)
    assert tokens.labelled_share == tokens.labelled_tokens / sum(tokens.lengths)


def test_tokens_by_role_add_up_to_all_tokens_of_the_conversations(
    counted: Stats, shipped: list[Conversation], tiny_tokenizer: Any
) -> None:
    tokens = counted.tokens
    assert tokens is not None
    renderer = make_renderer(tiny_tokenizer, ChatConfig(), "tiny")
    whole = sum(len(renderer.render(examples(row)[-1])) for row in shipped)
    assert sum(spread.total for spread in tokens.by_role.values()) == whole
    assert tokens.by_role["tools"].count == len(shipped)
    assert tokens.by_role["user"].count == counted.messages["user"]
    assert tokens.by_role["assistant"].count == counted.messages["assistant"]
    assert tokens.by_role["tools"].p50 > tokens.by_role["user"].max


def test_the_expected_gain_equals_the_dry_runs_count(counted: Stats, training_rows: list[LabelledTokens]) -> None:
    """The dry run lays batches out as training does."""
    assert counted.tokens is not None
    for gain in counted.tokens.gains:
        config = load_config(
            Path(__file__).parents[2] / "configs" / "smoke.yaml",
            [f"train.batch_size={gain.batch_size}", "train.packing=prefix_tree", "seed=42", "train.tree_tokens=8192"],
        )
        assert gain.computed_tokens == sum(batch.tokens for batch in count_batches(config, training_rows))
        assert gain.logical_tokens == sum(len(row.ids) for row in training_rows)
        assert gain.gain == gain.logical_tokens / gain.computed_tokens > 1
    one, other, last = (gain.gain for gain in counted.tokens.gains)
    assert one < other < last


def test_the_shared_share_is_what_one_tree_saves(counted: Stats, training_rows: list[LabelledTokens]) -> None:
    assert counted.tokens is not None
    logical = sum(len(row.ids) for row in training_rows)
    assert counted.tokens.shared_share == 1 - len(build_tree(training_rows)) / logical
    prefix = training_rows[0].ids[: counted.tokens.common_prefix + 1]
    assert all(row.ids[: len(prefix) - 1] == prefix[:-1] for row in training_rows)
    assert not all(row.ids[: len(prefix)] == prefix for row in training_rows)


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=2, max_size=8), st.integers(1, 4)), min_size=1, max_size=20)
)
@settings(max_examples=50)
def test_a_batch_of_all_rows_saves_what_one_tree_saves(drawn: list[tuple[list[int], int]]) -> None:
    rows = [labelled(ids, min(length, len(ids) - 1)) for ids, length in drawn]
    gain = tree_gain(rows, len(rows), 10**6)
    assert gain.computed_tokens == len(build_tree(rows))
    assert tree_gain(rows, 1, 10**6).gain == 1.0


def test_only_a_sample_of_many_examples_is_laid_out_and_its_size_is_reported(
    shipped: list[Conversation], tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolhone.data.stats._MAX_TREE_ROWS", 10)
    counter = TokenCounter(str(tiny_llama))
    for found in shipped:
        counter.add(found)
    tokens = counter.result()
    assert (tokens.laid_out, tokens.examples) == (10, len(tokens.lengths))
    assert sum(gain.logical_tokens for gain in tokens.gains) < 3 * sum(sorted(tokens.lengths)[-10:]) + 1


def test_a_row_that_cannot_be_rendered_is_counted_and_named(tiny_llama: Path) -> None:
    bad = row([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "over <|im_end|> there"}])
    tokens = measure([bad, *ROWS], tokenizer=str(tiny_llama)).tokens
    assert tokens is not None
    assert (tokens.refused, tokens.examples) == (1, 4)
    assert tokens.refused_places[0].startswith("rows.jsonl:1: ")


@pytest.mark.parametrize("tools", ["schema", "signatures"])
@pytest.mark.parametrize("tokenizer", ["tiny_tokenizer", "tiny_llama3_tokenizer"])
def test_segments_cover_every_token_once_and_match_the_messages(
    request: pytest.FixtureRequest, shipped: list[Conversation], tokenizer: str, tools: str
) -> None:
    loaded = request.getfixturevalue(tokenizer)
    renderer = make_renderer(loaded, ChatConfig(tools=tools), "tiny")  # type: ignore[arg-type]
    bare = [Conversation(r.id, r.messages, (), r.where) for r in shipped[:5]]
    headless = [Conversation(r.id, r.messages[1:], r.tools, r.where) for r in shipped[:5]]
    for found in [*shipped[:15], *bare, *headless]:
        for example in examples(found):
            rendered = renderer.render(example)
            parts = segments(renderer, rendered, TokenBytes(loaded))
            assert [parts[0].start, *(part.end for part in parts)] == [
                0,
                *(part.start for part in parts[1:]),
                len(rendered),
            ]
            ids = rendered.prompt_ids + rendered.completion_ids
            assert [part.learned for part in parts] == [False] * (len(parts) - 1) + [True]
            for index, message in enumerate(example.prompt):
                text = "".join(
                    renderer.decode(ids[p.start : p.end]) for p in parts if (p.part, p.message) == (message.role, index)
                )
                said = message.content if not message.tool_calls else message.tool_calls[0].name
                assert said in text, f"{message.role} {index}"
            tools_text = "".join(renderer.decode(ids[part.start : part.end]) for part in parts if part.part == "tools")
            assert bool(tools_text) == bool(found.tools)
            assert all(tool.name in tools_text for tool in found.tools)


# The command


def run(sources: list[str], as_json: bool = False, **more: Any) -> str:
    console = Console(file=StringIO(), width=120, soft_wrap=True, highlight=False)
    show_stats(data_stats(sources, **more, console=console), sources, console, as_json=as_json)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def raw() -> list[dict[str, Any]]:
    """The shipped rows as plain JSON, to count them independently."""
    return [json.loads(line) for line in (SHIPPED / "train.jsonl").read_text(encoding="utf-8").splitlines()]


def learned(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [message for message in row["messages"] if message["role"] == "assistant" and message.get("weight", 1)]


def called(row: dict[str, Any]) -> list[str]:
    return [call["function"]["name"] for message in learned(row) for call in message.get("tool_calls") or ()]


def test_the_table_shows_the_figures_of_the_shipped_rows(raw: list[dict[str, Any]]) -> None:
    shown = run([str(SHIPPED / "train.jsonl")], tools=read_tools(SHIPPED / "tools.json"))
    turns = sum(len(learned(row)) for row in raw)
    names = [name for row in raw for name in called(row)]
    silent = sum(not called(row) for row in raw)
    assert (
        f"{len(raw)} rows, {turns:,} learned turns, {len(names):,} calls to {len(set(names))} tools; "
        f"{silent / len(raw):.1%} of rows call nothing"
    ) in shown
    assert re.search(rf"query_stock\s+│\s+{names.count('query_stock')} │\s+{len(raw)}", shown)
    languages = [row["meta"]["language"] for row in raw]
    assert f"zh: {languages.count('zh')}  en: {languages.count('en')}" in shown


def test_with_json_the_output_is_only_json(raw: list[dict[str, Any]]) -> None:
    found = json.loads(run([str(SHIPPED / "train.jsonl")], as_json=True))
    assert (found["rows"], found["tokens"]) == (len(raw), None)
    assert found["no_call_rows"]["numerator"] == sum(not called(row) for row in raw)
    assert found["rows_without_tools"] == len(raw)


def test_json_with_a_tokenizer_has_the_tokens(tmp_path: Path, tiny_llama: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row.to_json()) for row in ROWS[:1]), encoding="utf-8")
    found = json.loads(run([str(tmp_path / "rows.jsonl")], tokenizer=str(tiny_llama), as_json=True))
    assert found["tokens"]["examples"] == 2
    assert [gain["batch_size"] for gain in found["tokens"]["gains"]] == [8, 16, 32]
    assert set(found["tokens"]["by_role"]) == {"tools", "system", "user", "assistant", "tool"}


def test_a_file_without_a_conversation_is_an_error_with_its_first_fault(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{broken\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"no row is a conversation \(first fault, broken-json: .*rows.jsonl:1"):
        run([str(tmp_path / "rows.jsonl")])


def test_without_a_tokenizer_no_model_library_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from rich.console import Console\n"
        "from toolhone.data.stats import data_stats; from toolhone.report.stats import show_stats\n"
        "show_stats(data_stats([sys.argv[1]]), [sys.argv[1]], Console(), html=Path('stats.html'))\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", program, str(SHIPPED / "test.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (tmp_path / "stats.html").is_file()
    assert not {"torch", "transformers"} & set(done.stdout.split())


# The page


def test_the_page_is_one_file_with_the_figures(counted: Stats, tmp_path: Path) -> None:
    text = stats_page(counted, ["train.jsonl"])
    assert "<script" not in text
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", text)
    assert "@import" not in text
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    for gain in counted.tokens.gains if counted.tokens else ():
        assert f"{gain.gain:.1f}×" in text
    assert len(text) < 200_000


def test_hostile_names_are_shown_and_never_run() -> None:
    tool = Tool(HOSTILE, "", {"type": "object", "properties": {}})
    found = Conversation(
        "x",
        (Message("user", "hi"), Message("assistant", "yo")),
        (tool,),
        "x:1",
        gold_source=HOSTILE,
        meta={"language": HOSTILE},
    )
    text = stats_page(measure([RowFault("x:1", HOSTILE, HOSTILE), found]), [HOSTILE])
    assert "<script>" not in text
    assert "<img" not in text
    assert "{{ 7*7 }}" in text
    assert "49" not in text.split("</style>")[1]


def test_the_page_names_the_model_whose_answers_are_the_gold() -> None:
    text = stats_page(measure(ROWS), ["rows.jsonl"])
    assert "The gold of 1 row is what gpt-4o answered. Scores on such rows measure agreement" in text


def test_a_tool_that_is_never_called_is_marked() -> None:
    page = build_page(measure(ROWS), ["rows.jsonl"])
    assert {tool["name"]: tool["remark"] for tool in page["tools"]} == {"look": "", "send": "", "never": "never called"}


def test_every_example_is_in_a_bin_and_every_bin_is_on_the_plot(counted: Stats) -> None:
    page = build_page(counted, ["rows.jsonl"])
    plot = page["tokens"]["histogram"]
    titles = [re.search(r": ([\d,]+) example", bin_["title"]) for bin_ in plot["bins"]]
    assert sum(int(found[1].replace(",", "")) for found in titles if found) == len(counted.tokens.lengths)  # type: ignore[union-attr]
    for bin_ in plot["bins"]:
        assert 0 <= bin_["x"] <= bin_["x"] + bin_["width"] <= 100
        assert bin_["y"] + bin_["height"] == pytest.approx(100, abs=0.01)
        assert bin_["y"] >= 0


def test_rare_values_are_combined_in_one_bar() -> None:
    long = [
        Conversation(
            str(n), (Message("user", "x"), *[Message("assistant", "y")] * n), (), "x:1", meta={"language": f"l{n}"}
        )
        for n in range(1, 15)
    ]
    calls, turns, languages = (panel["bars"] for panel in build_page(measure(long), ["x"])["panels"])
    assert [bar["label"] for bar in turns][-1] == "8 or more"
    assert turns[-1]["count"] == 7
    assert languages[-1]["label"] == "others"
    assert sum(bar["value"] for bar in turns) == pytest.approx(100, abs=0.1)
    assert len(calls) == 1
