"""A guess at a text's language by its script alone: enough to see that a data set is half Chinese, and no more.

Chinese, Japanese and Korean are told by their characters. Other scripts write many languages, so the script is named.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

# A Chinese character says about as much as a Latin word, so an order number of ten letters does not outvote three.
_UNITS = re.compile(
    r"(?P<kana>[\u3040-\u30ff])|(?P<zh>[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f])"
    r"|(?P<ko>[\uac00-\ud7a3\u1100-\u11ff]+)|(?P<Latin>[A-Za-z\u00c0-\u024f\u1e00-\u1eff]+)"
    r"|(?P<Cyrillic>[\u0400-\u052f]+)|(?P<Greek>[\u0370-\u03ff]+)|(?P<Arabic>[\u0600-\u06ff\u0750-\u077f]+)"
    r"|(?P<Hebrew>[\u0590-\u05ff]+)|(?P<Devanagari>[\u0900-\u097f]+)|(?P<Thai>[\u0e00-\u0e7f]+)"
)


def guess_language(texts: Iterable[str]) -> str:
    """ "zh", "ja" or "ko", else the name of the script ("Latin script"); "unknown" where there are no letters."""
    units: Counter[str] = Counter()
    for text in texts:
        units.update(str(found.lastgroup) for found in _UNITS.finditer(text))
    if units["kana"]:  # Japanese is written in both
        units["ja"] = units.pop("kana") + units.pop("zh", 0)
    if not units:
        return "unknown"
    most = max(units, key=lambda name: units[name])
    return most if most in ("zh", "ja", "ko") else f"{most} script"
