"""The table of importers: the row formats that toolhone reads, in the order in which a row is compared with them."""

from __future__ import annotations

from toolhone.data.importers import bfcl, glaive, hermes, llamafactory, logs, openai, toolace, xlam
from toolhone.data.importers.importer import Importer

IMPORTERS: dict[str, Importer] = {
    each.IMPORTER.name: each.IMPORTER for each in (logs, openai, hermes, glaive, toolace, llamafactory, xlam, bfcl)
}
