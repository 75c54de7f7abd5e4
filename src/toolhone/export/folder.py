"""Writes an export: a folder that serving engines load, with everything that a request to the tuned model needs.

In: a finished run. Out: the adapter alone or merged weights, and beside them the tokenizer with its chat template,
generation_config.json with the stop ids of the chat format, a model card, launch files, the base model's licence files,
and `toolhone.json`, which records what the export is made from. The folder appears only once it is complete.
"""

from __future__ import annotations

import contextlib
import fnmatch
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from rich.console import Console

from toolhone.chat.serving import Serving, Target, serving
from toolhone.engines.llama_cpp_parser import unread_turn
from toolhone.errors import UserError
from toolhone.evaluate.base_rows import sample_turns
from toolhone.evaluate.score import scored_examples
from toolhone.export.gguf import converter, export_gguf, modelfile
from toolhone.export.hub import FACTS
from toolhone.export.launch import HERE, write_launch_files
from toolhone.export.merge import DTYPES, MergedType, Proof, merge_adapter, prove_merge
from toolhone.export.response_template import response_template, unread_turns
from toolhone.hub import reach_hub_or_cache
from toolhone.jsonl import read_json, write_json, write_text
from toolhone.pretrained import load_model_config
from toolhone.report.exports import ExportedModel, unscored_page, write_card
from toolhone.report.facts import RunFiles, read_run
from toolhone.report.report import build_page
from toolhone.run_folder import ADAPTER_FILES, RunFolder, sha256_of, versions
from toolhone.tuned import TunedModel

LICENCE_FILES = ("license*", "licence*", "notice*", "*terms*", "use_policy*", "usage_policy*")
"""Patterns of the names of licence files, in upper or lower case."""

_TOKENIZER_FILES = ("*.model",)
"""Files of a base model beside its tokenizer.json. llama.cpp's converter prefers them."""

_MODEL_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""Files of a base model that engines need beside merged weights."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A finished export. `proof` is None for an adapter alone. `licence` has the keys of the base model's licence in
    the card; empty if it is unknown. `quantise` is the command that still gives the GGUF file its type; "" if none."""

    folder: Path
    facts: dict[str, Any]
    proof: Proof | None
    ways: list[Serving]
    licence: Mapping[str, Any]
    quantise: str = ""


class Source:
    """What a run's export is made from.

    Attributes:
        tuned: the run's tuned model.
        name: the base model: its name on the hub, or the absolute path of its folder.
        revision: the commit of a model on the hub; None for a folder.
    """

    def __init__(self, tuned: TunedModel) -> None:
        model = tuned.config.model
        local = Path(model.name)
        self.tuned = tuned
        self.is_local = local.is_dir()
        self.name = str(local.resolve()) if self.is_local else model.name
        recorded = (tuned.run.inputs() or {}).get("model", {}).get("commit")
        self.revision = None if self.is_local else recorded or model.revision

    @cached_property
    def base_folder(self) -> Path:
        """The folder with the base model's small files: its own, or its snapshot in the hub's cache."""
        if self.is_local:
            return Path(self.name)
        reach_hub_or_cache(self.name, self.revision)
        any_case = ["".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in one) for one in LICENCE_FILES]
        wanted = ["config.json", "generation_config.json", "README.md", *self.copied, *any_case]
        try:
            return Path(snapshot_download(self.name, revision=self.revision, allow_patterns=wanted))
        except (OSError, HfHubHTTPError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"model.name: cannot download the licence files of {self.name}: {reason}") from None

    @property
    def copied(self) -> tuple[str, ...]:
        """Patterns of the base model's files that a merged model needs, besides its weights and settings."""
        code = ("*.py",) if self.tuned.config.model.trust_remote_code else ()
        return (*_TOKENIZER_FILES, *_MODEL_FILES, *code)

    @cached_property
    def licence_files(self) -> list[Path]:
        """The licence files in the base model's folder."""
        files = [path for path in self.base_folder.iterdir() if path.is_file() and path.suffix != ".py"]
        return sorted(path for path in files if any(fnmatch.fnmatch(path.name.lower(), one) for one in LICENCE_FILES))

    @cached_property
    def licence(self) -> dict[str, Any]:
        """The keys of the licence in the base model's own card; empty if it has no card, or the card no licence."""
        card = self.base_folder / "README.md"
        if not card.is_file():
            return {}
        found = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict()
        return {key: found[key] for key in ("license", "license_name", "license_link") if found.get(key)}

    @cached_property
    def model_config(self) -> Any:
        return load_model_config(self.tuned.config.model)


