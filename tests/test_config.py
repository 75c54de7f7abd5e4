"""The config file: what it accepts, what it refuses, and where the error points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from toolhone.config import Config, config_fields, config_yaml
from toolhone.config_file import load_config
from toolhone.errors import UserError

ROOT = Path(__file__).parent.parent
SHIPPED = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "accelerate")
MINIMAL = """\
name: try
model:
  name: some/model
data:
  train: [train.jsonl]
  test: [test.jsonl]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "try.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


def add(path: Path, text: str) -> Path:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")
    return path


def fault(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_a_minimal_config_takes_the_defaults(file: Path) -> None:
    config = load_config(file)
    assert (config.name, config.model.name, config.data.train) == ("try", "some/model", ("train.jsonl",))
    assert (config.seed, config.lora.rank, config.train.packing) == (42, 16, "prefix_tree")


def test_a_config_is_frozen(file: Path) -> None:
    config = load_config(file)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        config.train.epochs = 2.0


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_has_the_name_of_its_file(path: Path) -> None:
    assert load_config(path).name == path.stem


def test_the_configs_for_a_first_try_are_shipped() -> None:
    assert {"smoke", "cpu"} <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_resolved_config_reads_back_as_itself(path: Path, tmp_path: Path) -> None:
    config = load_config(path, ["lora.targets=[q_proj, v_proj]", "chat.template_kwargs={enable_thinking: false}"])
    resolved = tmp_path / "config.yaml"
    resolved.write_text(config_yaml(config), encoding="utf-8")
    assert load_config(resolved) == config


def test_a_resolved_config_lists_every_key(file: Path) -> None:
    written = yaml.safe_load(config_yaml(load_config(file)))
    for name, _ in config_fields():
        section = written
        for part in name.split("."):
            assert part in section, name
            section = section[part]


def test_there_are_between_40_and_70_keys_and_each_has_a_description() -> None:
    described = {name: field.description for name, field in config_fields()}
    # The 60th is evaluate.base_rows: a base model that answers every row takes a quarter of a short run.
    # The 61st is chat.thinking: one policy for reasoning, which no other key can express.
    # The 62nd is evaluate.base_format: a base model that is asked in a foreign syntax looks worse than it is.
    # 63 to 66 are lora.dora, plus, init and modules_to_save: each changes what is trained or how.
    # 67 to 70 are train.attention, cuda.fused_lora, cuda.workers and evaluate.engine: what a GPU does differently. Each
    # switches a part off that has not run on every GPU.
    assert 40 <= len(described) <= 70
    assert [name for name, text in described.items() if not text or len(text) < 15] == []


# Unknown keys


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian:\n  epochs: 1\n", '7: trian: unknown key (did you mean "train"?)'),
        ("train:\n  epohcs: 1\n", '8: train.epohcs: unknown key (did you mean "epochs"?)'),
        ("train:\n  rank: 8\n", '8: train.rank: unknown key (did you mean "lora.rank"?)'),
        (
            "lora:\n  zzz: 1\n",
            "8: lora.zzz: unknown key; known here: rank, alpha, dropout, targets, rslora, dora, plus, init, "
            "modules_to_save",
        ),
    ],
)
def test_an_unknown_key_is_reported_with_its_line_and_the_nearest_known_key(
    file: Path, text: str, message: str
) -> None:
    assert fault(add(file, text)) == f"{file}:{message}"


@pytest.mark.parametrize(
    ("section", "key", "hint"),
    [
        ("train", "warmup_ratio", '"warmup" here'),
        ("train", "warmup_steps", '"warmup" here'),
        ("train", "num_train_epochs", '"epochs" here'),
        ("train", "per_device_train_batch_size", '"batch_size" here'),
        ("train", "gradient_checkpointing", '"activation_checkpointing" here'),
        ("train", "max_seq_length", '"chat.max_tokens" here'),
        ("train", "overwrite_output_dir", "--fresh"),
        ("train", "group_by_length", "transformers 5 removed it"),
        ("lora", "r", '"rank" here'),
        ("lora", "target_modules", '"targets" here'),
        ("model", "load_in_4bit", "model.quantize: nf4"),
    ],
)
def test_an_argument_of_trainer_is_reported_with_its_key_in_toolhone(
    file: Path, section: str, key: str, hint: str
) -> None:
    message = fault(file, f"{section}.{key}=1")
    assert message.startswith(f"--set {section}.{key}=1: {section}.{key}: unknown key: {key} is ")
    assert hint in message


