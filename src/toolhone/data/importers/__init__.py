"""The table of importers: the row formats that toolhone reads, in the order in which a row is compared with them."""

from __future__ import annotations

from toolhone.data.importers import (
    ai_sdk,
    anthropic,
    batch,
    bedrock,
    bfcl,
    gemini,
    glaive,
    helicone,
    hermes,
    langchain,
    langfuse,
    langsmith,
    litellm,
    llamafactory,
    logs,
    openai,
    openpipe,
    otel,
    swift,
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
    Importer("batch", batch.looks_like, join=batch.Pairs),
    Importer("helicone", helicone.looks_like, rewrite=helicone.rewrite),
    Importer("openpipe", openpipe.looks_like, rewrite=openpipe.rewrite),
    Importer("ms-swift", swift.looks_like, rewrite=swift.rewrite),
    Importer("ai_sdk", ai_sdk.looks_like, rewrite=ai_sdk.rewrite, to_openai=True),
    Importer("bedrock", bedrock.looks_like, rewrite=bedrock.rewrite, to_openai=True),
    Importer("anthropic", anthropic.looks_like, rewrite=anthropic.rewrite, to_openai=True),
    Importer("gemini", gemini.looks_like, rewrite=gemini.rewrite, to_openai=True),
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