def export_run(
    tuned: TunedModel,
    out: Path,
    console: Console,
    *,
    merge: MergedType | None = None,
    prompts: int = 20,
    gguf: str | None = None,
    ollama: bool = False,
) -> Exported:
    """Write an export of a run's tuned model.

    Args:
        out: the folder. An earlier export of the same run there is replaced.
        merge: the number type of merged weights; None: the adapter alone.
        prompts: the number of prompts on which the merge is proven.
        gguf: the type of the weights in a GGUF file, such as "q8_0"; None: no such file.
        ollama: write a Modelfile for the GGUF file, which must be of merged weights.

    Raises:
        UserError: if the folder has something else, or the run cannot be exported.
        NotEqualError: if merged weights in float32 do not answer as base and adapter do. Then nothing is written.
    """
    run, renderer = tuned.run, tuned.renderer
    source = Source(tuned)
    llama_cpp = converter(console) if gguf is not None else None
    is_read = unread_turn(renderer) is None if gguf is not None and find_spec("xllamacpp") else None
    with new_folder(out, tuned.config.name) as folder:
        template, examples = response_template(renderer), scored_examples(run)
        settings = _write_adapter(source, folder) if merge is None else None
        if merge is not None:
            merge_adapter(tuned.config.model, run.adapter, merge, folder)
        _write_chat(source, folder, template, merged=merge is not None)
        proof = None
        if merge is not None:
            asked = sample_turns(examples, prompts)
            limit = tuned.config.evaluate.max_new_tokens
            proof = prove_merge(tuned.config.model, run.adapter, folder, merge, renderer, asked, limit, console)
        # After the proof, because transformers warns of it when it loads the folder.
        write_json(folder / "generation_config.json", generation_config(source))
        target = _target(source, settings, DTYPES[merge] if merge else None, has_template=template is not None)
        written = None
        if gguf is not None and llama_cpp is not None:
            console.print(f"writing {gguf} weights as GGUF ...")
            log = out.parent / f"{out.name}-gguf.log"
            written = export_gguf(
                folder, tuned.config.name, gguf, renderer, llama_cpp=llama_cpp, base=source.base_folder, log=log
            )
            name = f"{HERE}/{written.path.name}"
            target = replace(
                target,
                read_by_llama_cpp=is_read,
                gguf=name if merge else target.gguf,
                lora_gguf=target.lora_gguf if merge else name,
            )
            if ollama:
                limit = tuned.config.evaluate.max_new_tokens
                ctx = tuned.config.chat.max_tokens + limit
                stops = renderer.tokenizer.convert_ids_to_tokens(target.stop_ids)
                text = modelfile(written.path.name, stops, ctx=ctx, max_tokens=limit)
                write_text(folder / "Modelfile", text)
        ways = serving(renderer.format, target)
        write_launch_files(folder, ways)
        for path in source.licence_files:
            shutil.copy(path, folder)
        base = source.name if merge is None else tuned.config.model.name
        _write_card(run, folder, ExportedModel(base, ways, DTYPES[merge] if merge else None, source.licence))
        facts = _facts(source, folder, target, proof)
        facts["unread_turns"] = unread_turns(template, renderer, examples) if template is not None else None
        if written is not None:
            facts["gguf"] = {"file": written.path.name, "type": written.dtype, "sha256": sha256_of(written.path)}
        write_json(folder / FACTS, facts)
    quantise = written.command.replace(str(folder), str(out)) if written is not None and written.command else ""
    return Exported(out, facts, proof, ways, source.licence, quantise)