def test_all_errors_are_reported_at_once(file: Path) -> None:
    lines = fault(add(file, "train:\n  epochs: -1\n  batch_size: 1.5\nlora:\n  rnak: 8\n")).splitlines()
    assert set(lines) == {
        f"{file}:8: train.epochs: input should be greater than 0, found -1",
        f"{file}:9: train.batch_size: input should be a valid integer, got a number with a fractional part, found 1.5",
        f'{file}:11: lora.rnak: unknown key (did you mean "rank"?)',
    }


# Values


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("2E-5", 2e-5), ("1.5e-4", 1.5e-4), ("0.001", 0.001), (".5", 0.5), ("1", 1.0), ("1e0", 1.0)],
)
def test_a_learning_rate_is_a_number_however_it_is_written(file: Path, text: str, value: float) -> None:
    assert load_config(add(file, f"train:\n  learning_rate: {text}\n")).train.learning_rate == value
    assert load_config(file, [f"train.learning_rate={text}"]).train.learning_rate == value


def test_a_text_that_resembles_a_number_stays_a_text(file: Path) -> None:
    for name in ("1e-4b", "e5", "v1.0", "1e"):
        assert load_config(file, [f"name={name}"]).name == name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lora.rank=0", "greater than or equal to 1, found 0"),
        ("lora.plus=0.5", "greater than or equal to 1, found 0.5"),
        ("data.validation=1", "less than 1, found 1"),
        ("train.epochs=.inf", "finite number, found inf"),
        ("train.learning_rate=.nan", "found nan"),
        ("seed=4294967296", "less than 4294967296"),
        ("model.device=gpu", "'auto', 'cpu' or 'cuda', found 'gpu'"),
        ("name=a/b", "found 'a/b'"),
        ("name=..", "found '..'"),
        ("data.train=train.jsonl", "expected a list such as [one, two], found 'train.jsonl'"),
        ("data.train=[]", "at least 1 item"),
        ("data.test=[1]", "valid string, found 1"),
        ("lora.targets=q_proj", "expected a list such as [one, two], found 'q_proj'"),
        ("train.report_to=[mlflow]", "'tensorboard', 'wandb' or 'trackio', found 'mlflow'"),
        ("train=null", "expected keys below it (leave the section out for the defaults), found None"),
    ],
)
def test_a_value_out_of_range_is_reported_with_the_value_found(file: Path, override: str, message: str) -> None:
    key = override.partition("=")[0]
    found = fault(file, override)
    assert found.startswith(f"--set {override}: {key}")
    assert message in found


def test_a_missing_key_is_reported_at_the_line_of_its_section(tmp_path: Path) -> None:
    path = tmp_path / "try.yaml"
    path.write_text("name: try\ndata:\n  test: [a]\n", encoding="utf-8")
    assert fault(path).splitlines() == [f"{path}: model: is required", f"{path}:2: data.train: is required"]


