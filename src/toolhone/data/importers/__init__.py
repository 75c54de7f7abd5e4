"""The table of importers: the row formats that toolhone reads, in the order in which a row is compared with them."""

from __future__ import annotations

from toolhone.data.importers import (
    ai_sdk,
    anthropic,
    bfcl,
    gemini,
    glaive,
    hermes,
    langchain,
    langfuse,
    langsmith,
    litellm,
    llamafactory,
    logs,
    openai,
    otel,
    toolace,
    xlam,
)
from toolhone.data.importers.importer import Importer

_TABLE = (
    Importer("langsmith", langsmith.looks_like, join=langsmith.join),
    Importer("langfuse", langfuse.looks_like, join=langfuse.join),
    Importer("otel", otel.looks_like, rewrite=otel.rewrite),
    Importer("langchain", langchain.looks_like, rewrite=langchain.rewrite),
    Importer("litellm", litellm.looks_like, rewrite=litellm.rewrite),
    Importer("ai_sdk", ai_sdk.looks_like, rewrite=ai_sdk.rewrite),
    Importer("anthropic", anthropic.looks_like, rewrite=anthropic.rewrite),
    Importer("gemini", gemini.looks_like, rewrite=gemini.rewrite),
    Importer("logs", logs.looks_like, logs.read, fold=logs.Fold),
    Importer("openai", openai.looks_like, openai.read),
    Importer("hermes", hermes.looks_like, hermes.read),
    Importer("glaive", glaive.looks_like, glaive.read),
    Importer("toolace", toolace.looks_like, toolace.read),
    Importer("llamafactory", llamafactory.looks_like, llamafactory.read),
    Importer("xlam", xlam.looks_like, xlam.read),
    Importer("bfcl", bfcl.looks_like, bfcl.read, read_folder=bfcl.read_bfcl_folder),
)
IMPORTERS = {importer.name: importer for importer in _TABLE}