def export_gguf_alone(tuned: TunedModel, out: Path, dtype: str, console: Console) -> Path:
    """Write only a GGUF file of a run's merged model, and what it is made from, into a folder. Returns the file.

    Raises:
        UserError: if the converter is missing or fails, or the folder has something else.
    """
    source, llama_cpp = Source(tuned), converter(console)
    with new_folder(out, tuned.config.name) as folder:
        merged = folder / "merged"
        merge_adapter(tuned.config.model, tuned.run.adapter, "f32", merged)
        _write_chat(source, merged, None, merged=True)
        log = out.parent / f"{out.name}.log"
        written = export_gguf(
            merged, tuned.config.name, dtype, tuned.renderer, llama_cpp=llama_cpp, base=source.base_folder, log=log
        )
        path = written.path.rename(folder / written.path.name)
        shutil.rmtree(merged)
        target = _target(source, None, DTYPES["f32"], has_template=False)
        gguf = {"file": path.name, "type": written.dtype, "sha256": sha256_of(path)}
        write_json(folder / FACTS, {**_facts(source, folder, target, None), "gguf": gguf})
    return out / path.name


def exported_ggufs(tuned: TunedModel) -> dict[Path, str]:
    """Return the GGUF files of the run's merged model in RUN/export, with the type of their weights. Files of another
    adapter or chat template are left out."""
    current = sha256_of(tuned.run.adapter / ADAPTER_FILES[1]), tuned.renderer.template_hash()
    found = {}
    for path in sorted((tuned.run.path / "export").glob(f"*/{FACTS}")):
        facts = read_json(path, "`toolhone export` writes it")
        made_from = facts["adapter_sha256"], facts["template_hash"]
        if facts["kind"] == "merged" and facts.get("gguf") and made_from == current:
            found[path.parent / facts["gguf"]["file"]] = str(facts["gguf"]["type"])
    return {path: dtype for path, dtype in found.items() if path.is_file()}


@contextlib.contextmanager
def new_folder(out: Path, run_name: str) -> Iterator[Path]:
    """Yield a new folder beside `out`. It takes the place of `out` when the block ends without an error.

    Raises:
        UserError: if `out` exists and is not an export of the run.
    """
    check_replaceable(out, run_name)
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield made
        made.chmod(0o755)
        for path in made.rglob("*"):  # some libraries write files that only their owner can read
            path.chmod(path.stat().st_mode | 0o044)
        check_replaceable(out, run_name)  # it may have changed meanwhile
        if out.exists():
            old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.old."))
            out.rename(old / out.name)
            try:
                made.rename(out)
            except BaseException:
                (old / out.name).rename(out)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            made.rename(out)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def check_replaceable(out: Path, run_name: str) -> None:
    """Check that a folder can be written: it does not exist, is empty, or is an export of this run.

    Raises:
        UserError: if it has anything else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / FACTS).is_file():
        raise UserError(f"--out {out}: exists and is not an export; choose another folder")
    found = read_json(out / FACTS, "`toolhone export` writes it")
    other = found.get("run") if isinstance(found, dict) else None
    if other != run_name:
        raise UserError(f"--out {out}: is an export of the run {other}, not of {run_name}; choose another folder")


def _write_adapter(source: Source, folder: Path) -> dict[str, Any]:
    """Copy the adapter, with a base model that can be found from anywhere. Returns its settings."""
    adapter = source.tuned.run.adapter
    shutil.copy(adapter / ADAPTER_FILES[1], folder)
    settings: dict[str, Any] = read_json(adapter / ADAPTER_FILES[0], "training writes it")
    settings |= {"base_model_name_or_path": source.name, "revision": source.revision, "inference_mode": True}
    write_json(folder / ADAPTER_FILES[0], settings)
    return settings


def _write_chat(source: Source, folder: Path, template: dict[str, Any] | None, *, merged: bool) -> None:
    """Write the tokenizer with its chat template and response template, and where generation stops."""
    renderer = source.tuned.renderer
    tokenizer = renderer.tokenizer
    tokenizer.chat_template = renderer.template
    tokenizer.response_template = template
    tokenizer.save_pretrained(folder)
    for pattern in source.copied if merged else _TOKENIZER_FILES:
        for path in source.base_folder.glob(pattern):
            if not (folder / path.name).exists():
                shutil.copy(path, folder)
    if merged:
        _set_ends(folder / "config.json", sorted(renderer.stop_ids()))


def generation_config(source: Source) -> dict[str, Any]:
    """Return the generation settings of an export: greedy, with the stop ids of the chat format.

    Every figure of a run is of greedy answers. The base model's sampling parameters (temperature, top_p, a repetition
    penalty) would change answers without a notice, so none is taken over. `do_sample: false` makes transformers greedy.
    vLLM and SGLang do not read that key and sample at temperature 1 by default, so the temperature is 0 too, although
    transformers warns that it ignores it. A request may still send its own.
    """
    tokenizer = source.tuned.renderer.tokenizer
    path = source.base_folder / "generation_config.json"
    own = read_json(path, "") if path.is_file() else {}
    text = source.model_config.get_text_config()
    found: dict[str, Any] = {}
    for key in ("bos_token_id", "pad_token_id"):
        ids = (own.get(key), getattr(text, key, None), getattr(tokenizer, key, None))
        known = [id_ for id_ in ids if id_ is not None]
        if known:
            found[key] = known[0]
    stops = sorted(source.tuned.renderer.stop_ids())
    return {**found, "eos_token_id": stops, "do_sample": False, "temperature": 0.0}


def _write_card(run: RunFolder, folder: Path, export: ExportedModel) -> None:
    if run.metrics.is_file():
        files = read_run(run.path)
        write_card(files, build_page(files), folder, export)
    else:
        config = run.config.read_text(encoding="utf-8")
        files = RunFiles(run.path.resolve().name, {"models": {}}, {}, manifest=run.read_manifest(), config=config)
        write_card(files, unscored_page(files), folder, export)


def _set_ends(path: Path, stops: list[int]) -> None:
    """Set the stop ids in a merged model's config.json too: some engines read only that file."""
    config: dict[str, Any] = read_json(path, "")
    config["eos_token_id"] = stops
    for part in config.values():
        if isinstance(part, dict) and "eos_token_id" in part:
            part["eos_token_id"] = stops
    write_json(path, config)