# Keys that must agree


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.test=[a, train.jsonl]"], "data.test: train.jsonl is also in data.train"),
        (
            ["train.packing=none", "model.dtype=float32", "model.attention=flash_attention_2"],
            "model.attention: flash_attention_2 needs a 16-bit model.dtype, found float32",
        ),
        (
            ["train.packing=none", "model.device=cpu", "model.attention=flash_attention_2"],
            "model.attention: flash_attention_2 needs CUDA",
        ),
        (["model.device=cpu", "train.attention=flex"], "train.attention: flex needs a GPU, but model.device is cpu"),
        (["model.device=cpu", "train.optimizer=paged_adamw_8bit"], "train.optimizer: paged_adamw_8bit needs CUDA"),
        (["data.validation=0", "train.select_by=exact_match"], "train.select_by: exact_match needs validation rows"),
        (["train.patience=2"], "train.patience: needs train.select_by: exact_match"),
        (
            ["train.packing=none", "train.answer_weight=0.3"],
            "train.answer_weight: 0.3 needs train.packing: prefix_tree",
        ),
        (["chat.template=model", "chat.tools=names"], "chat.tools: names needs toolhone's template"),
        (["chat.template=model", "chat.tools=signatures"], "chat.tools: signatures needs toolhone's template"),
        (["model.attention=eager", "train.packing=prefix_tree"], "train.packing: prefix_tree needs model.attention"),
        (["data.validation=0", "evaluate.split=validation"], "evaluate.split: there are no validation rows"),
        (["chat.max_tokens=256", "evaluate.max_new_tokens=256"], "evaluate.max_new_tokens: must be less than"),
        (["model.dtype=float16", "model.quantize=nf4"], "model.quantize: nf4 computes in bfloat16 or float32"),
        (["lora.targets=[q_proj, lm_head]"], "lora.targets: lm_head cannot have an adapter"),
        (["lora.dora=true", "lora.init=pissa"], "lora.init: pissa cannot be combined with lora.dora"),
        (["lora.dora=true", "lora.init=pissa_niter_4"], "lora.init: pissa_niter_4 cannot be combined with lora.dora"),
        (["lora.dora=true", "lora.init=mica"], "lora.init: mica cannot be combined with lora.dora"),
        (["lora.init=orthogonal", "lora.rank=3"], "lora.rank: lora.init: orthogonal needs an even rank, found 3"),
        (["lora.init=mica", "lora.plus=4"], "lora.plus: sets the learning rate of B, which lora.init: mica"),
        (["model.quantize=nf4", "lora.init=pissa"], "lora.init: pissa does not work with model.quantize: nf4"),
        (
            ["model.quantize=nf4", "lora.init=orthogonal"],
            "lora.init: orthogonal does not work with model.quantize",
        ),
    ],
)
def test_contradicting_keys_are_refused_at_the_key_to_change(file: Path, overrides: list[str], message: str) -> None:
    assert fault(file, *overrides).startswith(f"--set {overrides[-1]}: {message}")


@pytest.mark.parametrize(
    ("init", "reason"),
    [
        ("eva", "eva needs activations of calibration data, and is not supported"),
        ("corda", "corda needs activations of calibration data, and is not supported"),
        ("lora_ga", "lora_ga needs gradients of calibration data, and is not supported"),
        ("loftq", "loftq quantises the weights by itself, and is not supported"),
        ("pisa", "unknown initialisation 'pisa'"),
        ("pissa_niter_", "unknown initialisation 'pissa_niter_'"),
        ("pissa_niter_N", "unknown initialisation 'pissa_niter_N'"),
    ],
)
def test_an_initialisation_that_is_not_supported_is_refused_with_the_known_ones(
    file: Path, init: str, reason: str
) -> None:
    known = "default, gaussian, orthogonal, mica, olora, pissa, pissa_niter_N"
    assert fault(file, f"lora.init={init}") == f"--set lora.init={init}: lora.init: {reason}; use one of {known}"


def test_contradicting_keys_are_reported_with_their_line(file: Path) -> None:
    message = fault(add(file, "chat:\n  max_tokens: 64\nevaluate:\n  max_new_tokens: 64\n"))
    assert message == f"{file}:10: evaluate.max_new_tokens: must be less than chat.max_tokens"


@pytest.mark.parametrize(
    ("broken", "remedies"),
    [
        (["train.packing=none", "train.answer_weight=0.3"], ["train.answer_weight=1", "train.packing=rows"]),
        (["model.attention=eager"], ["model.attention=sdpa", "train.packing=rows"]),
    ],
)
def test_each_remedy_of_a_contradiction_is_named_and_resolves_it(
    file: Path, broken: list[str], remedies: list[str]
) -> None:
    message = fault(file, *broken)
    for remedy in remedies:
        assert remedy.replace("=", ": ") in message
        load_config(file, [*broken, remedy])


@pytest.mark.parametrize(
    ("overrides", "broken_by"),
    [
        (["chat.max_tokens=257", "evaluate.max_new_tokens=256"], "chat.max_tokens=256"),
        (["train.packing=none", "model.attention=eager"], "train.packing=prefix_tree"),
        (["evaluate.split=validation", "data.validation=0.01"], "data.validation=0"),
        (["model.quantize=nf4", "model.dtype=bfloat16"], "model.dtype=float16"),
        (
            ["train.packing=none", "model.attention=flash_attention_2", "model.dtype=bfloat16"],
            "model.dtype=float32",
        ),
    ],
)
def test_values_at_the_limit_are_accepted_and_values_past_it_refused(
    file: Path, overrides: list[str], broken_by: str
) -> None:
    accepted = load_config(file, overrides).model_dump()
    for key, _, value in (override.partition("=") for override in overrides):
        section, name = key.split(".")
        assert str(accepted[section][name]) == value
    with pytest.raises(UserError):
        load_config(file, [*overrides, broken_by])


