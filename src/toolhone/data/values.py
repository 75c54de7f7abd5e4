"""Find argument values in calls and in the texts that they come from, and find codes and numbers in a text.

A value occurs in a text only as a whole: `ORD-20` does not occur in `ORD-204`, nor the number 3 in 13.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from toolhone.records import Conversation

# A number with a point or commas, or ASCII letters and digits, joined by hyphens.
_CODE = re.compile(r"\d+(?:[.,]\d+)+(?![A-Za-z0-9])|[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*")
_ADDRESS = re.compile(r"https?://[^\s，。）)]+|[\w.+-]+@[\w-]+\.[\w.]+")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str | int | float]]:
    """Yield every text and number inside a value, with its path. Booleans and nulls are left out, because texts express
    them in many ways."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from leaves(entry, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from leaves(entry, f"{path}[{index}]")
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield path, value


def letters_and_digits(text: str) -> str:
    """Return the letters and digits of a text in lower case."""
    return re.sub(r"[\W_]+", "", text).casefold()


def argument_values(row: Conversation) -> set[str | int | float]:
    """Return every text and number in the arguments of a row's gold calls."""
    arguments = [call.arguments for message in row.messages for call in message.tool_calls]
    if row.expected is not None:
        arguments += [{name: accepted[0] for name, accepted in call.arguments.items()} for call in row.expected.calls]
    return {value for values in arguments for _, value in leaves(values)}


def occurs_in(value: str | int | float, text: str, *, ignore_case: bool = False) -> bool:
    """Return whether the whole value occurs in a text. A number may have thousands separators, and 3.0 may be 3."""
    if ignore_case:
        text = text.casefold()
    return any(_whole(form.casefold() if ignore_case else form, text) for form in _forms(value))


def _forms(value: str | int | float) -> set[str]:
    if isinstance(value, str):
        return {value.strip()}
    forms = {str(value), f"{value:,}"}
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        forms |= {str(int(value)), f"{int(value):,}"}
    return forms


def _whole(form: str, text: str) -> bool:
    if not form:
        return True
    # Chinese has no spaces, so only an ASCII letter or digit at an end of the value can be part of a longer word.
    before = r"(?<![A-Za-z0-9])" if re.match(r"[A-Za-z0-9]", form) else ""
    after = r"(?![A-Za-z0-9])" if re.search(r"[A-Za-z0-9]$", form) else ""
    if re.fullmatch(r"[\d.,]+", form):
        before, after = r"(?<![A-Za-z0-9])(?<!\d[.,])", r"(?![A-Za-z0-9])(?![.,]\d)"
    return re.search(before + re.escape(form) + after, text) is not None


def codes(text: str) -> set[str]:
    """Return everything in a text that looks like a code, a number or an address."""
    found = {match[0] for match in _CODE.finditer(text) if any(c.isdigit() for c in match[0])}
    return found | {match[0].rstrip(".,") for match in _ADDRESS.finditer(text)}


_DIGITS = re.compile(r"\d+(?:[,，]\d{3})*(?:\.\d+)?")
_ENGLISH_UNITS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_ENGLISH_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_ENGLISH_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000, "dozen": 12}
_ENGLISH_OTHERS = {
    "half": 0.5, "once": 1, "single": 1, "twice": 2, "double": 2, "couple": 2, "pair": 2, "both": 2, "triple": 3,
    "thrice": 3, "quarter": 0.25, "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6,
    "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10,
}  # fmt: skip
_ENGLISH = re.compile(
    r"(?<![a-z])(?:"
    + "|".join(sorted([*_ENGLISH_UNITS, *_ENGLISH_TENS, *_ENGLISH_SCALES, *_ENGLISH_OTHERS], key=len, reverse=True))
    + r")(?![a-rt-z])"
)
_CHINESE_DIGITS = {character: n for n, character in enumerate("零一二三四五六七八九")} | {
    "〇": 0, "两": 2, "兩": 2, "俩": 2, "倆": 2, "双": 2, "雙": 2, "仨": 3, "壹": 1, "贰": 2, "貳": 2, "叁": 3, "參": 3,
    "肆": 4, "伍": 5, "陆": 6, "陸": 6, "柒": 7, "捌": 8, "玖": 9,
}  # fmt: skip
_CHINESE_SCALES = {
    "十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1_000, "仟": 1_000, "万": 10_000, "萬": 10_000, "亿": 100_000_000,
    "億": 100_000_000,
}  # fmt: skip
_CHINESE = re.compile(f"[{''.join([*_CHINESE_DIGITS, *_CHINESE_SCALES])}半]+打?")


def numbers_in(text: str) -> set[int | float]:
    """Return all numbers in a text, written in digits or in English or Chinese words, without signs. Integers are
    exact; other numbers are rounded to six places."""
    plain = (re.sub("[,，]", "", match) for match in _DIGITS.findall(text) if len(match) < 300)
    found: set[int | float] = {round(float(match), 6) if "." in match else int(match) for match in plain}
    found |= set(_english(text.lower()))
    for match in _CHINESE.findall(text):
        found |= set(_chinese(match))
    return found


def _english(text: str) -> Iterator[float]:
    """Yield the number of each word, and of each sequence of number words ("two hundred and five")."""
    total, current, end = 0.0, 0.0, -1
    for match in _ENGLISH.finditer(text):
        word = match.group()
        if end < 0 or text[end : match.start()].strip(" -,") not in ("", "and", "a"):
            total = current = 0.0
        end = match.end()
        if word in _ENGLISH_SCALES:
            scale = _ENGLISH_SCALES[word]
            yield scale
            current = (current or 1) * scale
            if scale >= 1_000:
                total, current = total + current, 0.0
        else:
            value = _ENGLISH_UNITS.get(word, _ENGLISH_TENS.get(word, _ENGLISH_OTHERS.get(word, 0)))
            yield value
            current += value
        yield total + current


def _chinese(run: str) -> Iterator[float]:
    """Yield the numbers that numerals can mean: by place (二百零五), digit by digit (二零二四), or in dozens."""
    if run.endswith("打"):
        for value in _chinese(run[:-1]):
            yield from (value, 12 * value)
        return
    if all(character in _CHINESE_DIGITS for character in run):
        for character in run:
            yield float(_CHINESE_DIGITS[character])
        yield int("".join(str(_CHINESE_DIGITS[character]) for character in run[:300]))
        return
    total = section = digit = 0
    for character in run.replace("半", ""):
        if character in _CHINESE_DIGITS:
            digit = _CHINESE_DIGITS[character]
        elif (scale := _CHINESE_SCALES[character]) >= 10_000:
            total, section, digit = (total + section + digit) * scale, 0, 0
        else:
            section, digit = section + (digit or 1) * scale, 0
    yield float(min(total + section + digit, 10**300))
    if digit and len(run) > 1 and _CHINESE_SCALES.get(run[-2], 0) >= 100:  # 一万二 is 12,000
        yield float(min(total + section + digit * _CHINESE_SCALES[run[-2]] // 10, 10**300))
    if "半" in run:
        yield 0.5