def _target(source: Source, settings: Mapping[str, Any] | None, merged: str | None, *, has_template: bool) -> Target:
    tuned = source.tuned
    text = source.model_config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    window = getattr(text, "sliding_window", None)
    return Target(
        model=HERE if merged else source.name,
        folder=HERE,
        adapter=settings,
        revision=None if merged else source.revision,
        name=tuned.config.name,
        stop_ids=tuple(sorted(tuned.renderer.stop_ids())),
        max_tokens=tuned.config.chat.max_tokens,
        trust_remote_code=tuned.config.model.trust_remote_code,
        dtype=merged or tuned.hardware.dtype_name,
        is_export=True,
        has_response_template=has_template,
        has_window=window is not None and (kinds is None or "sliding_attention" in kinds),
    )


def _facts(source: Source, folder: Path, target: Target, proof: Proof | None) -> dict[str, Any]:
    """Return what an export is made from, as in toolhone.json."""
    tuned, manifest = source.tuned, source.tuned.run.read_manifest()
    stops = {id_: tuned.renderer.tokenizer.convert_ids_to_tokens(id_) for id_ in target.stop_ids}
    return {
        "version": 1,
        "run": tuned.config.name,
        "kind": "adapter" if target.adapter is not None else "merged",
        "dtype": target.dtype,
        "base": {"name": source.name, "revision": source.revision, "quantize": tuned.config.model.quantize},
        "adapter_sha256": sha256_of(tuned.run.adapter / ADAPTER_FILES[1]),
        "chat": {**manifest["chat"], "tools": tuned.config.chat.tools, "thinking": tuned.config.chat.thinking},
        "template_hash": tuned.renderer.template_hash(),
        "stops": {"ids": list(stops), "tokens": list(stops.values())},
        "data": manifest.get("data"),
        "proof": None if proof is None else asdict(proof),
        "versions": versions(),
    }