# Overrides


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("train.epochs=3", lambda config: config.train.epochs, 3.0),
        ("seed=7", lambda config: config.seed, 7),
        ("model.revision=main", lambda config: config.model.revision, "main"),
        ("data.train=[a.jsonl, b.jsonl]", lambda config: config.data.train, ("a.jsonl", "b.jsonl")),
        ("data.group_by=null", lambda config: config.data.group_by, None),
        ("data.group_by=", lambda config: config.data.group_by, None),
        ("lora.targets=all-linear", lambda config: config.lora.targets, "all-linear"),
        ("lora.rslora=true", lambda config: config.lora.rslora, True),
        ("lora.init=pissa_niter_16", lambda config: config.lora.init, "pissa_niter_16"),
        ("lora.modules_to_save=[lm_head]", lambda config: config.lora.modules_to_save, ("lm_head",)),
        ("chat.template_kwargs.thinking=false", lambda config: config.chat.template_kwargs, {"thinking": False}),
        ("data.tools=a=b.json", lambda config: config.data.tools, "a=b.json"),
    ],
)
def test_an_override_sets_one_key(file: Path, override: str, read: Any, value: Any) -> None:
    assert read(load_config(file, [override])) == value


def test_an_override_replaces_the_file_and_the_last_override_wins(file: Path) -> None:
    add(file, "train:\n  epochs: 5\n  batch_size: 3\n")
    config = load_config(file, ["train.epochs=1", "train.epochs=2"])
    assert (config.train.epochs, config.train.batch_size) == (2.0, 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "expected key=value, for example train.epochs=1"),
        ("=1", "expected key=value, for example train.epochs=1"),
        ("name.first=1", '"name" is a value, not a section'),
        ("data.train=[a", "not YAML: expected ',' or ']'"),
        ("trian.epochs=1", 'trian: unknown key (did you mean "train"?)'),
        ("epochs=1", 'epochs: unknown key (did you mean "train.epochs"?)'),
    ],
)
def test_a_bad_override_is_quoted_in_the_error(file: Path, override: str, message: str) -> None:
    found = fault(file, override)
    assert found.startswith(f"--set {override}:")
    assert message in found


# Files


def test_a_key_given_twice_is_refused_at_the_second_line(file: Path) -> None:
    assert fault(add(file, "seed: 1\nseed: 2\n")) == f'{file}:8: not YAML: the key "seed" is given twice'
    file.write_text(MINIMAL.replace("  test:", "  train: [b]\n  test:"), encoding="utf-8")
    assert fault(file) == f'{file}:6: not YAML: the key "train" is given twice'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: try\nmodel: [1\n", ":3: not YAML: expected ',' or ']'"),
        ("name: try\n\tseed: 1\n", ":2: not YAML:"),
        ("name: try\n? [a, b]\n: c\n", ":2: not YAML: a key must be a name"),
        ("name: try\nseed: \0\n", ":2: not YAML: it holds the character '\\x00'"),
        ("name: !!python/name:os.system\n", ":1: not YAML: could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", ":2: not YAML:"),
        ("- name\n", ": expected keys such as name, model and data, found list"),
        ("", ": expected keys such as name, model and data, found NoneType"),
    ],
)
def test_a_file_that_is_not_a_config_is_reported_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "try.yaml"
    path.write_text(text, encoding="utf-8")
    assert fault(path).startswith(f"{path}{message}")


def test_a_missing_file_is_reported_with_the_nearest_file_name(file: Path) -> None:
    missing = file.with_name("tri.yaml")
    assert fault(missing) == f"{missing}: no such config file (did you mean {file}?)"
    assert fault(file.parent / "none" / "x.yaml").endswith("no such config file")


def test_a_folder_or_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    assert fault(tmp_path).startswith(f"{tmp_path}: not a readable text file")
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: é".encode("latin-1"))
    assert fault(path).startswith(f"{path}: not a readable text file")


def test_defaults_pass_their_own_bounds() -> None:
    values = {"name": "x", "model": {"name": "m"}, "data": {"train": ["a"], "test": ["b"]}}
    config = Config.model_validate(values)
    assert Config.model_validate(config.model_dump()) == config
