"""The commands of chat formats: `toolhone formats` lists them, `toolhone formats probe` shows a model's."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from toolhone.cli import flags
from toolhone.cli.terminal import plain_console
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall

if TYPE_CHECKING:
    from rich.console import Console

    from toolhone.chat.render import ChatRenderer

_CALL = RawCall("get_weather", '{"city": "Oslo"}')


def add_format_commands(commands: Any) -> None:
    """Add `formats` and `formats probe`."""
    parser = flags.command(commands, "formats", _list, "list the chat formats, and show which one a model gets")
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", prog="toolhone formats")
    probe = flags.command(actions, "probe", _probe, "show the format, template and serving flags of a model")
    probe.add_argument("model", metavar="MODEL", help="a model's folder, or its name on the Hugging Face hub")
    names = ("auto", *FORMATS)
    about = "chat.format of the config (default: auto)"
    probe.add_argument("--chat-format", choices=names, metavar="FORMAT", default="auto", help=about)
    kinds = ("schema", "signatures", "names")
    probe.add_argument(
        "--chat-tools", choices=kinds, default="schema", help="chat.tools of the config (default: schema)"
    )
    templates = ("auto", "model", "toolhone")
    probe.add_argument("--chat-template", choices=templates, default="auto", help="chat.template (default: auto)")
    thinking = ("strip", "keep", "train")
    probe.add_argument("--chat-thinking", choices=thinking, default="strip", help="chat.thinking (default: strip)")


def _list(_: argparse.Namespace) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("Format", "A call", "vLLM", "SGLang"):
        table.add_column(head, overflow="fold")
    for name, chat_format in FORMATS.items():
        written = chat_format.write("", [_CALL], "stop").replace("\n", "↵")
        parsers = (chat_format.serving_parsers.get(engine, "–") for engine in ("vllm", "sglang"))
        table.add_row(name, Text(written), *parsers)
    console = plain_console()
    console.print(table)
    console.print(
        "\nvLLM, SGLang: the tool-call parser that reads the format. ↵: a new line.\n"
        "`toolhone formats probe MODEL` shows which format and template a model gets."
    )


def _probe(options: argparse.Namespace) -> None:
    from toolhone.chat.probe import make_renderer, own_template_losses
    from toolhone.chat.serving import Target, serving
    from toolhone.config import ChatConfig, ModelConfig
    from toolhone.pretrained import load_tokenizer

    console = plain_console()
    tokenizer = load_tokenizer(ModelConfig(name=options.model))
    given = ("format", "tools", "template", "thinking")
    config = ChatConfig.model_validate({key: getattr(options, f"chat_{key}") for key in given})
    losses = own_template_losses(tokenizer, config)
    renderer = make_renderer(tokenizer, config, options.model)
    why = f"--chat-tools is {options.chat_tools}" if options.chat_template == "auto" else "--chat-template is toolhone"
    console.print(f"[bold]{options.model}[/]", highlight=False)
    console.print(f"  chat format: {renderer.format.name}, {renderer.describe_template(why)}", markup=False)
    console.print(f"  generation stops at: {', '.join(renderer.stops)}", markup=False)
    console.print("\n[bold]What the model's own template writes[/]")
    for what, fault in losses.items():
        console.print(f"  {'no ' if fault else 'yes'} {what}{f': {fault}' if fault else ''}", markup=False)
    console.print("\n[bold]A row[/] (green: learned)")
    _show_row(renderer, console)
    console.print("\n[bold]Serving an adapter[/] in runs/RUN/adapter")
    for way in serving(renderer.format, Target(options.model, "runs/RUN/adapter", adapter={})):
        note = "" if way.parses_calls else "  (no parser of this engine reads the format: calls stay in the text)"
        console.print(f"  {way.engine}{note}", markup=False)
        console.print(f"    {way.command}", markup=False, highlight=False, soft_wrap=True)


def _show_row(renderer: ChatRenderer, console: Console) -> None:
    """Print an example as the model sees it: the prompt dim, the learned turn in green."""
    from toolhone.records import Example, Gold, Message, Tool, ToolCall

    tool = Tool("get_weather", "the weather of a city", {"type": "object", "properties": {"city": {"type": "string"}}})
    turn = Message("assistant", "", (ToolCall(_CALL.name, json.loads(_CALL.arguments), "call_1"),))
    asked = (Message("system", "You help travellers."), Message("user", "How is the weather in Oslo?"))
    example = Example("probe/2", "probe", asked, turn, Gold.of_message(turn), (tool,), "probe", None, {})
    row = renderer.render(example)
    shown = Text(row.prompt_text, style="dim")
    shown.append(row.completion_text, style="bold green")
    console.print(shown, soft_wrap=True, highlight=False)
