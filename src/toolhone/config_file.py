"""Read a config file. In: YAML and `--set a.b=c` overrides. Out: a frozen `Config`.

An error names the line of the file, the key, and the nearest known key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from toolhone.config import Config, config_fields
from toolhone.errors import UserError

_RENAMED_KEYS = {
    "warmup_ratio": 'is "warmup" here: a fraction of the steps if below 1, otherwise a number of steps',
    "warmup_steps": 'is "warmup" here: a fraction of the steps if below 1, otherwise a number of steps',
    "num_train_epochs": 'is "epochs" here',
    "per_device_train_batch_size": 'is "batch_size" here (examples per device)',
    "gradient_accumulation_steps": 'is "gradient_accumulation" here',
    "gradient_checkpointing": 'is "activation_checkpointing" here',
    "lr_scheduler_type": 'is "scheduler" here',
    "optim": 'is "optimizer" here',
    "logging_steps": 'is "log_every" here',
    "save_steps": 'is "save_every" here',
    "eval_steps": 'is "validate_every" here',
    "save_total_limit": 'is "keep_checkpoints" here',
    "max_length": 'is "chat.max_tokens" here',
    "max_seq_length": 'is "chat.max_tokens" here',
    "load_in_4bit": 'is "model.quantize: nf4" here',
    "bf16": 'is "model.dtype: bfloat16" here',
    "fp16": 'is "model.dtype: float16" here',
    "r": 'is "rank" here',
    "lora_r": 'is "lora.rank" here',
    "lora_alpha": 'is "lora.alpha" here',
    "lora_dropout": 'is "lora.dropout" here',
    "target_modules": 'is "targets" here',
    "use_rslora": 'is "lora.rslora" here',
    "use_dora": 'is "lora.dora" here',
    "init_lora_weights": 'is "lora.init" here',
    "loraplus_lr_ratio": 'is "lora.plus" here',
    "overwrite_output_dir": "is not a key here: use the flag --fresh to start a run folder again",
    "output_dir": "is not a key here: a run is in runs/<name>",
    "group_by_length": "is not a key here: transformers 5 removed it",
    "save_safetensors": "is not a key here: adapters are always saved as safetensors",
}

# Replaces pydantic's messages that name Python types instead of YAML.
_EXPECTED = {
    "tuple_type": "expected a list such as [one, two]",
    "model_type": "expected keys below it (leave the section out for the defaults)",
}


class _Yaml12Loader(yaml.SafeLoader):
    """Reads `1e-4` as a number (in YAML 1.1 it is a string) and refuses duplicate keys."""


_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*(?:\.[\d_]*)?(?:[eE][-+]?\d+)|\d[\d_]*\.[\d_]*|\.\d[\d_]*(?:[eE][-+]?\d+)?)$"),
    list("-+0123456789."),
)


def _mapping_without_duplicates(loader: _Yaml12Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a name", key.start_mark)
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f'the key "{key.value}" is given twice', key.start_mark)
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Yaml12Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file and apply overrides of the form `train.epochs=1`.

    Raises:
        UserError: one message with every error, each with its line or override and its key.
    """
    values, places = read_yaml(path, "name, model and data")
    for override in overrides:
        key = _apply_override(values, override)
        places[key] = f"--set {override}"
        for section in _keys_above(key.split(".")):
            places.setdefault(section, f"--set {override}")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(_describe(fault, path, places) for fault in error.errors())) from None


def read_yaml(path: Path, such_as: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the keys of a YAML file with their values, and the `file:line` of each dotted key.

    Args:
        such_as: examples of keys, for the message if the file has none.

    Raises:
        UserError: if the file is missing, is not YAML, or does not hold keys with values.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file{_nearest_file(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable text file ({error})") from None
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys such as {such_as}, found {type(values).__name__}")
    return values, {key: f"{path}:{line}" for key, line in lines_of_keys(yaml.compose(text, Loader=_Yaml12Loader))}


def parse_yaml(text: str, where: str, loader: type[yaml.SafeLoader] = _Yaml12Loader) -> Any:
    """Return the value of a YAML text. `where` is its place, for errors.

    Raises:
        UserError: if the text is not YAML; names the place and the line.
    """
    try:
        return yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        line_number = text[: error.position].count("\n") + 1
        raise UserError(f"{where}:{line_number}: not YAML: it holds the character {chr(error.character)!r}") from None


def lines_of_keys(node: yaml.Node | None, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, int]]:
    """Yield the dotted name and the line of every key."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*prefix, str(key.value))
            yield ".".join(path), key.start_mark.line + 1
            yield from lines_of_keys(value, path)


def _apply_override(values: dict[str, Any], override: str) -> str:
    """Set one key in place and return its dotted name."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"--set {override}: expected key=value, for example train.epochs=1")
    *sections, last = key.split(".")
    target = values
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise UserError(f'--set {override}: "{section}" is a value, not a section')
    target[last] = parse_yaml(text, f"--set {override}")
    return key


def _keys_above(names: list[str]) -> list[str]:
    """Return a dotted key and its sections, innermost first: "a.b.c", "a.b" and "a"."""
    return [".".join(names[:n]) for n in range(len(names), 0, -1)]


def _describe(fault: Any, path: Path, places: dict[str, str]) -> str:
    # If a value may have several types, pydantic adds the type it tried, which is not part of the key.
    names = [str(part) for part in fault["loc"] if "[" not in str(part)]
    key = ".".join(names)
    # The line of the key, else of the section that lacks it, else only the file.
    where = next((places[known] for known in _keys_above(names) if known in places), str(path))
    if fault["type"] == "extra_forbidden":
        return f"{where}: {key}: unknown key{_nearest_key(names)}"
    if fault["type"] == "missing":
        return f"{where}: {key}: is required"
    if fault["type"] == "value_error":  # the checks across keys, which name the key themselves
        message = fault["msg"].removeprefix("Value error, ")
        return f"{places.get(message.partition(':')[0], where)}: {message}"
    message = _EXPECTED.get(fault["type"], fault["msg"][0].lower() + fault["msg"][1:])
    return f"{where}: {key}: {message}, found {fault['input']!r}"


def _nearest_key(names: list[str]) -> str:
    *sections, name = names
    if name in _RENAMED_KEYS:
        return f": {name} {_RENAMED_KEYS[name]}"
    section: type[BaseModel] = Config
    for part in sections:
        section = section.model_fields[part].annotation  # type: ignore[assignment]
    elsewhere = [full for full, _ in config_fields() if full.rpartition(".")[2] == name]
    near = elsewhere or difflib.get_close_matches(name, section.model_fields, n=1)
    return f' (did you mean "{near[0]}"?)' if near else f"; known here: {', '.join(section.model_fields)}"


def _nearest_file(path: Path) -> str:
    siblings = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    return f" (did you mean {path.parent / near[0]}?)" if near else ""
